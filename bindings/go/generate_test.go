package larder

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"

	"larder/internal/direct"
)

func TestAnswersAreThoseOfTheCLibrary(t *testing.T) {
	models := []string{chat, "gguf/llama.gguf", "gguf/qwen3.gguf"}
	folders, err := os.ReadDir(data("models"))
	if err != nil {
		t.Fatal(err)
	}
	for _, folder := range folders {
		if folder.IsDir() {
			models = append(models, "models/"+folder.Name())
		}
	}
	for _, model := range models {
		t.Run(model, func(t *testing.T) {
			prompt := []uint32{1, 17, 5, 40, 23, 9}
			tokens, text, err := direct.Answer(data(model), prompt, 24)
			if err != nil {
				t.Fatal(err)
			}
			a := open(t, model).answerTo(t, Request{Tokens: prompt, MaxNewTokens: 24})
			if !slices.Equal(a.tokens, tokens) || a.text != text {
				t.Errorf("got %v %q, the C library gives %v %q", a.tokens, a.text, tokens, text)
			}
			if a.last.PromptTokens != len(prompt) {
				t.Errorf("%d prompt tokens, want %d", a.last.PromptTokens, len(prompt))
			}
		})
	}
}

func TestSixteenAtOnceAnswerAsAlone(t *testing.T) {
	engine := open(t, chat, WithMaxSequences(5), WithTotalTokens(400))
	var group sync.WaitGroup
	for i := range 16 {
		group.Add(1)
		go func() {
			defer group.Done()
			prompt := engine.tokens(t, fmt.Sprintf("question %d, and %0*d", i%11, 1+i, i))
			want, _, err := direct.Answer(data(chat), prompt, 10+i)
			if err != nil {
				t.Error(err)
				return
			}
			got := engine.answerTo(t, Request{Tokens: prompt, MaxNewTokens: uint32(10 + i)})
			if !slices.Equal(got.tokens, want) {
				t.Errorf("request %d: %v, alone %v", i, got.tokens, want)
			}
		}()
	}
	group.Wait()
	if stats := engine.idle(t); stats.RequestsFinished != 16 {
		t.Errorf("%d requests have finished, want 16", stats.RequestsFinished)
	}
}

func TestSeveralAnswersToOnePrompt(t *testing.T) {
	engine := open(t, chat)
	sampling := Sampling{Temperature: 1, Seed: 7}
	request := Request{Prompt: "the question", MaxNewTokens: 12, Answers: 3, Sampling: sampling}
	answers, err := collect(engine.Generate(t.Context(), request), 3)
	if err != nil {
		t.Fatal(err)
	}
	for i, together := range answers {
		request.Answers = 1
		request.Sampling.Seed = 7 + uint64(i)
		alone := engine.answerTo(t, request)
		if !slices.Equal(together.tokens, alone.tokens) || together.finish != alone.finish {
			t.Errorf("answer %d is %v, alone with its seed %v", i, together.tokens, alone.tokens)
		}
	}
	if slices.Equal(answers[0].tokens, answers[1].tokens) {
		t.Error("two seeds gave the same answer")
	}
}

func TestStopsBiasesAndLogprobs(t *testing.T) {
	engine := open(t, chat)
	request := endless()
	request.MaxNewTokens = 40
	request.Sampling.Logprobs = 3
	var text string
	for piece, err := range engine.Generate(t.Context(), request) {
		if err != nil {
			t.Fatal(err)
		}
		text += piece.Text
		if piece.Finish != 0 {
			continue
		}
		if piece.Token == endOfText {
			t.Error("a banned token was drawn")
		}
		if len(piece.Top) != 3 || piece.Top[0].Logprob < piece.Top[2].Logprob {
			t.Fatalf("the most likely tokens are %v", piece.Top)
		}
		if piece.Logprob > 0 || piece.Logprob > piece.Top[0].Logprob {
			t.Errorf("token %d has %v, the most likely %v", piece.Token, piece.Logprob, piece.Top)
		}
	}
	characters := []rune(text)
	stop := string(characters[len(characters)/2:][:4])
	request.Stops = []string{"never, to be sure", stop}
	a := engine.answerTo(t, request)
	if a.finish != FinishStop || len(a.text) >= len(text) || a.text != text[:len(a.text)] {
		t.Errorf("with stop %q of %q: %q (%v)", stop, text, a.text, a.finish)
	}
}

func TestCancelledContext(t *testing.T) {
	engine := open(t, chat)
	goOn := engine.hold()
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error)
	go func() {
		_, err := collect(engine.Generate(ctx, endless()), 1)
		result <- err
	}()
	eventually(t, "a submitted request", func() bool { return engine.running() == 1 })
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	goOn()
	if stats := engine.idle(t); stats.RequestsCancelled != 1 || stats.GeneratedTokens != 0 {
		t.Errorf("%d cancelled, %d tokens were drawn", stats.RequestsCancelled, stats.GeneratedTokens)
	}
	if _, err := collect(engine.Generate(ctx, endless()), 1); !errors.Is(err, context.Canceled) {
		t.Errorf("begun after the cancellation: %v", err)
	}
}

func TestLeavingTheLoopCancels(t *testing.T) {
	engine := open(t, chat)
	const rounds = 20
	for range rounds {
		for piece, err := range engine.Generate(t.Context(), endless()) {
			if err != nil || piece.Token == NoToken {
				t.Fatal(piece, err)
			}
			break
		}
	}
	// Each whole answer fills the context of 512 tokens.
	if stats := engine.idle(t); stats.Steps > rounds*400 {
		t.Errorf("%d steps for %d loops that were left at once", stats.Steps, rounds)
	}
}

func TestRandomCancels(t *testing.T) {
	// Slots for about two answers: the others wait or are paused.
	engine := open(t, chat, WithMaxSequences(4), WithTotalTokens(120), WithMaxBatchRows(16))
	var group sync.WaitGroup
	for worker := range 6 {
		group.Add(1)
		go func() {
			defer group.Done()
			random := rand.New(rand.NewPCG(uint64(worker), 1))
			request := endless()
			request.Prompt += fmt.Sprint(worker)
			request.MaxNewTokens = 30
			want := engine.answerTo(t, request).tokens
			for range 25 {
				ctx, cancel := context.WithCancel(t.Context())
				left := random.IntN(45)
				var got []uint32
				for piece, err := range engine.Generate(ctx, request) {
					if err != nil && !errors.Is(err, context.Canceled) {
						t.Error(err)
					}
					if err == nil && piece.Finish == 0 {
						got = append(got, piece.Token)
					}
					if left--; left == 0 {
						cancel()
					}
				}
				cancel()
				if !slices.Equal(got, want[:len(got)]) || left > 0 && len(got) != len(want) {
					t.Errorf("worker %d got %v of %v", worker, got, want)
				}
			}
		}()
	}
	group.Wait()
	if stats := engine.idle(t); stats.RequestsFinished+stats.RequestsCancelled != 6*26 {
		t.Errorf("%d finished, %d cancelled", stats.RequestsFinished, stats.RequestsCancelled)
	}
}

func TestSlowReaderHoldsUpNobodyAndLosesNothing(t *testing.T) {
	engine := open(t, chat)
	request := endless()
	request.MaxNewTokens = 200
	want := engine.answerTo(t, request)
	others := make(chan struct{})
	var got []uint32
	for piece, err := range engine.Generate(t.Context(), request) {
		if err != nil {
			t.Fatal(err)
		}
		if len(got) == 0 {
			go func() {
				defer close(others)
				for range 3 {
					engine.answerTo(t, Request{Prompt: "another", MaxNewTokens: 300})
				}
			}()
			<-others
			eventually(t, "the end of the slow reader's own request", func() bool {
				stats := engine.stats(t)
				return stats.RequestsRunning+stats.RequestsWaiting == 0
			})
		}
		if piece.Finish == 0 {
			got = append(got, piece.Token)
		}
	}
	if !slices.Equal(got, want.tokens) {
		t.Errorf("%d tokens came, %d were expected", len(got), len(want.tokens))
	}
}

func TestRefusedRequests(t *testing.T) {
	engine := open(t, chat, WithMaxSequenceTokens(64))
	for name, c := range map[string]struct {
		request Request
		status  Status
		message string
	}{
		"nothing":  {Request{}, ErrInvalidArgument, "the prompt is empty"},
		"too long": {Request{Tokens: make([]uint32, 65)}, ErrInvalidArgument, "max_sequence_tokens"},
		"unknown":  {Request{Tokens: []uint32{1 << 20}}, ErrInvalidArgument, "vocabulary"},
		"both":     {Request{Prompt: "a", Tokens: []uint32{1}}, ErrInvalidArgument, "both"},
		"bad text": {Request{Prompt: "\xff"}, ErrInvalidArgument, "UTF-8"},
		"stops":    {Request{Prompt: "a", Stops: make([]string, 17)}, ErrInvalidArgument, "stops"},
		"kind":     {Request{Prompt: "a", Constraint: Constraint{Kind: 9}}, ErrInvalidArgument, "constraint_kind"},
		"heat": {
			Request{Prompt: "a", Sampling: Sampling{Temperature: float32(math.NaN())}},
			ErrInvalidArgument, "temperature",
		},
	} {
		_, err := collect(engine.Generate(t.Context(), c.request), 1)
		wantError(t, name, err, c.status, c.message)
	}
	a := engine.answerTo(t, Request{Prompt: "it still works", MaxNewTokens: 2})
	if a.finish == 0 {
		t.Error("no answer afterwards")
	}
	engine.idle(t)
}

func TestRequestThatFailsAlone(t *testing.T) {
	engine := open(t, chat)
	biases := make(map[uint32]float32)
	for token := range uint32(269) {
		biases[token] = float32(math.Inf(-1))
	}
	banned := Request{Prompt: "a", Sampling: Sampling{Biases: biases}}
	_, err := collect(engine.Generate(t.Context(), banned), 1)
	wantError(t, "all tokens banned", err, ErrBadModel, "")
	engine.answerTo(t, Request{Prompt: "it still works", MaxNewTokens: 2})
	engine.idle(t)
}
