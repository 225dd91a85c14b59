package main

import (
	"encoding/json"
	"net/http"

	"larder"
)

type completionRequest struct {
	parameters
	Prompt   completionPrompt `json:"prompt"`
	Logprobs *int64           `json:"logprobs"`
	Echo     json.RawMessage  `json:"echo"`
	Suffix   json.RawMessage  `json:"suffix"`
	BestOf   *int64           `json:"best_of"`
}

// completionPrompt is one prompt, as text or as tokens.
type completionPrompt struct {
	text   string
	tokens []uint32
}

func (p *completionPrompt) UnmarshalJSON(data []byte) error {
	var one texts
	if json.Unmarshal(data, &one) == nil && len(one) == 1 {
		p.text = one[0]
		return nil
	}
	var lists [][]uint32
	if json.Unmarshal(data, &lists) == nil && len(lists) == 1 {
		p.tokens = lists[0]
		return nil
	}
	if json.Unmarshal(data, &p.tokens) == nil {
		return nil
	}
	return badRequest("prompt", "prompt must be one text or one array of tokens; send several in requests of their own")
}

func (s *server) completions(w http.ResponseWriter, r *http.Request) {
	var body completionRequest
	if err := readJSON(w, r, &body); err != nil {
		writeError(w, err)
		return
	}
	request, err := s.completionRequest(&body)
	if err != nil {
		writeError(w, err)
		return
	}
	s.answer(w, r, &job{
		kind:     textKind,
		request:  request,
		logprobs: body.Logprobs != nil,
		options:  &body.parameters,
	})
}

func (s *server) completionRequest(body *completionRequest) (larder.Request, error) {
	if err := s.checkModel(body.Model); err != nil {
		return larder.Request{}, err
	}
	for name, value := range map[string]json.RawMessage{"echo": body.Echo, "suffix": body.Suffix} {
		if isSet(value) {
			return larder.Request{}, badRequest(name, "%s is not supported by this server", name)
		}
	}
	if body.MaxTokens == nil {
		body.MaxTokens = new(int64)
		*body.MaxTokens = 16 // as OpenAI's API has it
	}
	request, err := body.request(s.perUser)
	if err != nil {
		return request, err
	}
	if body.BestOf != nil && *body.BestOf != int64(request.Answers) {
		return request, badRequest("best_of", "best_of is not supported by this server, other than as n")
	}
	if body.Logprobs != nil {
		if *body.Logprobs < 0 || *body.Logprobs > 20 {
			return request, badRequest("logprobs", "logprobs is %d, expected 0 to 20", *body.Logprobs)
		}
		request.Sampling.Logprobs = uint32(*body.Logprobs)
	}
	request.Prompt, request.Tokens = body.Prompt.text, body.Prompt.tokens
	return request, nil
}
