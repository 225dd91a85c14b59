package larder

// #include <larder.h>
import "C"

import (
	"errors"
	"time"
	"unsafe"
)

// Stats is what an engine has done and holds, as of the end of its last step.
type Stats struct {
	TotalSlots  uint64 // Token slots of the KV repo.
	UsedSlots   uint64 // Token slots that sequences read or pinned namespaces keep.
	FreeSlots   uint64 // Token slots that can be taken, by eviction if need be.
	TreeSlots   uint64 // Token slots that the prefix cache holds, read or not.
	SharedSlots uint64 // Token slots saved by sequences that read the same ones.

	RequestsWaiting uint64 // Requests that are not admitted yet.
	RequestsRunning uint64 // Requests that are admitted and have not ended.
	AnswersRunning  uint64 // Answers that are computed.
	AnswersPaused   uint64 // Answers that were paused for lack of slots.

	RequestsFinished  uint64 // Since Open: requests whose answers are complete.
	RequestsCancelled uint64 // Since Open: requests that were cancelled.
	RequestsFailed    uint64 // Since Open: requests with an answer that failed.
	PromptTokens      uint64 // Since Open: prompt tokens of admitted answers.
	CachedTokens      uint64 // Since Open: those of them that the prefix cache had.
	GeneratedTokens   uint64 // Since Open: tokens drawn.
	Pauses            uint64 // Since Open: answers paused.
	EvictedSlots      uint64 // Since Open: token slots taken back from the prefix cache.
	Steps             uint64 // Since Open: steps with at least one row.
	DecodeRows        uint64 // Since Open: rows of answers that lacked one token.
	PrefillRows       uint64 // Since Open: rows of prompts and of resumed answers.
	LastStepRows      uint64 // Rows of the last step.

	ScheduleTime time.Duration // Since Open: time spent on scheduling.
	ForwardTime  time.Duration // Since Open: time spent in layers.
	SampleTime   time.Duration // Since Open: time spent on logits and on drawing tokens.

	ConstraintBytes uint64 // Bytes that compiled constraints and their parsers take, an estimate.
}

// Stats waits for nothing.
func (e *Engine) Stats() (Stats, error) {
	var stats C.larder_stats
	C.larder_stats_init(&stats)
	err := e.with(func(engine *C.larder_engine) status {
		return C.larder_engine_stats(engine, &stats)
	})
	if err != nil {
		return Stats{}, err
	}
	var s Stats
	for _, number := range s.numbers(&stats) {
		*number.ours = uint64(*number.c)
	}
	return s, nil
}

// Prometheus writes the statistics in Prometheus' text format (version 0.0.4). prefix begins every metric's name,
// as in "larder_".
func (s Stats) Prometheus(prefix string) (string, error) {
	var stats C.larder_stats
	C.larder_stats_init(&stats)
	for _, number := range s.numbers(&stats) {
		*number.c = C.uint64_t(*number.ours)
	}
	text := make([]byte, 4096)
	for {
		var needed C.size_t
		err := call(func() status {
			return C.larder_stats_prometheus(&stats, chars(prefix), C.size_t(len(prefix)),
				(*C.char)(unsafe.Pointer(unsafe.SliceData(text))), C.size_t(len(text)), &needed)
		})
		if err == nil {
			return string(text[:needed]), nil
		}
		if !errors.Is(err, ErrBufferTooSmall) {
			return "", err
		}
		text = make([]byte, needed)
	}
}

type number struct {
	ours *uint64
	c    *C.uint64_t
}

// numbers pairs each of our numbers with C's.
func (s *Stats) numbers(c *C.larder_stats) []number {
	nanoseconds := func(d *time.Duration) *uint64 { return (*uint64)(unsafe.Pointer(d)) }
	return []number{
		{&s.TotalSlots, &c.total_slots},
		{&s.UsedSlots, &c.used_slots},
		{&s.FreeSlots, &c.free_slots},
		{&s.TreeSlots, &c.tree_slots},
		{&s.SharedSlots, &c.shared_slots},
		{&s.RequestsWaiting, &c.requests_waiting},
		{&s.RequestsRunning, &c.requests_running},
		{&s.AnswersRunning, &c.answers_running},
		{&s.AnswersPaused, &c.answers_paused},
		{&s.RequestsFinished, &c.requests_finished},
		{&s.RequestsCancelled, &c.requests_cancelled},
		{&s.RequestsFailed, &c.requests_failed},
		{&s.PromptTokens, &c.prompt_tokens},
		{&s.CachedTokens, &c.cached_tokens},
		{&s.GeneratedTokens, &c.generated_tokens},
		{&s.Pauses, &c.pauses},
		{&s.EvictedSlots, &c.evicted_slots},
		{&s.Steps, &c.steps},
		{&s.DecodeRows, &c.decode_rows},
		{&s.PrefillRows, &c.prefill_rows},
		{&s.LastStepRows, &c.last_step_rows},
		{nanoseconds(&s.ScheduleTime), &c.schedule_nanoseconds},
		{nanoseconds(&s.ForwardTime), &c.forward_nanoseconds},
		{nanoseconds(&s.SampleTime), &c.sample_nanoseconds},
		{&s.ConstraintBytes, &c.constraint_bytes},
	}
}
