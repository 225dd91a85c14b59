package larder

/*
#include <stdlib.h>
#include <larder.h>
*/
import "C"

import (
	"errors"
	"runtime"
	"sync"
	"unsafe"
)

// eventRoom is how many events one step hands over. What does not fit comes with the next one.
const eventRoom = 64

// loop is the one goroutine that steps, while anything runs. Otherwise it sleeps as goroutines do, and not in
// larder_engine_wait: nobody else submits to this engine, and a sleep in C would hold a thread and outlast Close.
type loop struct {
	mu   sync.Mutex
	wake sync.Cond
	// streams are the requests that have not ended, by the number that their events carry as user.
	streams map[uint64]*stream
	last    uint64
	// running counts the streams whose submit has returned.
	running int
	// commands run between two steps.
	commands []func()
	stopping bool
	// failed, once set, answers all later requests.
	failed error
	done   chan struct{}
}

func (l *loop) start(c *core) {
	l.wake.L = &l.mu
	l.streams = make(map[uint64]*stream)
	l.done = make(chan struct{})
	go l.run(c)
}

// stop returns when the goroutine has ended.
func (l *loop) stop() {
	l.mu.Lock()
	l.stopping = true
	l.wake.Signal()
	l.mu.Unlock()
	<-l.done
}

func (l *loop) run(c *core) {
	defer close(l.done)
	room := C.calloc(eventRoom, C.sizeof_larder_event)
	defer C.free(room)
	events := unsafe.Slice((*C.larder_event)(room), eventRoom)
	for l.next() {
		n, err := step(c, events)
		for i := range events[:n] {
			l.deliver(&events[i])
		}
		// A failed device has failed the requests, whose events follow. Anything else is the end.
		if err != nil && !errors.Is(err, ErrDevice) {
			l.end(err)
		}
	}
	l.end(ErrClosed)
}

// next runs commands and sleeps until there is something to step for; false when the loop is to end.
func (l *loop) next() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for !l.stopping {
		if len(l.commands) > 0 {
			commands := l.commands
			l.commands = nil
			l.mu.Unlock()
			for _, command := range commands {
				command()
			}
			l.mu.Lock()
			continue
		}
		if l.running > 0 {
			return true
		}
		l.wake.Wait()
	}
	return false
}

func step(c *core, events []C.larder_event) (int, error) {
	var n C.size_t
	err := c.with(func(engine *C.larder_engine) status {
		return C.larder_engine_step(engine, unsafe.SliceData(events), C.size_t(len(events)), &n)
	})
	return int(n), err
}

func (l *loop) deliver(event *C.larder_event) {
	l.mu.Lock()
	s := l.streams[uint64(event.user)]
	l.mu.Unlock()
	if s == nil {
		return
	}
	if s.push(entryOf(event)) {
		l.remove(s)
	}
}

// end ends all that runs, and all that would.
func (l *loop) end(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed = err
	l.running = 0
	for id, s := range l.streams {
		s.fail(err)
		delete(l.streams, id)
	}
	for _, command := range l.commands {
		command()
	}
	l.commands = nil
}

// add makes the stream of a request of n answers that is about to be submitted.
func (l *loop) add(n int) (*stream, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed != nil {
		return nil, l.failed
	}
	l.last++
	s := newStream(l.last, n)
	l.streams[s.id] = s
	return s, nil
}

// submitted wakes the loop for a stream.
func (l *loop) submitted(s *stream) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.streams[s.id] == s {
		s.counts = true
		l.running++
		l.wake.Signal()
	}
}

// remove forgets a stream that has ended or was not submitted.
func (l *loop) remove(s *stream) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.streams[s.id] == s && s.counts {
		l.running--
	}
	delete(l.streams, s.id)
}

// between runs a call that must not meet a step.
func (e *Engine) between(f func(engine *C.larder_engine) status) error {
	defer runtime.KeepAlive(e)
	l := &e.core.loop
	result := make(chan error, 1)
	l.mu.Lock()
	if l.failed != nil {
		defer l.mu.Unlock()
		return l.failed
	}
	l.commands = append(l.commands, func() { result <- e.core.with(f) })
	l.wake.Signal()
	l.mu.Unlock()
	return <-result
}
