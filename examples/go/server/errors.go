package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"larder"
)

// apiError is an error in OpenAI's form.
type apiError struct {
	status  int
	Message string
	Type    string
	Param   string // "": null
	Code    string // "": null
}

const (
	invalidRequest = "invalid_request_error"
	serverError    = "server_error"

	contextLengthExceeded = "context_length_exceeded"
)

var errStopping = &apiError{
	status: http.StatusServiceUnavailable, Type: serverError, Message: "the server is stopping",
}

func (e *apiError) Error() string { return e.Message }

// MarshalJSON writes the object that OpenAI's clients read.
func (e *apiError) MarshalJSON() ([]byte, error) {
	orNull := func(text string) any {
		if text == "" {
			return nil
		}
		return text
	}
	return json.Marshal(map[string]any{"error": map[string]any{
		"message": e.Message, "type": e.Type, "param": orNull(e.Param), "code": orNull(e.Code),
	}})
}

func badRequest(param, format string, arguments ...any) error {
	return &apiError{
		status: http.StatusBadRequest, Type: invalidRequest, Param: param,
		Message: fmt.Sprintf(format, arguments...),
	}
}

func badJSON(err error) error {
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) {
		field := strings.TrimPrefix(wrong.Field, "parameters.")
		return badRequest(field, "%s is a JSON %s, which is not expected there", field, wrong.Value)
	}
	var known *apiError
	if errors.As(err, &known) {
		return known
	}
	return badRequest("", "the body is not the JSON that is expected: %v", err)
}

// asAPIError says what an engine's error means to a client.
func asAPIError(err error) *apiError {
	var known *apiError
	if errors.As(err, &known) {
		return known
	}
	e := &apiError{status: http.StatusInternalServerError, Type: serverError}
	e.Message = strings.TrimPrefix(err.Error(), "larder: ")
	switch {
	case errors.Is(err, larder.ErrInvalidArgument):
		e.status, e.Type = http.StatusBadRequest, invalidRequest
		// The two limits that a prompt can break.
		if strings.Contains(e.Message, "max_sequence_tokens is") ||
			strings.Contains(e.Message, "total_tokens is") {
			e.Code = contextLengthExceeded
		}
	case errors.Is(err, larder.ErrUnsupported):
		e.status, e.Type, e.Code = http.StatusBadRequest, invalidRequest, "unsupported_value"
	case errors.Is(err, larder.ErrLimitReached):
		e.status, e.Type, e.Code = http.StatusTooManyRequests, "rate_limit_error", "rate_limit_exceeded"
	case errors.Is(err, larder.ErrOutOfSlots), errors.Is(err, larder.ErrClosed),
		errors.Is(err, larder.ErrEngineFailed):
		e.status = http.StatusServiceUnavailable
	}
	return e
}

func writeError(w http.ResponseWriter, err error) {
	e := asAPIError(err)
	w.Header().Set("Content-Type", "application/json")
	if e.status == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", "1")
	}
	w.WriteHeader(e.status)
	_ = json.NewEncoder(w).Encode(e)
}
