package larder

// #include <larder.h>
import "C"

import (
	"sync"
	"unsafe"
)

// entry is what one event of the engine becomes.
type entry struct {
	piece Piece
	err   error
}

// stream hands one request's events from the loop to whoever ranges over them. It takes any number: neither does a slow
// reader hold up the loop, nor is anything lost.
type stream struct {
	id     uint64
	counts bool // in loop.running

	mu      sync.Mutex
	entries []entry
	left    int   // answers that have not ended
	failure error // ends the stream after its entries

	// ready has room for one: something is there.
	ready chan struct{}
}

func newStream(id uint64, answers int) *stream {
	return &stream{id: id, left: answers, ready: make(chan struct{}, 1)}
}

// push adds an entry and returns whether it was the last one.
func (s *stream) push(e entry) (isLast bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.entries = append(s.entries, e)
	if e.err != nil || e.piece.Finish != 0 {
		s.left--
	}
	s.tell()
	return s.left == 0
}

// fail ends the stream.
func (s *stream) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failure = err
	s.tell()
}

func (s *stream) tell() {
	select {
	case s.ready <- struct{}{}:
	default:
	}
}

// take returns all entries that are there, and whether none will follow and why. It lets the caller's storage be used
// for the next ones.
func (s *stream) take(used []entry) (entries []entry, isOver bool, failure error) {
	clear(used)
	s.mu.Lock()
	defer s.mu.Unlock()
	entries, s.entries = s.entries, used[:0]
	return entries, s.left == 0 || s.failure != nil, s.failure
}

func entryOf(event *C.larder_event) entry {
	piece := Piece{
		Answer:       int(event.answer),
		Token:        uint32(event.token),
		Logprob:      float32(event.logprob),
		PromptTokens: int(event.n_prompt_tokens),
		CachedTokens: int(event.n_cached_tokens),
	}
	if event.text_length > 0 {
		piece.Text = string(unsafe.Slice((*byte)(unsafe.Pointer(event.text)), event.text_length))
	}
	if event.n_top_logprobs > 0 {
		for _, top := range unsafe.Slice(event.top_logprobs, event.n_top_logprobs) {
			piece.Top = append(piece.Top, TokenLogprob{uint32(top.token), float32(top.logprob)})
		}
	}
	switch event.kind {
	case C.LARDER_EVENT_FINISHED:
		piece.Finish = Finish(event.finish)
	case C.LARDER_EVENT_FAILED:
		return entry{piece, &Error{Status: Status(event.status)}}
	}
	return entry{piece, nil}
}
