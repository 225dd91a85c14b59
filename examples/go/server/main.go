// A server with OpenAI's HTTP API for one model in this process.
//
//	server -listen 127.0.0.1:8080 model.gguf
//
// It shows how a service uses larder: each HTTP request is one Generate, whose context is the client's.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"larder"
)

// settings are the command line.
type settings struct {
	listen     string
	model      string
	name       string
	perUser    bool
	grace      time.Duration
	options    []larder.Option
	isPlanOnly bool
}

func main() {
	s, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		os.Exit(2) // the flag package has told why
	}
	if err := run(s); err != nil {
		slog.Error(err.Error())
		os.Exit(1)
	}
}

func parse(arguments []string) (*settings, error) {
	s := new(settings)
	flags := flag.NewFlagSet("server", flag.ContinueOnError)
	flags.Usage = func() {
		fmt.Fprintln(flags.Output(), "usage: server [flags] MODEL")
		flags.PrintDefaults()
	}
	flags.StringVar(&s.listen, "listen", "127.0.0.1:8080", "address; port 0 takes a free one")
	flags.StringVar(&s.name, "name", "", "what clients call the model (default: its file's name)")
	flags.BoolVar(&s.perUser, "namespace-per-user", false,
		"requests share cached prefixes only with those that have the same user")
	flags.DurationVar(&s.grace, "grace", 30*time.Second,
		"how long running requests may go on after SIGTERM")
	flags.BoolVar(&s.isPlanOnly, "plan", false, "tell what the model would take, and end")
	memory := flags.Uint64("memory-limit", 0, "MiB that everything together may take (0: no limit)")
	tokens := flags.Uint64("total-tokens", 0, "token slots that all requests share (0: chosen)")
	context := flags.Uint("max-sequence-tokens", 0, "longest prompt and answer together (0: chosen)")
	sequences := flags.Uint("max-sequences", 16, "answers that are computed at one time")
	requests := flags.Uint("max-requests", 256, "requests that wait or run at one time")
	threads := flags.Uint("threads", 0, "threads (0: one per core)")
	cuda := flags.Int("cuda", -1, "number of the CUDA GPU to use (-1: the processor)")
	if err := flags.Parse(arguments); err != nil {
		return nil, err
	}
	if flags.NArg() != 1 {
		flags.Usage()
		return nil, errors.New("one model is expected")
	}
	s.model = flags.Arg(0)
	if s.name == "" {
		s.name = filepath.Base(filepath.Clean(s.model))
	}
	s.options = []larder.Option{
		larder.WithMemoryLimit(*memory << 20),
		larder.WithTotalTokens(*tokens),
		larder.WithMaxSequenceTokens(uint32(*context)),
		larder.WithMaxSequences(uint32(*sequences)),
		larder.WithMaxRequests(uint32(*requests)),
		larder.WithThreads(uint32(*threads)),
		larder.WithLogger(slog.Default()),
	}
	if *cuda >= 0 {
		s.options = append(s.options, larder.WithCUDA(uint32(*cuda)))
	}
	return s, nil
}

func run(s *settings) error {
	plan, err := larder.Plan(s.model, s.options...)
	if err != nil {
		return err
	}
	slog.Info("plan", "weights_mib", plan.WeightsBytes>>20, "kv_repo_mib", plan.KVRepoBytes>>20,
		"compute_area_mib", plan.ComputeAreaBytes>>20, "total_tokens", plan.TotalTokens)
	if s.isPlanOnly {
		return nil
	}
	engine, err := larder.Open(s.model, s.options...)
	if err != nil {
		return err
	}
	defer engine.Close()
	listener, err := net.Listen("tcp", s.listen)
	if err != nil {
		return err
	}
	slog.Info("listening", "address", listener.Addr().String(), "model", s.name)
	web := &server{engine: engine, name: s.name, perUser: s.perUser, started: time.Now()}
	return serve(web, listener, s.grace)
}

// serve returns when SIGTERM or SIGINT came and all requests have ended: by themselves, or cancelled after grace.
func serve(s *server, listener net.Listener, grace time.Duration) error {
	stop, forget := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer forget()
	requests, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	web := &http.Server{
		Handler:           s.routes(),
		ReadHeaderTimeout: 10 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return requests },
	}
	failed := make(chan error, 1)
	go func() { failed <- web.Serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-stop.Done():
	}
	slog.Info("stopping", "grace", grace)
	s.stopping.Store(true)
	limited, done := context.WithTimeout(context.Background(), grace)
	defer done()
	if web.Shutdown(limited) == nil {
		return nil
	}
	cancel(errStopping)
	limited, done = context.WithTimeout(context.Background(), 5*time.Second)
	defer done()
	if web.Shutdown(limited) != nil {
		return web.Close()
	}
	return nil
}
