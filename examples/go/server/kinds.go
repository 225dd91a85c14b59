package main

import (
	"unicode/utf8"

	"larder"
)

var chatKind = &kind{
	prefix: "chatcmpl-", object: "chat.completion", chunk: "chat.completion.chunk", param: "messages",
	choice: func(s *server, c *choice) map[string]any {
		return map[string]any{
			"index":         c.index,
			"message":       map[string]any{"role": "assistant", "content": c.text, "refusal": nil},
			"logprobs":      s.chatLogprobs(c),
			"finish_reason": finishReason(c.finish),
		}
	},
	delta: func(s *server, c *choice, isFirst bool) map[string]any {
		delta := map[string]any{}
		if isFirst {
			delta["role"] = "assistant"
		}
		if isFirst || c.text != "" {
			delta["content"] = c.text
		}
		return map[string]any{
			"index":         c.index,
			"delta":         delta,
			"logprobs":      s.chatLogprobs(c),
			"finish_reason": finishReason(c.finish),
		}
	},
}

var textKind = &kind{
	prefix: "cmpl-", object: "text_completion", chunk: "text_completion", param: "prompt",
	choice: textChoice,
	delta:  func(s *server, c *choice, _ bool) map[string]any { return textChoice(s, c) },
}

func textChoice(s *server, c *choice) map[string]any {
	return map[string]any{
		"index":         c.index,
		"text":          c.text,
		"logprobs":      s.textLogprobs(c),
		"finish_reason": finishReason(c.finish),
	}
}

// chatLogprobs is null where none are wanted.
func (s *server) chatLogprobs(c *choice) any {
	if !c.logprobs {
		return nil
	}
	content := make([]map[string]any, 0, len(c.tokens))
	for _, piece := range c.tokens {
		top := make([]map[string]any, len(piece.Top))
		for i, other := range piece.Top {
			top[i] = s.tokenLogprob(other.Token, other.Logprob)
		}
		token := s.tokenLogprob(piece.Token, piece.Logprob)
		token["top_logprobs"] = top
		content = append(content, token)
	}
	return map[string]any{"content": content, "refusal": nil}
}

func (s *server) tokenLogprob(token uint32, logprob float32) map[string]any {
	text := s.tokenText(token)
	bytes := make([]int, len(text))
	for i := range len(text) {
		bytes[i] = int(text[i])
	}
	// encoding/json writes U+FFFD for what is not UTF-8.
	return map[string]any{"token": text, "logprob": logprob, "bytes": bytes}
}

// textLogprobs is null where none are wanted.
func (s *server) textLogprobs(c *choice) any {
	if !c.logprobs {
		return nil
	}
	n := len(c.tokens)
	tokens, logprobs := make([]string, n), make([]float32, n)
	offsets, tops := make([]int, n), make([]map[string]float32, n)
	offset := c.offset
	for i, piece := range c.tokens {
		tokens[i], logprobs[i], offsets[i] = s.tokenText(piece.Token), piece.Logprob, offset
		offset += utf8.RuneCountInString(tokens[i])
		tops[i] = make(map[string]float32)
		for _, other := range piece.Top {
			tops[i][s.tokenText(other.Token)] = other.Logprob
		}
	}
	return map[string]any{
		"tokens": tokens, "token_logprobs": logprobs, "text_offset": offsets, "top_logprobs": tops,
	}
}

func (s *server) tokenText(token uint32) string {
	text, err := s.engine.Detokenize([]uint32{token}, larder.DetokenizeOptions{})
	if err != nil {
		return ""
	}
	return text
}
