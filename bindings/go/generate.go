package larder

// #include <larder.h>
import "C"

import (
	"context"
	"iter"
	"runtime"
)

// NoToken is a piece's token when there is none.
const NoToken uint32 = C.LARDER_NO_TOKEN

// Finish tells why an answer is complete.
type Finish uint32

// The reasons. 0: it goes on.
const (
	FinishStop       Finish = C.LARDER_FINISH_STOP       // a stop token or a stop text
	FinishLength     Finish = C.LARDER_FINISH_LENGTH     // MaxNewTokens, or the sequence is full
	FinishCancelled  Finish = C.LARDER_FINISH_CANCELLED  // cancelled
	FinishConstraint Finish = C.LARDER_FINISH_CONSTRAINT // the constraint is complete
)

// String returns the reason in a word.
func (f Finish) String() string {
	switch f {
	case 0:
		return "none"
	case FinishStop:
		return "stop"
	case FinishLength:
		return "length"
	case FinishCancelled:
		return "cancelled"
	case FinishConstraint:
		return "constraint"
	}
	return "unknown"
}

// TokenLogprob is one of the most likely tokens of a position.
type TokenLogprob struct {
	Token   uint32
	Logprob float32 // Natural logarithm of the probability.
}

// Piece is one step of one answer: a token, or its end.
type Piece struct {
	Answer  int     // 0 .. Request.Answers - 1
	Token   uint32  // NoToken at the end of an answer, unless a stop token ended it.
	Text    string  // Whole characters; may be empty while one is incomplete or a stop is pending.
	Logprob float32 // Natural logarithm of the token's probability before penalties and temperature.
	// Top are the Sampling.Logprobs most likely tokens, most likely first.
	Top []TokenLogprob
	// Finish is not 0 in the last piece of an answer.
	Finish       Finish
	PromptTokens int
	CachedTokens int // Of PromptTokens, those that the prefix cache had.
}

// Generate submits the request when the loop over the result begins, and yields its answers as they are computed. With
// several answers their pieces come mixed.
//
// The request is cancelled when ctx is, which yields ctx's error, and when the loop is left early. An error with an
// answer that has failed comes with its number in the piece, and the others go on; any other error is the last thing
// yielded. A slow loop holds up nobody else: what it has not taken yet waits for it.
func (e *Engine) Generate(ctx context.Context, request Request) iter.Seq2[Piece, error] {
	return func(yield func(Piece, error) bool) {
		defer runtime.KeepAlive(e)
		if err := e.core.generate(ctx, &request, yield); err != nil {
			yield(Piece{}, err)
		}
	}
}

// generate returns an error that has not been yielded and ends everything.
func (c *core) generate(
	ctx context.Context, request *Request, yield func(Piece, error) bool,
) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s, err := c.loop.add(max(1, int(request.Answers)))
	if err != nil {
		return err
	}
	handle, err := c.submit(request, s.id)
	if err != nil {
		c.loop.remove(s)
		return err
	}
	c.loop.submitted(s)
	// One that has ended by itself stays as it is.
	defer c.cancel(handle)
	defer context.AfterFunc(ctx, func() { c.cancel(handle) })()
	return s.read(ctx, yield)
}

func (c *core) submit(request *Request, user uint64) (handle C.larder_request, err error) {
	var pinner runtime.Pinner
	defer pinner.Unpin()
	options, err := request.options(&pinner)
	if err != nil {
		return 0, err
	}
	options.user = C.uint64_t(user)
	err = c.with(func(engine *C.larder_engine) status {
		return C.larder_request_submit(engine, &options, &handle)
	})
	return handle, err
}

// cancel fails only where there is nothing left to cancel.
func (c *core) cancel(handle C.larder_request) {
	_ = c.with(func(engine *C.larder_engine) status { return C.larder_request_cancel(engine, handle) })
}

// read yields what comes until it is over, or until yield has enough.
func (s *stream) read(ctx context.Context, yield func(Piece, error) bool) error {
	var entries []entry
	for {
		var isOver bool
		var failure error
		entries, isOver, failure = s.take(entries)
		for _, entry := range entries {
			if err := ctx.Err(); err != nil {
				return err
			}
			if !yield(entry.piece, entry.err) {
				return nil
			}
		}
		if isOver {
			return failure
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.ready:
		}
	}
}
