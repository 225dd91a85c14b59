package larder

/*
#include <stdlib.h>
#include <larder.h>
*/
import "C"

import (
	"runtime"
	"strings"
	"sync"
	"unsafe"
)

// Engine is one model on one device, with its token slots. Close it when it is no longer needed.
type Engine struct {
	core    *core
	cleanup runtime.Cleanup
}

// core is what outlives a forgotten Engine: the goroutine that steps knows only this.
type core struct {
	hooks *hooks
	loop  loop

	// life is held for reading by each call on handle, and for writing by release.
	life   sync.RWMutex
	handle *C.larder_engine // nil once released

	closing sync.Once
	closed  error // what release returned
}

// Open loads a model: a .gguf file (of a split one the first), or a folder with config.json and safetensors.
func Open(path string, options ...Option) (*Engine, error) {
	s := settingsOf(options)
	c := &core{hooks: newHooks(s)}
	err := withPath(path, func(path *C.char) error {
		return create(path, s, c)
	})
	c.hooks.rethrow()
	if err != nil {
		c.hooks.forget()
		return nil, err
	}
	c.loop.start(c)
	e := &Engine{core: c}
	e.cleanup = runtime.AddCleanup(e, func(c *core) { go c.close() }, c)
	return e, nil
}

func create(path *C.char, s *settings, c *core) error {
	giveBack := c.hooks.lend(&s.values)
	defer giveBack()
	err := call(func() status { return C.larder_engine_create(path, &s.values, &c.handle) })
	if err != nil && c.hooks != nil && c.hooks.stopped != nil {
		return c.hooks.stopped
	}
	return err
}

// Close ends everything that the engine is generating with [ErrClosed], and gives all memory back. Only the first
// call does something.
func (e *Engine) Close() error {
	e.cleanup.Stop()
	return e.core.close()
}

func (c *core) close() error {
	c.closing.Do(func() {
		c.loop.stop()
		c.life.Lock()
		defer c.life.Unlock()
		c.closed = call(func() status { return C.larder_engine_release(c.handle) })
		c.handle = nil
		c.hooks.forget()
	})
	return c.closed
}

// with runs one call on an engine that is not released meanwhile.
func (c *core) with(f func(engine *C.larder_engine) status) error {
	c.life.RLock()
	defer c.life.RUnlock()
	if c.handle == nil {
		return ErrClosed
	}
	defer c.hooks.rethrow()
	return call(func() status { return f(c.handle) })
}

// with keeps the engine from being cleaned up during the call.
func (e *Engine) with(f func(engine *C.larder_engine) status) error {
	defer runtime.KeepAlive(e)
	return e.core.with(f)
}

// withPath lends path to C.
func withPath(path string, f func(path *C.char) error) error {
	if strings.IndexByte(path, 0) >= 0 {
		return invalid("the model's path %q has a NUL byte", path)
	}
	text := C.CString(path)
	defer C.free(unsafe.Pointer(text))
	return f(text)
}
