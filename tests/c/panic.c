/* A defect inside becomes a status, in the calling thread and in a worker; the engine is failed, release works, other
 * engines go on, and nothing is printed. Needs a library with the feature test-panic. */
#include "capture.h"
#include "check.h"

#include <pthread.h>
#include <time.h>

/* Panics: 0 in the call itself, 1 in a worker during the next forward or step. Only in test libraries. */
larder_status larder_test_panic(larder_engine *engine, uint32_t where);

static void only_release_works(larder_engine *engine) {
    size_t n;
    larder_sequence sequence = 0;
    larder_request request = 0;
    larder_event event;
    uint64_t length;
    uint32_t token = 1;
    char text[8];
    uint32_t has_work;
    int32_t fd;
    larder_stats stats;
    larder_memory memory;
    larder_batch batch;
    larder_output output;
    larder_request_options options;
    larder_stats_init(&stats);
    larder_memory_init(&memory);
    larder_batch_init(&batch);
    larder_output_init(&output);
    larder_request_options_init(&options);
    EXPECT(LARDER_ENGINE_FAILED, larder_engine_memory(engine, &memory));
    EXPECT(LARDER_ENGINE_FAILED, larder_engine_describe(engine, text, sizeof text, &n));
    EXPECT(LARDER_ENGINE_FAILED, larder_sequence_open(engine, &sequence));
    EXPECT(LARDER_ENGINE_FAILED, larder_sequence_fork(engine, 1, 0, &sequence));
    EXPECT(LARDER_ENGINE_FAILED, larder_sequence_truncate(engine, 1, 0));
    EXPECT(LARDER_ENGINE_FAILED, larder_sequence_length(engine, 1, &length));
    EXPECT(LARDER_ENGINE_FAILED, larder_sequence_release(engine, 1));
    EXPECT(LARDER_ENGINE_FAILED, larder_engine_forward(engine, &batch, &output));
    EXPECT(LARDER_ENGINE_FAILED, larder_request_submit(engine, &options, &request));
    EXPECT(LARDER_ENGINE_FAILED, larder_request_cancel(engine, 1));
    EXPECT(LARDER_ENGINE_FAILED, larder_engine_step(engine, &event, 1, &n));
    EXPECT(LARDER_ENGINE_FAILED, larder_engine_wait(engine, LARDER_WAIT_FOREVER, &has_work));
    EXPECT(LARDER_ENGINE_FAILED, larder_engine_event_fd(engine, &fd));
    EXPECT(LARDER_ENGINE_FAILED, larder_engine_stats(engine, &stats));
    EXPECT(LARDER_ENGINE_FAILED, larder_name_space_set(engine, 1, NULL));
    EXPECT(LARDER_ENGINE_FAILED, larder_cache_flush(engine));
    EXPECT(LARDER_ENGINE_FAILED, larder_text_tokenize(engine, "a", 1, 0, &token, 1, &n));
    EXPECT(LARDER_ENGINE_FAILED, larder_text_detokenize(engine, &token, 1, 0, text, 8, &n));
    EXPECT(LARDER_ENGINE_FAILED, larder_text_render_chat(engine, "{}", 2, text, 8, &n));
    SAYS("release");
    EXPECT(LARDER_OK, larder_engine_release(engine));
}

static larder_status waited = LARDER_OK;

static void *wait_forever(void *engine) {
    uint32_t has_work;
    waited = larder_engine_wait(engine, LARDER_WAIT_FOREVER, &has_work);
    return NULL;
}

int main(int argc, char **argv) {
    const char *model = model_of(argc, argv);
    larder_options options = small_options();
    options.n_threads = 2;
    larder_engine *first = engine_of(model, &options), *second = engine_of(model, &options),
                  *third = engine_of(model, &options);
    capture c = capture_begin();

    /* Who sleeps for work that will never come is woken. */
    pthread_t waiter;
    CHECK(pthread_create(&waiter, NULL, wait_forever, first) == 0);
    nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    larder_status status = larder_test_panic(first, 0);
    CHECK(status == LARDER_INTERNAL && strstr(larder_last_error(), "injected") != NULL);
    pthread_join(waiter, NULL);
    CHECK(waited == LARDER_ENGINE_FAILED);

    larder_sequence sequence = 0;
    const uint32_t token = 1;
    larder_batch batch;
    larder_output output;
    larder_batch_init(&batch);
    larder_output_init(&output);
    CHECK(larder_sequence_open(second, &sequence) == LARDER_OK);
    batch.n_rows = 1;
    batch.tokens = &token;
    batch.sequences = &sequence;
    CHECK(larder_test_panic(second, 1) == LARDER_OK);
    CHECK(larder_engine_forward(second, &batch, &output) == LARDER_INTERNAL);
    CHECK(strstr(larder_last_error(), "injected") != NULL);

    size_t n_bytes = capture_end(&c);
    CHECK(n_bytes == 0);
    only_release_works(first);
    only_release_works(second);

    EXPECT(LARDER_OK, larder_sequence_open(third, &sequence));
    EXPECT(LARDER_OK, larder_engine_forward(third, &batch, &output));
    EXPECT(LARDER_OK, larder_engine_release(third));
    return finish();
}
