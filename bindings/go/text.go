package larder

// #include <larder.h>
import "C"

import (
	"encoding/json"
	"errors"
	"unsafe"
)

// Message is one message of a chat.
type Message struct {
	Role    string `json:"role"` // As in "system", "user", "assistant".
	Content string `json:"content"`
}

// TokenizeOptions says how text becomes tokens. For a rendered chat, set both.
type TokenizeOptions struct {
	AddSpecial   bool // Add what the model wants around a text (BOS, EOS).
	ParseSpecial bool // Control tokens that are written out become those tokens; else they are plain text.
}

// Tokenize turns text into tokens.
func (e *Engine) Tokenize(text string, options TokenizeOptions) ([]uint32, error) {
	flags := choose(options.AddSpecial, C.LARDER_TEXT_ADD_SPECIAL) |
		choose(options.ParseSpecial, C.LARDER_TEXT_PARSE_SPECIAL)
	return fill(e, len(text)/2+8, func(
		engine *C.larder_engine, out *uint32, room C.size_t, needed *C.size_t,
	) status {
		return C.larder_text_tokenize(engine, chars(text), C.size_t(len(text)), flags,
			(*C.uint32_t)(unsafe.Pointer(out)), room, needed)
	})
}

// DetokenizeOptions says how tokens become text.
type DetokenizeOptions struct {
	SkipSpecial bool // Leave control tokens out.
}

// Detokenize turns tokens into the bytes that they stand for, which need not be whole UTF-8 characters.
func (e *Engine) Detokenize(tokens []uint32, options DetokenizeOptions) (string, error) {
	flags := choose(options.SkipSpecial, C.LARDER_TEXT_SKIP_SPECIAL)
	text, err := fill(e, 8*len(tokens)+8, func(
		engine *C.larder_engine, out *byte, room C.size_t, needed *C.size_t,
	) status {
		return C.larder_text_detokenize(engine, (*C.uint32_t)(unsafe.SliceData(tokens)),
			C.size_t(len(tokens)), flags, (*C.char)(unsafe.Pointer(out)), room, needed)
	})
	return string(text), err
}

// RenderChat writes a chat as the model was trained on it, with the beginning of the next answer: a prompt for a
// [Request] with ParseSpecial set.
func (e *Engine) RenderChat(messages []Message) (string, error) {
	chat, err := json.Marshal(map[string]any{"messages": messages, "add_generation_prompt": true})
	if err != nil {
		return "", err
	}
	return e.RenderChatJSON(string(chat))
}

// RenderChatJSON renders a chat that is given as one JSON object: messages, and whatever else the model's template
// knows, such as tools or add_generation_prompt.
func (e *Engine) RenderChatJSON(chat string) (string, error) {
	text, err := fill(e, 2*len(chat)+64, func(
		engine *C.larder_engine, out *byte, room C.size_t, needed *C.size_t,
	) status {
		return C.larder_text_render_chat(engine, chars(chat), C.size_t(len(chat)),
			(*C.char)(unsafe.Pointer(out)), room, needed)
	})
	return string(text), err
}

// Describe returns a few lines for people: model, sizes, the compute area's mode and why it was chosen.
func (e *Engine) Describe() (string, error) {
	text, err := fill(e, 1024, func(
		engine *C.larder_engine, out *byte, room C.size_t, needed *C.size_t,
	) status {
		return C.larder_engine_describe(engine, (*C.char)(unsafe.Pointer(out)), room, needed)
	})
	return string(text), err
}

// fill calls write with room for a guess of elements, and again when more are needed.
func fill[T any](
	e *Engine, guess int,
	write func(engine *C.larder_engine, out *T, room C.size_t, needed *C.size_t) status,
) ([]T, error) {
	out := make([]T, guess)
	for {
		var needed C.size_t
		err := e.with(func(engine *C.larder_engine) status {
			return write(engine, unsafe.SliceData(out), C.size_t(len(out)), &needed)
		})
		if err == nil {
			return out[:needed], nil
		}
		if !errors.Is(err, ErrBufferTooSmall) {
			return nil, err
		}
		out = make([]T, needed)
	}
}

// chars lends a string's bytes to C for one call.
func chars(text string) *C.char {
	if text == "" {
		return nil
	}
	return (*C.char)(unsafe.Pointer(unsafe.StringData(text)))
}

func choose(is bool, bit C.uint32_t) C.uint32_t {
	if is {
		return bit
	}
	return 0
}
