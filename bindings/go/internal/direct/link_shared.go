//go:build !larder_static

package direct

// #cgo pkg-config: larder
import "C"
