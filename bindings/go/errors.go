package larder

// #include <larder.h>
import "C"

import (
	"errors"
	"fmt"
)

// Status says what kind of failure an [Error] is. It is an error itself, for errors.Is:
//
//	if errors.Is(err, larder.ErrOutOfSlots) { ... }
type Status int32

// The kinds of failure.
const (
	// ErrInvalidArgument: an option or a field is out of range; the message names it. Also a request that could
	// never fit.
	ErrInvalidArgument Status = C.LARDER_INVALID_ARGUMENT
	// ErrStaleHandle: a handle of something that has ended.
	ErrStaleHandle Status = C.LARDER_STALE_HANDLE
	// ErrBusy: another call is running on the engine.
	ErrBusy Status = C.LARDER_BUSY
	// ErrIO: a file could not be opened or read.
	ErrIO Status = C.LARDER_IO
	// ErrBadModel: the model's files contradict themselves, or its logits are not finite.
	ErrBadModel Status = C.LARDER_BAD_MODEL
	// ErrUnsupported: well formed, but not for this build, device, model or version.
	ErrUnsupported Status = C.LARDER_UNSUPPORTED
	// ErrOutOfMemory: more memory than the limit or the machine has.
	ErrOutOfMemory Status = C.LARDER_OUT_OF_MEMORY
	// ErrOutOfSlots: fewer token slots are free than needed.
	ErrOutOfSlots Status = C.LARDER_OUT_OF_SLOTS
	// ErrLimitReached: one of the maxima of the options is reached; the message names it.
	ErrLimitReached Status = C.LARDER_LIMIT_REACHED
	// ErrBufferTooSmall: never returned by this package.
	ErrBufferTooSmall Status = C.LARDER_BUFFER_TOO_SMALL
	// ErrDevice: the device or its driver failed.
	ErrDevice Status = C.LARDER_DEVICE
	// ErrCancelled: a callback asked to stop.
	ErrCancelled Status = C.LARDER_CANCELLED
	// ErrEngineFailed: an earlier error left the engine unusable.
	ErrEngineFailed Status = C.LARDER_ENGINE_FAILED
	// ErrInternal: a defect of larder. The engine is unusable from then on.
	ErrInternal Status = C.LARDER_INTERNAL
)

// ErrClosed is returned by the methods of a closed engine, and ends what it was generating.
var ErrClosed = errors.New("larder: the engine is closed")

var statusTexts = map[Status]string{
	ErrInvalidArgument: "invalid argument",
	ErrStaleHandle:     "stale handle",
	ErrBusy:            "busy",
	ErrIO:              "input or output failed",
	ErrBadModel:        "bad model",
	ErrUnsupported:     "unsupported",
	ErrOutOfMemory:     "out of memory",
	ErrOutOfSlots:      "out of token slots",
	ErrLimitReached:    "limit reached",
	ErrBufferTooSmall:  "buffer too small",
	ErrDevice:          "the device failed",
	ErrCancelled:       "cancelled",
	ErrEngineFailed:    "the engine has failed",
	ErrInternal:        "internal error",
}

// Error returns the kind in words.
func (s Status) Error() string {
	if text, ok := statusTexts[s]; ok {
		return "larder: " + text
	}
	return fmt.Sprintf("larder: status %d", int32(s))
}

// Error is a failure of the C library.
type Error struct {
	Status  Status
	Message string // What was wrong, in words.
}

// Error returns the message.
func (e *Error) Error() string {
	if e.Message == "" {
		return e.Status.Error()
	}
	return "larder: " + e.Message
}

// Unwrap returns the status, for errors.Is.
func (e *Error) Unwrap() error {
	return e.Status
}

func invalid(format string, arguments ...any) error {
	return &Error{Status: ErrInvalidArgument, Message: fmt.Sprintf(format, arguments...)}
}
