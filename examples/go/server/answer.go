package main

import (
	"context"
	"crypto/rand"
	"log/slog"
	"net/http"
	"time"
	"unicode/utf8"

	"larder"
)

// kind is what differs between the two APIs.
type kind struct {
	prefix        string // of ids
	object, chunk string
	param         string // where the prompt stands
	choice        func(s *server, c *choice) map[string]any
	delta         func(s *server, c *choice, isFirst bool) map[string]any
}

// job is one HTTP request on its way.
type job struct {
	kind     *kind
	request  larder.Request
	logprobs bool
	options  *parameters

	id      string
	created int64
	usage   usage
}

type usage struct {
	PromptTokens     int `json:"prompt_tokens"`
	CompletionTokens int `json:"completion_tokens"`
	TotalTokens      int `json:"total_tokens"`
	Details          struct {
		CachedTokens int `json:"cached_tokens"`
	} `json:"prompt_tokens_details"`
}

// choice is one answer, or what is new of it.
type choice struct {
	index    int
	text     string
	tokens   []larder.Piece // with their logprobs, where those are wanted
	offset   int            // characters of text before this
	finish   larder.Finish
	logprobs bool
}

func (s *server) answer(w http.ResponseWriter, r *http.Request, j *job) {
	j.id = j.kind.prefix + rand.Text()
	j.created = time.Now().Unix()
	out := newEventStream(w)
	var err error
	if j.options.Stream {
		err = s.stream(r.Context(), out, j)
	} else {
		err = s.collect(r.Context(), w, j)
	}
	if err == nil {
		return
	}
	if cause := context.Cause(r.Context()); cause == errStopping {
		err = cause
	} else if cause != nil {
		slog.Debug("a client is gone", "id", j.id)
		return
	}
	e := *asAPIError(err)
	if e.Code == contextLengthExceeded {
		e.Param = j.kind.param
	}
	if !out.hasBegun {
		writeError(w, &e)
	} else if err := out.send(&e); err != nil {
		slog.Debug("a client is gone", "id", j.id, "error", err)
	}
}

// collect answers with one JSON object.
func (s *server) collect(ctx context.Context, w http.ResponseWriter, j *job) error {
	answers := make([]choice, max(1, j.request.Answers))
	for piece, err := range s.engine.Generate(ctx, j.request) {
		if err != nil {
			return err
		}
		answers[piece.Answer].add(j, piece)
	}
	choices := make([]map[string]any, len(answers))
	for i := range answers {
		choices[i] = j.kind.choice(s, &answers[i])
	}
	writeJSON(w, j.object(j.kind.object, choices, &j.usage))
	return nil
}

// stream answers with server-sent events.
func (s *server) stream(ctx context.Context, out *eventStream, j *job) error {
	answers := make([]choice, max(1, j.request.Answers))
	begun := make([]bool, len(answers))
	for piece, err := range s.engine.Generate(ctx, j.request) {
		if err != nil {
			return err
		}
		c := &answers[piece.Answer]
		c.add(j, piece)
		if c.text == "" && len(c.tokens) == 0 && c.finish == 0 && begun[c.index] {
			continue
		}
		delta := j.kind.delta(s, c, !begun[c.index])
		begun[c.index] = true
		if err := out.send(j.object(j.kind.chunk, []map[string]any{delta}, nil)); err != nil {
			return err
		}
		*c = choice{offset: c.offset + utf8.RuneCountInString(c.text)}
	}
	if j.options.StreamOptions.IncludeUsage {
		if err := out.send(j.object(j.kind.chunk, []map[string]any{}, &j.usage)); err != nil {
			return err
		}
	}
	return out.end()
}

func (c *choice) add(j *job, piece larder.Piece) {
	c.index = piece.Answer
	c.text += piece.Text
	c.finish = piece.Finish
	c.logprobs = j.logprobs
	u := &j.usage
	u.PromptTokens = piece.PromptTokens
	if piece.Answer == 0 {
		u.Details.CachedTokens = piece.CachedTokens
	}
	if piece.Finish == 0 {
		u.CompletionTokens++
		if j.logprobs {
			c.tokens = append(c.tokens, piece)
		}
	}
	u.TotalTokens = u.PromptTokens + u.CompletionTokens
}

func (j *job) object(name string, choices []map[string]any, usage *usage) map[string]any {
	object := map[string]any{
		"id": j.id, "object": name, "created": j.created, "model": j.options.Model, "choices": choices,
	}
	if usage != nil {
		object["usage"] = usage
	} else if j.options.StreamOptions.IncludeUsage {
		object["usage"] = nil
	}
	return object
}

// finishReason is null while the answer goes on.
func finishReason(finish larder.Finish) any {
	switch finish {
	case 0:
		return nil
	case larder.FinishLength:
		return "length"
	}
	return "stop"
}
