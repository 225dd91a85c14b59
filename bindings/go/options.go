package larder

// #include <larder.h>
import "C"

import "log/slog"

// KVType is how K and V are stored.
type KVType uint32

// The types of K and V.
const (
	KVBF16 KVType = C.LARDER_KV_BF16 // bfloat16, the default
	KVF16  KVType = C.LARDER_KV_F16  // IEEE half precision
	KVF32  KVType = C.LARDER_KV_F32  // IEEE single precision
	KVInt8 KVType = C.LARDER_KV_INT8 // 8-bit integers, on CUDA devices
	KVFP8  KVType = C.LARDER_KV_FP8  // 8-bit floats (e4m3), on CUDA devices
)

// AreaMode is how the compute area trades bytes for speed.
type AreaMode uint32

// The compute area's modes.
const (
	AreaAuto  AreaMode = C.LARDER_AREA_AUTO  // chosen by [Open]
	AreaShort AreaMode = C.LARDER_AREA_SHORT // the smallest
	AreaLong  AreaMode = C.LARDER_AREA_LONG  // wide tiles
)

// Flags change how weights are stored and computed with.
type Flags uint32

// The flags, to be combined with |.
const (
	// ExactActivations: quantised weights meet f32 activations. Slower, closer to the reference.
	ExactActivations Flags = C.LARDER_FLAG_EXACT_ACTIVATIONS
	// CUDAFP8Weights: weights that the file has as plain floats are stored as 8-bit floats, on CUDA devices.
	CUDAFP8Weights Flags = C.LARDER_FLAG_CUDA_FP8_WEIGHTS
	// CUDAInt8Weights: the same as 8-bit integers.
	CUDAInt8Weights Flags = C.LARDER_FLAG_CUDA_INT8_WEIGHTS
)

// Option changes what [Open] and [Plan] do. Without any, everything is chosen from the model.
type Option func(*settings)

type settings struct {
	values   C.larder_options
	logger   *slog.Logger
	progress func(done, total uint64) error
	evicted  func(nameSpace, tokens uint64)
}

// WithCUDA runs the model on a CUDA GPU, 0 being the first.
func WithCUDA(index uint32) Option {
	return func(s *settings) {
		s.values.device = C.LARDER_DEVICE_CUDA
		s.values.device_index = C.uint32_t(index)
	}
}

// WithThreads sets how many threads compute, the one that steps included. 0: one per physical core.
func WithThreads(n uint32) Option {
	return func(s *settings) { s.values.n_threads = C.uint32_t(n) }
}

// WithMemoryLimit sets what everything together may take, in bytes.
func WithMemoryLimit(bytes uint64) Option {
	return func(s *settings) { s.values.memory_limit_bytes = C.uint64_t(bytes) }
}

// WithTotalTokens sets the number of token slots, which all requests share.
func WithTotalTokens(n uint64) Option {
	return func(s *settings) { s.values.total_tokens = C.uint64_t(n) }
}

// WithMaxSequenceTokens sets how long a prompt and its answer may be together.
func WithMaxSequenceTokens(n uint32) Option {
	return func(s *settings) { s.values.max_sequence_tokens = C.uint32_t(n) }
}

// WithMaxSequences sets how many answers are computed at one time; more wait. 0: 4.
func WithMaxSequences(n uint32) Option {
	return func(s *settings) { s.values.max_sequences = C.uint32_t(n) }
}

// WithMaxRequests sets how many requests wait or run at one time; more are refused. 0: 64.
func WithMaxRequests(n uint32) Option {
	return func(s *settings) { s.values.max_requests = C.uint32_t(n) }
}

// WithMaxBatchRows sets how many tokens of prompts and answers one step computes at most.
func WithMaxBatchRows(n uint32) Option {
	return func(s *settings) { s.values.max_batch_rows = C.uint32_t(n) }
}

// WithMaxLogitsRows sets for how many tokens logits exist at one time. 0: 16.
func WithMaxLogitsRows(n uint32) Option {
	return func(s *settings) { s.values.max_logits_rows = C.uint32_t(n) }
}

// WithKVTypes sets how K and V are stored.
func WithKVTypes(k, v KVType) Option {
	return func(s *settings) { s.values.k_type, s.values.v_type = C.uint32_t(k), C.uint32_t(v) }
}

// WithAreaMode sets the compute area's mode.
func WithAreaMode(mode AreaMode) Option {
	return func(s *settings) { s.values.area_mode = C.uint32_t(mode) }
}

// WithFlags sets flags.
func WithFlags(flags Flags) Option {
	return func(s *settings) { s.values.flags = C.uint32_t(flags) }
}

// WithLogger sends the engine's messages to logger, from the level on that it has enabled now. It must not call the
// engine.
func WithLogger(logger *slog.Logger) Option {
	return func(s *settings) { s.logger = logger }
}

// WithProgress calls progress while weights are read. An error stops the load, and [Open] returns it.
func WithProgress(progress func(doneBytes, totalBytes uint64) error) Option {
	return func(s *settings) { s.progress = progress }
}

// WithEvicted calls evicted when tokens of a cached prefix have left the KV repo. It must not call the engine.
func WithEvicted(evicted func(nameSpace, tokens uint64)) Option {
	return func(s *settings) { s.evicted = evicted }
}

func settingsOf(options []Option) *settings {
	s := new(settings)
	C.larder_options_init(&s.values)
	for _, option := range options {
		option(s)
	}
	return s
}
