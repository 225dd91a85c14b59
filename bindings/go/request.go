package larder

// #include <larder.h>
import "C"

import (
	"math"
	"runtime"
	"unsafe"
)

// Request is a prompt and what is to be generated after it. Only the prompt is needed.
type Request struct {
	// Prompt is text, with what the model wants around a prompt added. Or else give Tokens.
	Prompt string
	// ParseSpecial: control tokens that Prompt writes out are those tokens, as in what RenderChat returns.
	ParseSpecial bool
	// Tokens are taken as they are, in place of Prompt.
	Tokens []uint32

	MaxNewTokens      uint32 // 0: as many as fit.
	ExpectedNewTokens uint32 // A hint: how long an answer is likely to become; 0: from past answers.
	Answers           uint32 // How many answers to the one prompt; 0: 1.
	Priority          int32  // Higher ones go first and are paused last.
	NameSpace         uint64 // Prefixes are shared inside one namespace only.
	// Stops are texts that end an answer and are not part of it.
	Stops      []string
	Constraint Constraint
	Sampling   Sampling
}

// ConstraintKind is the language of a constraint.
type ConstraintKind uint32

// The kinds of constraints.
const (
	NoConstraint ConstraintKind = iota
	JSONSchema                  // a JSON schema
	Regex                       // a regular expression
	LarkGrammar                 // a grammar as Lark writes it
)

// Constraint is what an answer must look like.
type Constraint struct {
	Kind ConstraintKind
	Text string // The schema, expression or grammar.
}

// Sampling is how tokens are chosen. The zero value always takes the most likely one.
type Sampling struct {
	Temperature       float32 // 0: greedy.
	TopK              uint32  // 0: off.
	TopP              float32 // 0 means 1: off.
	MinP              float32 // 0: off.
	RepetitionPenalty float32 // 0 means 1: off.
	PresencePenalty   float32 // 0: off.
	FrequencyPenalty  float32 // 0: off.
	Seed              uint64  // The same seed, the same answer. Answer i has Seed + i.
	Logprobs          uint32  // How many of the most likely tokens each piece tells.
	// Biases are added to the logits of tokens; minus infinity bans one.
	Biases map[uint32]float32
}

// options writes the request for C. What its pointers lead to is pinned.
func (r *Request) options(pinner *runtime.Pinner) (C.larder_request_options, error) {
	var o C.larder_request_options
	C.larder_request_options_init(&o)
	if max(len(r.Tokens), len(r.Stops), len(r.Sampling.Biases)) > math.MaxUint32 {
		return o, invalid("Tokens, Stops or Biases has more than 2^32 - 1 elements")
	}
	if len(r.Tokens) > 0 {
		o.n_prompt_tokens = C.uint32_t(len(r.Tokens))
		o.prompt_tokens = (*C.uint32_t)(pinned(pinner, r.Tokens))
	}
	o.prompt_text = pinnedText(pinner, r.Prompt)
	o.prompt_flags = choose(r.ParseSpecial, C.LARDER_TEXT_PARSE_SPECIAL)
	o.max_new_tokens = C.uint32_t(r.MaxNewTokens)
	o.expected_new_tokens = C.uint32_t(r.ExpectedNewTokens)
	o.n_answers = C.uint32_t(r.Answers)
	o.priority = C.int32_t(r.Priority)
	o.name_space = C.uint64_t(r.NameSpace)
	if len(r.Stops) > 0 {
		stops := make([]C.larder_text, len(r.Stops))
		for i, stop := range r.Stops {
			stops[i] = pinnedText(pinner, stop)
		}
		o.n_stops = C.uint32_t(len(stops))
		o.stops = (*C.larder_text)(pinned(pinner, stops))
	}
	o.constraint_kind = C.uint32_t(r.Constraint.Kind)
	o.constraint = pinnedText(pinner, r.Constraint.Text)
	r.Sampling.write(&o.sampling, pinner)
	return o, nil
}

func (s *Sampling) write(o *C.larder_sampling, pinner *runtime.Pinner) {
	o.temperature = C.float(s.Temperature)
	o.top_k = C.uint32_t(s.TopK)
	o.top_p = C.float(s.TopP)
	o.min_p = C.float(s.MinP)
	o.repetition_penalty = C.float(s.RepetitionPenalty)
	o.presence_penalty = C.float(s.PresencePenalty)
	o.frequency_penalty = C.float(s.FrequencyPenalty)
	o.seed = C.uint64_t(s.Seed)
	o.n_logprobs = C.uint32_t(s.Logprobs)
	if len(s.Biases) == 0 {
		return
	}
	tokens := make([]uint32, 0, len(s.Biases))
	biases := make([]float32, 0, len(s.Biases))
	for token, bias := range s.Biases {
		tokens = append(tokens, token)
		biases = append(biases, bias)
	}
	o.n_biases = C.uint32_t(len(tokens))
	o.bias_tokens = (*C.uint32_t)(pinned(pinner, tokens))
	o.biases = (*C.float)(pinned(pinner, biases))
}

// pinned returns the address of a slice that is not empty.
func pinned[T any](pinner *runtime.Pinner, values []T) unsafe.Pointer {
	address := unsafe.SliceData(values)
	pinner.Pin(address)
	return unsafe.Pointer(address)
}

func pinnedText(pinner *runtime.Pinner, text string) C.larder_text {
	if text == "" {
		return C.larder_text{}
	}
	pinner.Pin(unsafe.StringData(text))
	return C.larder_text{data: chars(text), length: C.size_t(len(text))}
}
