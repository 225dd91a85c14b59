package larder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

func wantError(t *testing.T, what string, err error, status Status, part string) {
	t.Helper()
	if !errors.Is(err, status) {
		t.Errorf("%s: %v is not %v", what, err, status)
		return
	}
	var failure *Error
	if !errors.As(err, &failure) || failure.Status != status || !strings.Contains(err.Error(), part) {
		t.Errorf("%s: %q says nothing of %q", what, err, part)
	}
	if errors.Is(err, ErrStaleHandle) {
		t.Errorf("%s: %v is every error", what, err)
	}
}

func TestOpenErrors(t *testing.T) {
	_, err := Open(data("there is none"))
	wantError(t, "no file", err, ErrIO, "there is none")
	_, err = Open(data(chat) + "\x00")
	wantError(t, "a NUL", err, ErrInvalidArgument, "NUL")
	_, err = Open(data(chat), WithMemoryLimit(1000))
	wantError(t, "no memory", err, ErrOutOfMemory, "memory_limit_bytes")
	_, err = Plan(data(chat), WithAreaMode(9))
	wantError(t, "area mode", err, ErrInvalidArgument, "area_mode")
	_, err = Open(filepath.Join("testdata", "none"), WithLogger(slog.New(slog.DiscardHandler)))
	wantError(t, "no file, with a logger", err, ErrIO, "none")
	if text := Status(-99).Error(); !strings.Contains(text, "-99") {
		t.Errorf("an unknown status is %q", text)
	}
}

func TestPlanIsWhatOpenTakes(t *testing.T) {
	options := []Option{
		WithTotalTokens(321), WithMaxSequences(3), WithMaxRequests(9), WithMaxBatchRows(32),
		WithMaxLogitsRows(8), WithMaxSequenceTokens(200), WithThreads(1),
		WithKVTypes(KVF32, KVF16), WithAreaMode(AreaShort), WithFlags(ExactActivations),
	}
	planned, err := Plan(data(chat), options...)
	if err != nil {
		t.Fatal(err)
	}
	engine := open(t, chat, options...)
	taken, err := engine.Memory()
	if err != nil || taken != planned {
		t.Errorf("planned %+v, taken %+v (%v)", planned, taken, err)
	}
	if planned.TotalTokens != 321 || planned.AreaMode != AreaShort || planned.TokenSlotBytes != 2*16*(4+2) {
		t.Errorf("planned %+v", planned)
	}
	text, err := engine.Describe()
	if err != nil || !strings.Contains(text, "llama") {
		t.Errorf("described as %q (%v)", text, err)
	}
}

func TestVersion(t *testing.T) {
	if !regexp.MustCompile(`^\d+\.\d+\.\d+$`).MatchString(Version()) {
		t.Errorf("the version is %q", Version())
	}
}

func TestClosedEngine(t *testing.T) {
	engine := open(t, chat)
	if err := engine.Close(); err != nil {
		t.Fatal(err)
	}
	_, memory := engine.Memory()
	_, describe := engine.Describe()
	_, stats := engine.Stats()
	_, tokenize := engine.Tokenize("a", TokenizeOptions{})
	_, generate := collect(engine.Generate(t.Context(), Request{Prompt: "a"}), 1)
	for i, err := range []error{
		memory, describe, stats, tokenize, generate, engine.FlushCache(), engine.SetNameSpace(1, NameSpace{}),
	} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("call %d on a closed engine: %v", i, err)
		}
	}
	if err := engine.Close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
}

func TestCloseEndsWhatRuns(t *testing.T) {
	engine := open(t, chat, WithMaxSequences(2))
	const n = 6
	goOn := engine.hold()
	results := make(chan error, n)
	for range n {
		go func() {
			_, err := collect(engine.Generate(context.Background(), endless()), 1)
			results <- err
		}()
	}
	eventually(t, "all requests", func() bool { return engine.running() == n })
	var group sync.WaitGroup
	for range 2 {
		group.Add(1)
		go func() {
			defer group.Done()
			if err := engine.Close(); err != nil {
				t.Error(err)
			}
		}()
	}
	eventually(t, "the closing", func() bool {
		engine.core.loop.mu.Lock()
		defer engine.core.loop.mu.Unlock()
		return engine.core.loop.stopping
	})
	goOn()
	for range n {
		if err := <-results; !errors.Is(err, ErrClosed) {
			t.Errorf("a request of a closed engine: %v", err)
		}
	}
	group.Wait()
}

func TestFailedEngineEndsWhatRuns(t *testing.T) {
	engine := open(t, chat)
	goOn := engine.hold()
	result := make(chan error)
	go func() {
		_, err := collect(engine.Generate(t.Context(), endless()), 1)
		result <- err
	}()
	eventually(t, "a submitted request", func() bool { return engine.running() == 1 })
	engine.core.loop.end(&Error{Status: ErrInternal, Message: "as a step would say"})
	goOn()
	wantError(t, "what ran", <-result, ErrInternal, "as a step would say")
	_, err := collect(engine.Generate(t.Context(), endless()), 1)
	if !errors.Is(err, ErrInternal) || !errors.Is(engine.FlushCache(), ErrInternal) {
		t.Errorf("afterwards: %v", err)
	}
}

func TestCloseWhileAllCall(t *testing.T) {
	for round := range 10 {
		engine, err := Open(data(chat), WithThreads(1))
		if err != nil {
			t.Fatal(err)
		}
		var group sync.WaitGroup
		check := func(err error) {
			if err != nil && !errors.Is(err, ErrClosed) {
				t.Error(err)
			}
		}
		for range 4 {
			group.Add(1)
			go func() {
				defer group.Done()
				request := Request{Prompt: "a", MaxNewTokens: 3}
				for isOpen := true; isOpen; {
					_, err := collect(engine.Generate(t.Context(), request), 1)
					check(err)
					isOpen = err == nil
					_, err = engine.Stats()
					check(err)
					check(engine.FlushCache())
				}
			}()
		}
		time.Sleep(time.Duration(round) * time.Millisecond)
		if err := engine.Close(); err != nil {
			t.Error(err)
		}
		group.Wait()
	}
}

func TestForgottenEngineIsClosed(t *testing.T) {
	core := func() *core {
		engine, err := Open(data(chat))
		if err != nil {
			t.Fatal(err)
		}
		return engine.core
	}()
	eventually(t, "the clean-up", func() bool {
		runtime.GC()
		core.life.RLock()
		defer core.life.RUnlock()
		return core.handle == nil
	})
}

func TestLogger(t *testing.T) {
	var lines bytes.Buffer
	for level, want := range map[slog.Level]int{
		slog.LevelDebug: 4, slog.LevelInfo: 3, slog.LevelWarn: 2, slog.LevelError: 1, slog.LevelError + 1: 0,
	} {
		options := &slog.HandlerOptions{Level: level}
		logger := slog.New(slog.NewTextHandler(&lines, options))
		if n := int(logLevel(logger)); n != want {
			t.Errorf("%v is %d, want %d", level, n, want)
		}
	}
	h := &hooks{settings: &settings{logger: slog.New(slog.NewTextHandler(&lines, nil))}}
	h.log(2, "watch out")
	if !strings.Contains(lines.String(), `level=WARN msg="watch out"`) {
		t.Errorf("logged: %s", &lines)
	}
	open(t, chat, WithLogger(h.settings.logger))
}

func TestProgress(t *testing.T) {
	var done, total uint64
	open(t, chat, WithProgress(func(d, n uint64) error {
		done, total = d, n
		return nil
	}))
	if done == 0 || done != total {
		t.Errorf("read %d of %d bytes", done, total)
	}
	_, err := Open(data(chat), WithProgress(func(_, _ uint64) error { return ended(t.Context()).Err() }))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("stopped with %v", err)
	}
	defer func() {
		if value := recover(); value != "from progress" {
			t.Errorf("recovered %v", value)
		}
	}()
	_, _ = Open(data(chat), WithProgress(func(_, _ uint64) error { panic("from progress") }))
	t.Error("the callback's panic is lost")
}

func TestPrometheusHasEveryNumber(t *testing.T) {
	var stats Stats
	fields := reflect.ValueOf(&stats).Elem()
	for i := range fields.NumField() {
		if fields.Field(i).CanUint() {
			fields.Field(i).SetUint(uint64(i + 1))
		} else {
			fields.Field(i).SetInt(int64(i + 1))
		}
	}
	text, err := stats.Prometheus("test_")
	if err != nil {
		t.Fatal(err)
	}
	values := regexp.MustCompile(`(?m)^test_(\w+) (\S+)$`).FindAllStringSubmatch(text, -1)
	if len(values) != fields.NumField() {
		t.Fatalf("%d metrics, %d fields:\n%s", len(values), fields.NumField(), text)
	}
	letters := regexp.MustCompile(`_nanoseconds|_total|_`)
	for i, value := range values {
		name := strings.ToLower(strings.TrimSuffix(fields.Type().Field(i).Name, "Time"))
		if !strings.HasPrefix(letters.ReplaceAllString(value[1], ""), name) || value[2] != fmt.Sprint(i+1) {
			t.Errorf("metric %s is %s, field %s is %d", value[1], value[2], name, i+1)
		}
	}
	_, err = stats.Prometheus("0 ")
	wantError(t, "prefix", err, ErrInvalidArgument, "prefix")
}

func TestText(t *testing.T) {
	engine := open(t, chat)
	for _, text := range []string{"", "a", "Grüße, 世界 🙂", strings.Repeat("long ", 2000), "<|im_end|>"} {
		tokens, err := engine.Tokenize(text, TokenizeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		back, err := engine.Detokenize(tokens, DetokenizeOptions{})
		if err != nil || back != text {
			t.Errorf("%q came back as %q (%v)", text, back, err)
		}
	}
	special, err := engine.Tokenize("<|im_end|>", TokenizeOptions{ParseSpecial: true})
	if err != nil || len(special) != 1 || special[0] != endOfText {
		t.Errorf("the control token is %v (%v)", special, err)
	}
	if text, err := engine.Detokenize(special, DetokenizeOptions{SkipSpecial: true}); text != "" || err != nil {
		t.Errorf("without control tokens: %q (%v)", text, err)
	}
	_, err = engine.Detokenize([]uint32{1 << 30}, DetokenizeOptions{})
	wantError(t, "an unknown token", err, ErrInvalidArgument, "vocabulary")
}

func TestChat(t *testing.T) {
	engine := open(t, chat)
	prompt, err := engine.RenderChat([]Message{{"system", "Be <|im_end|> kind."}, {"user", "Hi"}})
	if err != nil || !strings.HasSuffix(prompt, "<|im_start|>assistant\n") {
		t.Fatalf("%q (%v)", prompt, err)
	}
	tokens, err := engine.Tokenize(prompt, TokenizeOptions{AddSpecial: true, ParseSpecial: true})
	if err != nil {
		t.Fatal(err)
	}
	ends := 0
	for _, token := range tokens {
		if token == endOfText {
			ends++
		}
	}
	if ends != 2 {
		t.Errorf("%d messages end, want 2: %v", ends, tokens)
	}
	a := engine.answerTo(t, Request{Prompt: prompt, ParseSpecial: true, MaxNewTokens: 3})
	if a.last.PromptTokens != len(tokens) {
		t.Errorf("the request has %d prompt tokens, the text %d", a.last.PromptTokens, len(tokens))
	}
	_, err = engine.RenderChatJSON("{")
	wantError(t, "JSON", err, ErrInvalidArgument, "")
}
