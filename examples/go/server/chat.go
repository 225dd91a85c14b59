package main

import (
	"encoding/json"
	"net/http"
	"strings"

	"larder"
)

type chatRequest struct {
	parameters
	Messages     []chatMessage   `json:"messages"`
	Logprobs     bool            `json:"logprobs"`
	TopLogprobs  *int64          `json:"top_logprobs"`
	Tools        json.RawMessage `json:"tools"`
	ToolChoice   json.RawMessage `json:"tool_choice"`
	Functions    json.RawMessage `json:"functions"`
	FunctionCall json.RawMessage `json:"function_call"`
	Audio        json.RawMessage `json:"audio"`
}

type chatMessage struct {
	Role    string      `json:"role"`
	Content chatContent `json:"content"`
}

// chatContent is text, or parts that are all text.
type chatContent string

func (c *chatContent) UnmarshalJSON(data []byte) error {
	if !strings.HasPrefix(string(data), "[") {
		return json.Unmarshal(data, (*string)(c))
	}
	var parts []struct {
		Type string `json:"type"`
		Text string `json:"text"`
	}
	if err := json.Unmarshal(data, &parts); err != nil {
		return err
	}
	for _, part := range parts {
		if part.Type != "text" {
			return badRequest("messages", "a message has a part of type '%s', only text is supported", part.Type)
		}
		*c += chatContent(part.Text)
	}
	return nil
}

func (s *server) chatCompletions(w http.ResponseWriter, r *http.Request) {
	var body chatRequest
	if err := readJSON(w, r, &body); err != nil {
		writeError(w, err)
		return
	}
	request, err := s.chatRequest(&body)
	if err != nil {
		writeError(w, err)
		return
	}
	s.answer(w, r, &job{
		kind:     chatKind,
		request:  request,
		logprobs: body.Logprobs,
		options:  &body.parameters,
	})
}

func (s *server) chatRequest(body *chatRequest) (larder.Request, error) {
	if err := s.checkModel(body.Model); err != nil {
		return larder.Request{}, err
	}
	for name, value := range map[string]json.RawMessage{
		"tools": body.Tools, "functions": body.Functions, "audio": body.Audio,
		"tool_choice": body.ToolChoice, "function_call": body.FunctionCall,
	} {
		if isSet(value) && string(value) != `"auto"` {
			return larder.Request{}, badRequest(name, "%s is not supported by this server", name)
		}
	}
	request, err := body.request(s.perUser)
	if err != nil {
		return request, err
	}
	if body.TopLogprobs != nil {
		if !body.Logprobs || *body.TopLogprobs < 0 || *body.TopLogprobs > 20 {
			return request, badRequest("top_logprobs", "top_logprobs must be 0 to 20, and needs logprobs to be true")
		}
		request.Sampling.Logprobs = uint32(*body.TopLogprobs)
	}
	request.Prompt, err = s.render(body.Messages)
	request.ParseSpecial = true
	return request, err
}

func (s *server) render(messages []chatMessage) (string, error) {
	if len(messages) == 0 {
		return "", badRequest("messages", "messages is empty, at least one message is expected")
	}
	chat := make([]larder.Message, len(messages))
	for i, message := range messages {
		switch message.Role {
		case "developer":
			message.Role = "system"
		case "system", "user", "assistant":
		default:
			return "", badRequest("messages",
				"messages[%d].role is '%s', expected system, developer, user or assistant", i, message.Role)
		}
		chat[i] = larder.Message{Role: message.Role, Content: string(message.Content)}
	}
	return s.engine.RenderChat(chat)
}
