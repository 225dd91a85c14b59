package main

import (
	"encoding/json"
	"net/http"
	"time"
)

// writeTimeout is how long a client may take nothing before it counts as gone.
const writeTimeout = 30 * time.Second

// eventStream writes server-sent events.
type eventStream struct {
	w        http.ResponseWriter
	control  *http.ResponseController
	hasBegun bool
}

func newEventStream(w http.ResponseWriter) *eventStream {
	return &eventStream{w: w, control: http.NewResponseController(w)}
}

func (s *eventStream) send(value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return s.write(data)
}

// end tells the client that nothing follows.
func (s *eventStream) end() error {
	return s.write([]byte("[DONE]"))
}

func (s *eventStream) write(data []byte) error {
	if !s.hasBegun {
		s.hasBegun = true
		s.w.Header().Set("Content-Type", "text/event-stream")
		s.w.Header().Set("Cache-Control", "no-cache")
	}
	if err := s.control.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	event := append(append([]byte("data: "), data...), "\n\n"...)
	if _, err := s.w.Write(event); err != nil {
		return err
	}
	return s.control.Flush()
}
