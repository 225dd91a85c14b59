package larder

// #include <larder.h>
import "C"

// NameSpace says what the prefix cache does for the requests of one namespace. Requests share prefixes inside their
// namespace only.
type NameSpace struct {
	// Pinned: its prefixes are never evicted, and so do not count as free.
	Pinned bool
	// MaxIdleTokens: token slots that are kept for it while no sequence reads them. 0: no limit of its own.
	MaxIdleTokens uint32
	// KeepsNothing: nothing is kept. Requests still share what runs at the same time.
	KeepsNothing bool
}

// SetNameSpace sets what the prefix cache does for a namespace from now on. It waits for the step that runs.
func (e *Engine) SetNameSpace(id uint64, nameSpace NameSpace) error {
	var options C.larder_name_space_options
	C.larder_name_space_options_init(&options)
	options.is_pinned = choose(nameSpace.Pinned, 1)
	options.max_idle_tokens = C.uint32_t(nameSpace.MaxIdleTokens)
	options.keeps_nothing = choose(nameSpace.KeepsNothing, 1)
	return e.between(func(engine *C.larder_engine) status {
		return C.larder_name_space_set(engine, C.uint64_t(id), &options)
	})
}

// FlushCache evicts every cached prefix that no sequence reads and no namespace has pinned. It waits for the step
// that runs.
func (e *Engine) FlushCache() error {
	return e.between(func(engine *C.larder_engine) status { return C.larder_cache_flush(engine) })
}
