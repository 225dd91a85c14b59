package larder

import (
	"context"
	"iter"
	"path/filepath"
	"testing"
	"time"
)

// data is a file or folder of the tests' data.
func data(name string) string {
	return filepath.Join("..", "..", "tests", "data", name)
}

// chat has a tokenizer and a chat template; endOfText is its stop token.
const (
	chat      = "chat"
	endOfText = 2
)

func open(t *testing.T, model string, options ...Option) *Engine {
	t.Helper()
	engine, err := Open(data(model), options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := engine.Close(); err != nil {
			t.Error(err)
		}
	})
	return engine
}

// answer is what the pieces of one answer add up to.
type answer struct {
	tokens []uint32
	text   string
	finish Finish
	last   Piece
}

func collect(pieces iter.Seq2[Piece, error], n int) ([]answer, error) {
	answers := make([]answer, n)
	for piece, err := range pieces {
		if err != nil {
			return answers, err
		}
		a := &answers[piece.Answer]
		a.text += piece.Text
		a.last = piece
		if a.finish = piece.Finish; a.finish == 0 {
			a.tokens = append(a.tokens, piece.Token)
		}
	}
	return answers, nil
}

func (e *Engine) answerTo(t *testing.T, request Request) answer {
	t.Helper()
	answers, err := collect(e.Generate(t.Context(), request), 1)
	if err != nil {
		t.Error(err)
	}
	return answers[0]
}

func (e *Engine) tokens(t *testing.T, text string) []uint32 {
	t.Helper()
	tokens, err := e.Tokenize(text, TokenizeOptions{AddSpecial: true})
	if err != nil {
		t.Fatal(err)
	}
	return tokens
}

func (e *Engine) stats(t *testing.T) Stats {
	t.Helper()
	stats, err := e.Stats()
	if err != nil {
		t.Fatal(err)
	}
	return stats
}

// eventually waits for what another goroutine will do.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not in 20 seconds", what)
		}
	}
}

// idle waits until nothing runs and no slot is used.
func (e *Engine) idle(t *testing.T) Stats {
	t.Helper()
	var stats Stats
	eventually(t, "an idle engine", func() bool {
		stats = e.stats(t)
		return e.running() == 0 && stats.RequestsRunning+stats.RequestsWaiting+stats.UsedSlots == 0
	})
	return stats
}

// running counts the requests that the loop steps for.
func (e *Engine) running() int {
	e.core.loop.mu.Lock()
	defer e.core.loop.mu.Unlock()
	return e.core.loop.running
}

// hold keeps the engine from stepping until it is told to go on.
func (e *Engine) hold() (goOn func()) {
	holding, held := make(chan struct{}), make(chan struct{})
	l := &e.core.loop
	l.mu.Lock()
	l.commands = append(l.commands, func() {
		close(holding)
		<-held
	})
	l.wake.Signal()
	l.mu.Unlock()
	<-holding
	return func() { close(held) }
}

// endless never meets its stop token.
func endless() Request {
	return Request{
		Prompt:   "the question",
		Sampling: Sampling{Biases: map[uint32]float32{endOfText: -1e9}},
	}
}

func ended(ctx context.Context) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	return ctx
}
