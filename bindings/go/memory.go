package larder

// #include <larder.h>
import "C"

// Memory is what an engine takes, in bytes. [Plan] tells it before loading, [Engine.Memory] afterwards: the same.
type Memory struct {
	AreaMode         AreaMode // What AreaAuto chose; Engine.Describe tells why.
	WeightsBytes     uint64   // The model's weights, as the backend packs them.
	KVRepoBytes      uint64   // K and V of TotalTokens token slots and one more, all layers.
	ComputeAreaBytes uint64   // Every activation.
	BookkeepingBytes uint64   // Sequences, requests, tokenizer tables.
	HostBytes        uint64   // Of all classes, what lies in the host's memory.
	DeviceBytes      uint64   // Of all classes, what lies in the device's memory.
	LoadPeakBytes    uint64   // Highest use while Open runs.
	TotalTokens      uint64   // Token slots.
	TokenSlotBytes   uint64   // One token, all layers.
}

// Plan tells what an engine would take. It reads headers only, and needs no device.
func Plan(path string, options ...Option) (Memory, error) {
	s := settingsOf(options)
	var memory C.larder_memory
	C.larder_memory_init(&memory)
	err := withPath(path, func(path *C.char) error {
		return call(func() status { return C.larder_engine_plan(path, &s.values, &memory) })
	})
	return memoryOf(&memory), err
}

// Memory tells the bytes in use.
func (e *Engine) Memory() (Memory, error) {
	var memory C.larder_memory
	C.larder_memory_init(&memory)
	err := e.with(func(engine *C.larder_engine) status {
		return C.larder_engine_memory(engine, &memory)
	})
	return memoryOf(&memory), err
}

func memoryOf(memory *C.larder_memory) Memory {
	return Memory{
		AreaMode:         AreaMode(memory.area_mode),
		WeightsBytes:     uint64(memory.weights_bytes),
		KVRepoBytes:      uint64(memory.kv_repo_bytes),
		ComputeAreaBytes: uint64(memory.compute_area_bytes),
		BookkeepingBytes: uint64(memory.bookkeeping_bytes),
		HostBytes:        uint64(memory.host_bytes),
		DeviceBytes:      uint64(memory.device_bytes),
		LoadPeakBytes:    uint64(memory.load_peak_bytes),
		TotalTokens:      uint64(memory.total_tokens),
		TokenSlotBytes:   uint64(memory.token_slot_bytes),
	}
}
