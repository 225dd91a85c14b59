package larder

/*
#include <stdlib.h>
#include "hooks.h"
*/
import "C"

import (
	"context"
	"log/slog"
	"runtime/cgo"
	"sync/atomic"
	"unsafe"
)

// hooks are an engine's callbacks. C knows them by a number only.
type hooks struct {
	settings *settings
	handle   cgo.Handle
	// stopped is what progress returned.
	stopped error
	// panicked is what a callback panicked with. A panic must not cross the C library's frames.
	panicked atomic.Pointer[any]
}

// newHooks returns nil when nothing is to be called back.
func newHooks(s *settings) *hooks {
	if s.logger == nil && s.progress == nil && s.evicted == nil {
		return nil
	}
	h := &hooks{settings: s}
	h.handle = cgo.NewHandle(h)
	return h
}

// lend sets the hooks of options, and returns what takes them back after the call that copies them.
func (h *hooks) lend(options *C.larder_options) (giveBack func()) {
	if h == nil {
		return func() {}
	}
	s := h.settings
	lent := (*C.larder_hooks)(C.malloc(C.sizeof_larder_hooks))
	C.larder_go_hooks(lent, C.uintptr_t(h.handle), logLevel(s.logger),
		flag(s.progress != nil), flag(s.evicted != nil))
	options.hooks = lent
	return func() {
		options.hooks = nil
		C.free(unsafe.Pointer(lent))
	}
}

// rethrow goes on with a callback's panic, now that the C library has returned.
func (h *hooks) rethrow() {
	if h == nil {
		return
	}
	if value := h.panicked.Swap(nil); value != nil {
		panic(*value)
	}
}

// forget is for when C will not call any more.
func (h *hooks) forget() {
	if h != nil {
		h.handle.Delete()
	}
}

func flag(is bool) C.int {
	if is {
		return 1
	}
	return 0
}

// levels are slog's for the C library's 1 to 4.
var levels = [...]slog.Level{slog.LevelError, slog.LevelWarn, slog.LevelInfo, slog.LevelDebug}

func logLevel(logger *slog.Logger) C.uint32_t {
	n := 0
	for logger != nil && n < len(levels) && logger.Enabled(context.Background(), levels[n]) {
		n++
	}
	return C.uint32_t(n)
}

// caught runs a callback.
func caught(handle C.uintptr_t, callback func(h *hooks)) {
	h := cgo.Handle(handle).Value().(*hooks)
	defer func() {
		if value := recover(); value != nil {
			h.panicked.Store(&value)
		}
	}()
	callback(h)
}

//export larderGoLog
func larderGoLog(handle C.uintptr_t, level C.uint32_t, text *C.char, length C.size_t) {
	caught(handle, func(h *hooks) {
		h.log(int(level), string(unsafe.Slice((*byte)(unsafe.Pointer(text)), length)))
	})
}

// log takes a level of the C library, from 1 on.
func (h *hooks) log(level int, line string) {
	h.settings.logger.Log(context.Background(), levels[level-1], line)
}

//export larderGoProgress
func larderGoProgress(handle C.uintptr_t, done, total C.uint64_t) C.int32_t {
	stop := C.int32_t(1)
	caught(handle, func(h *hooks) {
		if h.stopped = h.settings.progress(uint64(done), uint64(total)); h.stopped == nil {
			stop = 0
		}
	})
	return stop
}

//export larderGoEvicted
func larderGoEvicted(handle C.uintptr_t, nameSpace, tokens C.uint64_t) {
	caught(handle, func(h *hooks) { h.settings.evicted(uint64(nameSpace), uint64(tokens)) })
}
