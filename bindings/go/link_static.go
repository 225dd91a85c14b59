//go:build larder_static

package larder

// #cgo pkg-config: larder-static
import "C"
