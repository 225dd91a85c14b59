#include <larder.h>

/* Sets up hooks that call back into Go; handle is a number that Go knows its side by. */
void larder_go_hooks(larder_hooks *hooks, uintptr_t handle, uint32_t log_level, int has_progress, int has_evicted);
