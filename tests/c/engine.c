/* create, describe, release: two engines, release orders, a load that the host stops. */
#include "check.h"

static int32_t stop_the_load(void *user, uint64_t done_bytes, uint64_t total_bytes) {
    (void)total_bytes;
    *(uint64_t *)user += 1;
    return done_bytes > 0;
}

static void describe_fills_a_buffer(const char *model) {
    larder_options options = small_options();
    larder_engine *engine = engine_of(model, &options);
    size_t needed = 0, again = 0;
    EXPECT(LARDER_BUFFER_TOO_SMALL, larder_engine_describe(engine, NULL, 0, &needed));
    CHECK(needed > 20);
    char *text = malloc(needed);
    memset(text, '#', needed);
    EXPECT(LARDER_BUFFER_TOO_SMALL, larder_engine_describe(engine, text, needed - 1, &again));
    CHECK(again == needed && text[0] == '#');
    EXPECT(LARDER_OK, larder_engine_describe(engine, text, needed, &again));
    CHECK(again == needed && memchr(text, 0, needed) == NULL);
    free(text);
    EXPECT(LARDER_OK, larder_engine_release(engine));
}

/* Sequences and requests may be released before, after or never: the engine's release ends them. */
static void release_in_any_order(const char *model) {
    const uint32_t prompt[] = {3, 4, 5};
    for (int order = 0; order < 6; order++) {
        larder_options options = small_options();
        larder_engine *engine = engine_of(model, &options);
        larder_sequence sequence = 0, child = 0;
        EXPECT(LARDER_OK, larder_sequence_open(engine, &sequence));
        EXPECT(LARDER_OK, larder_sequence_fork(engine, sequence, 0, &child));
        larder_request_options request_options;
        larder_request_options_init(&request_options);
        request_options.prompt_tokens = prompt;
        request_options.n_prompt_tokens = 3;
        larder_request request = 0;
        EXPECT(LARDER_OK, larder_request_submit(engine, &request_options, &request));
        larder_event events[4];
        size_t n_events;
        EXPECT(LARDER_OK, larder_engine_step(engine, events, 4, &n_events));
        if (order & 1) EXPECT(LARDER_OK, larder_sequence_release(engine, sequence));
        if (order & 2) EXPECT(LARDER_OK, larder_sequence_release(engine, child));
        if (order & 4) EXPECT(LARDER_OK, larder_request_cancel(engine, request));
        if (order & 1) EXPECT(LARDER_STALE_HANDLE, larder_sequence_release(engine, sequence));
        EXPECT(LARDER_OK, larder_engine_release(engine));
    }
    EXPECT(LARDER_OK, larder_engine_release(NULL));
}

static void the_host_may_stop_the_load(const char *model) {
    uint64_t n_calls = 0;
    larder_hooks hooks;
    larder_hooks_init(&hooks);
    hooks.user = &n_calls;
    hooks.progress = stop_the_load;
    larder_options options = small_options();
    options.hooks = &hooks;
    larder_engine *engine = NULL;
    EXPECT(LARDER_CANCELLED, larder_engine_create(model, &options, &engine));
    CHECK(n_calls > 0 && engine == NULL);
}

int main(int argc, char **argv) {
    const char *model = model_of(argc, argv);
    CHECK(larder_abi_version() == LARDER_ABI_VERSION);
    char version[32];
    snprintf(version, sizeof version, "%d.%d.%d", LARDER_VERSION_MAJOR, LARDER_VERSION_MINOR,
             LARDER_VERSION_PATCH);
    CHECK(strcmp(version, larder_version()) == 0);
    CHECK(larder_last_error()[0] == 0);
    describe_fills_a_buffer(model);
    release_in_any_order(model);
    the_host_may_stop_the_load(model);
    return finish();
}
