// Package larder runs language models inside a Go program, through the C library of the same name.
//
//	engine, err := larder.Open("model.gguf", larder.WithMemoryLimit(2<<30))
//	if err != nil {
//		return err
//	}
//	defer engine.Close()
//	for piece, err := range engine.Generate(ctx, larder.Request{Prompt: "Once upon a time"}) {
//		if err != nil {
//			return err
//		}
//		fmt.Print(piece.Text)
//	}
//
// Everything is reserved by [Open]: weights, the K and V of a fixed number of tokens (token slots), activations.
// Any number of goroutines may call [Engine.Generate]; one goroutine of the engine computes all of them together,
// step by step. Every method may be called at any time from any goroutine.
//
// The C library is found by pkg-config (larder.pc, which make install writes). With GOFLAGS=-tags=larder_static in the
// environment, the program contains the library instead of needing liblarder.so.
package larder

// #include <larder.h>
import "C"

import "runtime"

// Version returns the C library's version, as "major.minor.patch".
func Version() string {
	return C.GoString(C.larder_version())
}

// status is what the C library's calls return.
type status = C.larder_status

// call runs one call of the C library, whose message belongs to the thread that it ran on.
func call(f func() status) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	result := f()
	if result == C.LARDER_OK {
		return nil
	}
	return &Error{Status: Status(result), Message: C.GoString(C.larder_last_error())}
}
