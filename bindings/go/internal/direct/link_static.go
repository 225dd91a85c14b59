//go:build larder_static

package direct

// #cgo pkg-config: larder-static
import "C"
