//go:build !larder_static

package larder

// Two files for the two ways to link: Go's build cache would not tell two conditions in one file apart.

// #cgo pkg-config: larder
import "C"
