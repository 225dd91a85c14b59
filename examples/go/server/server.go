package main

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"larder"
)

// maxBodyBytes is more than any prompt that fits.
const maxBodyBytes = 16 << 20

// server answers for one engine.
type server struct {
	engine   *larder.Engine
	name     string // what clients call the model
	perUser  bool   // each user has a namespace of the prefix cache
	started  time.Time
	stopping atomic.Bool
}

func (s *server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/chat/completions", s.chatCompletions)
	mux.HandleFunc("POST /v1/completions", s.completions)
	mux.HandleFunc("GET /v1/models", s.models)
	mux.HandleFunc("GET /v1/models/{model}", s.model)
	mux.HandleFunc("GET /metrics", s.metrics)
	mux.HandleFunc("GET /healthz", s.health)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeError(w, &apiError{
			status: http.StatusNotFound, Type: invalidRequest,
			Message: "there is no " + r.Method + " " + r.URL.Path,
		})
	})
	return mux
}

type modelInfo struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Created int64  `json:"created"`
	OwnedBy string `json:"owned_by"`
}

func (s *server) info() modelInfo {
	return modelInfo{s.name, "model", s.started.Unix(), "larder"}
}

func (s *server) models(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, map[string]any{"object": "list", "data": []modelInfo{s.info()}})
}

func (s *server) model(w http.ResponseWriter, r *http.Request) {
	if err := s.checkModel(r.PathValue("model")); err != nil {
		writeError(w, err)
		return
	}
	writeJSON(w, s.info())
}

func (s *server) checkModel(name string) error {
	if name == s.name {
		return nil
	}
	return &apiError{
		status: http.StatusNotFound, Type: invalidRequest, Param: "model", Code: "model_not_found",
		Message: "the model '" + name + "' does not exist; this server has '" + s.name + "'",
	}
}

func (s *server) metrics(w http.ResponseWriter, _ *http.Request) {
	stats, err := s.engine.Stats()
	if err != nil {
		writeError(w, err)
		return
	}
	text, err := stats.Prometheus("larder_")
	if err != nil {
		writeError(w, err)
		return
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4")
	_, _ = io.WriteString(w, text)
}

// health tells a load balancer whether to send requests.
func (s *server) health(w http.ResponseWriter, _ *http.Request) {
	if s.stopping.Load() {
		writeError(w, errStopping)
		return
	}
	if _, err := s.engine.Stats(); err != nil {
		writeError(w, err)
		return
	}
	_, _ = io.WriteString(w, "ok\n")
}

// readJSON reads a body to its end, so that net/http notices when the client leaves.
func readJSON(w http.ResponseWriter, r *http.Request, into any) error {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBodyBytes))
	if err != nil {
		return badRequest("", "the body could not be read: %v", err)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return badJSON(err)
	}
	return nil
}

func writeJSON(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(value); err != nil {
		slog.Debug("a client is gone", "error", err)
	}
}
