#include "hooks.h"

#include "_cgo_export.h"

static void log_line(void *user, uint32_t level, const char *text, size_t length) {
    larderGoLog((uintptr_t)user, level, (char *)text, length);
}

static int32_t progress(void *user, uint64_t done_bytes, uint64_t total_bytes) {
    return larderGoProgress((uintptr_t)user, done_bytes, total_bytes);
}

static void evicted(void *user, uint64_t name_space, uint64_t n_tokens) {
    larderGoEvicted((uintptr_t)user, name_space, n_tokens);
}

void larder_go_hooks(larder_hooks *hooks, uintptr_t handle, uint32_t log_level, int has_progress, int has_evicted) {
    larder_hooks_init(hooks);
    hooks->user = (void *)handle;
    hooks->log_level = log_level;
    if (log_level > 0) hooks->log = log_line;
    if (has_progress) hooks->progress = progress;
    if (has_evicted) hooks->evicted = evicted;
}
