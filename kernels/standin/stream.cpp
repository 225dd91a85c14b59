// Streams that do their work only when somebody waits for it, and events.
#include "world.h"

#include <chrono>

#undef cuStreamDestroy
#undef cuEventDestroy
#undef cuEventElapsedTime
#undef cuStreamBeginCapture

namespace standin {

std::shared_ptr<Stream> find_stream(CUstream handle) {
    if (handle == nullptr || handle == CU_STREAM_LEGACY || handle == CU_STREAM_PER_THREAD)
        return current()->default_stream;
    World& its_world = world();
    const std::lock_guard lock(its_world.mutex);
    const auto found = its_world.streams.find(reinterpret_cast<Stream*>(handle));
    return found == its_world.streams.end() ? nullptr : found->second;
}

bool is_capturing(CUstream handle) {
    const auto stream = find_stream(handle);
    if (!stream)
        return false;
    const std::lock_guard lock(stream->mutex);
    return stream->capturing;
}

CUresult enqueue(CUstream handle, Operation operation) {
    const auto stream = find_stream(handle);
    if (!stream)
        return CUDA_ERROR_INVALID_HANDLE;
    {
        const std::lock_guard lock(stream->mutex);
        if (stream->capturing) {
            stream->captured.push_back(std::move(operation));
            return CUDA_SUCCESS;
        }
        stream->queue.push_back({std::move(operation), thread().policy});
    }
    return thread().eager_streams ? drain(*stream) : CUDA_SUCCESS;
}

CUresult drain(Stream& stream, const std::function<bool()>& enough) {
    const std::lock_guard running(stream.running);
    while (sticky(*stream.context) == CUDA_SUCCESS && !(enough && enough())) {
        Stream::Entry entry;
        {
            const std::lock_guard lock(stream.mutex);
            if (stream.queue.empty())
                break;
            entry = std::move(stream.queue.front());
            stream.queue.pop_front();
        }
        const Outcome outcome = entry.operation(entry.policy);
        if (outcome.result != CUDA_SUCCESS)
            make_sticky(*stream.context, outcome);
    }
    return sticky(*stream.context);
}

CUresult drain_context(Context& context) {
    std::vector<std::shared_ptr<Stream>> streams{context.default_stream};
    {
        const std::lock_guard lock(context.world->mutex);
        for (const auto& [_, stream] : context.world->streams)
            if (stream->context == &context)
                streams.push_back(stream);
    }
    for (const auto& stream : streams)
        drain(*stream);
    return sticky(context);
}

CUresult refuse_in_capture() {
    World& its_world = world();
    const std::lock_guard lock(its_world.mutex);
    for (const auto& [_, stream] : its_world.streams) {
        const std::lock_guard stream_lock(stream->mutex);
        if (stream->capturing && stream->capture_mode != CU_STREAM_CAPTURE_MODE_RELAXED) {
            stream->capture_broken = true;
            return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
        }
    }
    return CUDA_SUCCESS;
}

} // namespace standin

using namespace standin;

namespace {

struct Event {
    std::shared_ptr<EventState> state = std::make_shared<EventState>();
};
EventState& state_of(CUevent event) { return *reinterpret_cast<Event*>(event)->state; }

double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Does the work in front of the event's record number `record`.
CUresult wait_for(EventState& event, uint64_t record) {
    const auto stream = event.stream.lock();
    if (!stream || event.n_done >= record)
        return CUDA_SUCCESS;
    return drain(*stream, [&] { return event.n_done >= record; });
}

// A poll does one piece of work, so that a host which polls gets to the end.
CUresult poll(Stream& stream) {
    bool first = true;
    const CUresult result = drain(stream, [&] { return !std::exchange(first, false); });
    if (result != CUDA_SUCCESS)
        return result;
    const std::lock_guard lock(stream.mutex);
    return stream.queue.empty() ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}

} // namespace

STANDIN_API CUresult cuStreamCreate(CUstream* handle, unsigned) {
    ENTER_CALL();
    auto stream = std::make_shared<Stream>(current());
    *handle = reinterpret_cast<CUstream>(stream.get());
    World& its_world = world();
    const std::lock_guard lock(its_world.mutex);
    its_world.streams[stream.get()] = stream;
    ++its_world.books.streams;
    return CUDA_SUCCESS;
}

STANDIN_API CUresult cuStreamDestroy_v2(CUstream handle) {
    CUresult result = enter_call();
    if (current() == nullptr)
        return result;
    const auto stream = find_stream(handle);
    if (!stream || stream == current()->default_stream)
        return CUDA_ERROR_INVALID_HANDLE;
    if (const CUresult drained = drain(*stream); result == CUDA_SUCCESS)
        result = drained;
    World& its_world = world();
    const std::lock_guard lock(its_world.mutex);
    its_world.streams.erase(stream.get());
    --its_world.books.streams;
    return result;
}

STANDIN_API CUresult cuStreamSynchronize(CUstream handle) {
    ENTER_CALL();
    if (is_capturing(handle))
        return refuse_in_capture();
    const auto stream = find_stream(handle);
    return stream ? drain(*stream) : CUDA_ERROR_INVALID_HANDLE;
}

STANDIN_API CUresult cuStreamQuery(CUstream handle) {
    ENTER_CALL();
    const auto stream = find_stream(handle);
    return stream ? poll(*stream) : CUDA_ERROR_INVALID_HANDLE;
}

STANDIN_API CUresult cuStreamGetCtx(CUstream handle, CUcontext* context) {
    ENTER_CALL();
    const auto stream = find_stream(handle);
    if (!stream)
        return CUDA_ERROR_INVALID_HANDLE;
    *context = reinterpret_cast<CUcontext>(stream->context);
    return CUDA_SUCCESS;
}

STANDIN_API CUresult cuLaunchHostFunc(CUstream handle, CUhostFn function, void* data) {
    ENTER_CALL();
    return enqueue(handle, [=](const simt::Policy&) -> Outcome {
        function(data);
        return {};
    });
}

STANDIN_API CUresult cuEventCreate(CUevent* event, unsigned) {
    ENTER_CALL();
    *event = reinterpret_cast<CUevent>(new Event());
    const std::lock_guard lock(world().mutex);
    ++world().books.events;
    return CUDA_SUCCESS;
}

STANDIN_API CUresult cuEventDestroy_v2(CUevent event) {
    const CUresult result = enter_call();
    delete reinterpret_cast<Event*>(event);
    World& its_world = world();
    const std::lock_guard lock(its_world.mutex);
    --its_world.books.events;
    return result;
}

STANDIN_API CUresult cuEventRecord(CUevent event, CUstream handle) {
    ENTER_CALL();
    const auto stream = find_stream(handle);
    if (!stream)
        return CUDA_ERROR_INVALID_HANDLE;
    if (is_capturing(handle))
        return refuse_in_capture(); // would join the event to the graph, which this stand-in does not do
    auto state = reinterpret_cast<Event*>(event)->state;
    state->stream = stream;
    const uint64_t record = ++state->n_recorded;
    return enqueue(handle, [=](const simt::Policy&) -> Outcome {
        state->seconds = now();
        state->n_done = record;
        return {};
    });
}

STANDIN_API CUresult cuEventSynchronize(CUevent event) {
    ENTER_CALL();
    return wait_for(state_of(event), state_of(event).n_recorded);
}

STANDIN_API CUresult cuEventQuery(CUevent event) {
    ENTER_CALL();
    EventState& state = state_of(event);
    if (const auto stream = state.stream.lock(); stream && state.n_done < state.n_recorded)
        if (const CUresult result = poll(*stream); result != CUDA_SUCCESS && result != CUDA_ERROR_NOT_READY)
            return result;
    return state.n_done < state.n_recorded ? CUDA_ERROR_NOT_READY : CUDA_SUCCESS;
}

STANDIN_API CUresult cuEventElapsedTime_v2(float* milliseconds, CUevent start, CUevent end) {
    ENTER_CALL();
    for (EventState* state : {&state_of(start), &state_of(end)}) {
        if (state->n_recorded == 0)
            return CUDA_ERROR_INVALID_HANDLE;
        if (state->n_done < state->n_recorded)
            return CUDA_ERROR_NOT_READY;
    }
    *milliseconds = float((state_of(end).seconds - state_of(start).seconds) * 1e3);
    return CUDA_SUCCESS;
}

STANDIN_API CUresult cuStreamWaitEvent(CUstream handle, CUevent event, unsigned) {
    ENTER_CALL();
    if (is_capturing(handle))
        return refuse_in_capture();
    auto state = reinterpret_cast<Event*>(event)->state;
    const uint64_t record = state->n_recorded;
    return enqueue(handle, [=](const simt::Policy&) -> Outcome { return {wait_for(*state, record), {}}; });
}
