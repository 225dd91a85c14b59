package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"math/rand/v2"
	"strconv"

	"larder"
)

// parameters are what both kinds of completions have. What is left out of the API is refused where it would change
// the answer.
type parameters struct {
	Model               string             `json:"model"`
	MaxTokens           *int64             `json:"max_tokens"`
	MaxCompletionTokens *int64             `json:"max_completion_tokens"`
	N                   *int64             `json:"n"`
	Temperature         *float32           `json:"temperature"`
	TopP                *float32           `json:"top_p"`
	Seed                *int64             `json:"seed"`
	Stop                texts              `json:"stop"`
	PresencePenalty     float32            `json:"presence_penalty"`
	FrequencyPenalty    float32            `json:"frequency_penalty"`
	LogitBias           map[string]float32 `json:"logit_bias"`
	ResponseFormat      *responseFormat    `json:"response_format"`
	Stream              bool               `json:"stream"`
	StreamOptions       struct {
		IncludeUsage bool `json:"include_usage"`
	} `json:"stream_options"`
	User string `json:"user"`
}

// texts are one text or several.
type texts []string

func (t *texts) UnmarshalJSON(data []byte) error {
	if bytes.HasPrefix(data, []byte{'"'}) {
		*t = make(texts, 1)
		return json.Unmarshal(data, &(*t)[0])
	}
	return json.Unmarshal(data, (*[]string)(t))
}

type responseFormat struct {
	Type       string `json:"type"`
	JSONSchema struct {
		Schema json.RawMessage `json:"schema"`
	} `json:"json_schema"`
}

// request is everything but the prompt.
func (p *parameters) request(perUser bool) (larder.Request, error) {
	r := larder.Request{Stops: p.Stop, Sampling: p.sampling()}
	var err error
	if r.Answers, err = count("n", p.N, 1); err != nil {
		return r, err
	}
	limit, name := p.MaxTokens, "max_tokens"
	if p.MaxCompletionTokens != nil {
		limit, name = p.MaxCompletionTokens, "max_completion_tokens"
	}
	if r.MaxNewTokens, err = count(name, limit, 0); err != nil {
		return r, err
	}
	for token, bias := range p.LogitBias {
		id, err := strconv.ParseUint(token, 10, 32)
		if err != nil {
			return r, badRequest("logit_bias", "logit_bias has the key '%s', which is no token", token)
		}
		r.Sampling.Biases[uint32(id)] = bias
	}
	if r.Constraint, err = p.ResponseFormat.constraint(); err != nil {
		return r, err
	}
	if perUser && p.User != "" {
		sum := sha256.Sum256([]byte(p.User))
		r.NameSpace = binary.LittleEndian.Uint64(sum[:])
	}
	return r, nil
}

// sampling has OpenAI's defaults.
func (p *parameters) sampling() larder.Sampling {
	s := larder.Sampling{
		Temperature:      1,
		PresencePenalty:  p.PresencePenalty,
		FrequencyPenalty: p.FrequencyPenalty,
		Seed:             rand.Uint64(),
		Biases:           make(map[uint32]float32),
	}
	if p.Temperature != nil {
		s.Temperature = *p.Temperature
	}
	if p.TopP != nil {
		s.TopP = *p.TopP
	}
	if p.Seed != nil {
		s.Seed = uint64(*p.Seed)
	}
	return s
}

func (f *responseFormat) constraint() (larder.Constraint, error) {
	if f == nil || f.Type == "text" {
		return larder.Constraint{}, nil
	}
	switch f.Type {
	case "json_object":
		return larder.Constraint{Kind: larder.JSONSchema, Text: `{"type":"object"}`}, nil
	case "json_schema":
		if len(f.JSONSchema.Schema) == 0 {
			return larder.Constraint{}, badRequest("response_format", "response_format.json_schema.schema is missing")
		}
		return larder.Constraint{Kind: larder.JSONSchema, Text: string(f.JSONSchema.Schema)}, nil
	}
	return larder.Constraint{}, badRequest("response_format",
		"response_format.type is '%s', expected text, json_object or json_schema", f.Type)
}

// count checks a number of things; without one it is the default.
func count(name string, given *int64, otherwise uint32) (uint32, error) {
	if given == nil {
		return otherwise, nil
	}
	if *given < 1 || *given > 1<<31 {
		return 0, badRequest(name, "%s is %d, expected at least 1", name, *given)
	}
	return uint32(*given), nil
}

// isSet tells whether a field that this server does not know has a value.
func isSet(value json.RawMessage) bool {
	switch string(value) {
	case "", "null", "[]", "{}", "false", `"none"`, `""`:
		return false
	}
	return true
}
