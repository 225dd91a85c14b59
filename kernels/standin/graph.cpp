// Graphs: what one stream was given while it captured, done again at each launch.
#include "world.h"

#undef cuStreamBeginCapture
#undef cuGraphInstantiate

using namespace standin;

STANDIN_API CUresult cuStreamBeginCapture_v2(CUstream handle, CUstreamCaptureMode mode) {
    ENTER_CALL();
    const auto stream = find_stream(handle);
    if (!stream)
        return CUDA_ERROR_INVALID_HANDLE;
    const std::lock_guard lock(stream->mutex);
    if (stream == current()->default_stream || stream->capturing)
        return CUDA_ERROR_ILLEGAL_STATE;
    stream->capturing = true;
    stream->capture_broken = false;
    stream->capture_mode = mode;
    stream->captured.clear();
    return CUDA_SUCCESS;
}

STANDIN_API CUresult cuStreamEndCapture(CUstream handle, CUgraph* graph) {
    const CUresult result = enter_call();
    if (current() == nullptr)
        return result;
    const auto stream = find_stream(handle);
    if (!stream)
        return CUDA_ERROR_INVALID_HANDLE;
    auto made = std::make_unique<Graph>();
    {
        const std::lock_guard lock(stream->mutex);
        if (!stream->capturing)
            return CUDA_ERROR_ILLEGAL_STATE;
        stream->capturing = false;
        made->operations = std::move(stream->captured);
        stream->captured.clear();
        if (stream->capture_broken) {
            *graph = nullptr;
            return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
        }
    }
    if (result != CUDA_SUCCESS)
        return result;
    World& its_world = world();
    const std::lock_guard lock(its_world.mutex);
    ++its_world.books.graphs;
    *graph = reinterpret_cast<CUgraph>(made.release());
    return CUDA_SUCCESS;
}

STANDIN_API CUresult cuStreamIsCapturing(CUstream handle, CUstreamCaptureStatus* status) {
    ENTER_CALL();
    *status = is_capturing(handle) ? CU_STREAM_CAPTURE_STATUS_ACTIVE : CU_STREAM_CAPTURE_STATUS_NONE;
    return CUDA_SUCCESS;
}

STANDIN_API CUresult cuGraphInstantiateWithFlags(CUgraphExec* executable, CUgraph graph, unsigned long long) {
    ENTER_CALL();
    auto* made = new Graph(*reinterpret_cast<Graph*>(graph));
    made->executable = true;
    World& its_world = world();
    const std::lock_guard lock(its_world.mutex);
    ++its_world.books.graphs;
    *executable = reinterpret_cast<CUgraphExec>(made);
    return CUDA_SUCCESS;
}

STANDIN_API CUresult cuGraphUpload(CUgraphExec, CUstream) {
    ENTER_CALL();
    return CUDA_SUCCESS;
}

STANDIN_API CUresult cuGraphLaunch(CUgraphExec executable, CUstream stream) {
    ENTER_CALL();
    if (is_capturing(stream))
        return refuse_in_capture();
    for (const Operation& operation : reinterpret_cast<Graph*>(executable)->operations)
        if (const CUresult result = enqueue(stream, operation); result != CUDA_SUCCESS)
            return result;
    return CUDA_SUCCESS;
}

static CUresult destroy(void* graph) {
    const CUresult result = enter_call();
    delete static_cast<Graph*>(graph);
    World& its_world = world();
    const std::lock_guard lock(its_world.mutex);
    --its_world.books.graphs;
    return result;
}

STANDIN_API CUresult cuGraphExecDestroy(CUgraphExec executable) { return destroy(executable); }

STANDIN_API CUresult cuGraphDestroy(CUgraph graph) { return destroy(graph); }
