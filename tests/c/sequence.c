/* open, fork, truncate, length, release: limits, and handles that are stale or another engine's. */
#include "check.h"

static void handles_are_checked(larder_engine *engine, larder_engine *other) {
    larder_sequence a = 0, b = 0, foreign = 0;
    uint64_t length = 77;
    EXPECT(LARDER_OK, larder_sequence_open(engine, &a));
    EXPECT(LARDER_OK, larder_sequence_open(other, &foreign));
    CHECK(a != 0 && foreign != 0);
    const larder_sequence wrong[] = {0, 1, a ^ 1, a ^ ((uint64_t)1 << 32), ~a, foreign, UINT64_MAX};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        b = 5;
        EXPECT(LARDER_STALE_HANDLE, larder_sequence_length(engine, wrong[i], &length));
        EXPECT(LARDER_STALE_HANDLE, larder_sequence_truncate(engine, wrong[i], 0));
        EXPECT(LARDER_STALE_HANDLE, larder_sequence_fork(engine, wrong[i], 0, &b));
        SAYS("parent");
        EXPECT(LARDER_STALE_HANDLE, larder_sequence_release(engine, wrong[i]));
        CHECK(length == 77 && b == 5);
    }
    EXPECT(LARDER_OK, larder_sequence_release(engine, a));
    EXPECT(LARDER_STALE_HANDLE, larder_sequence_release(engine, a));
    EXPECT(LARDER_OK, larder_sequence_open(engine, &b));
    EXPECT(LARDER_STALE_HANDLE, larder_sequence_length(engine, a, &length));
    EXPECT(LARDER_OK, larder_sequence_length(engine, b, &length));
    CHECK(a != b && length == 0);
    EXPECT(LARDER_OK, larder_sequence_release(engine, b));
    EXPECT(LARDER_OK, larder_sequence_release(other, foreign));
}

static void limits_are_named(larder_engine *engine) {
    larder_sequence all[4], one_more = 9;
    for (int i = 0; i < 4; i++) EXPECT(LARDER_OK, larder_sequence_open(engine, &all[i]));
    EXPECT(LARDER_LIMIT_REACHED, larder_sequence_open(engine, &one_more));
    SAYS("max_sequences");
    EXPECT(LARDER_LIMIT_REACHED, larder_sequence_fork(engine, all[0], 0, &one_more));
    CHECK(one_more == 9);
    EXPECT(LARDER_INVALID_ARGUMENT, larder_sequence_truncate(engine, all[0], 1));
    EXPECT(LARDER_INVALID_ARGUMENT, larder_sequence_truncate(engine, all[0], UINT64_MAX));
    for (int i = 0; i < 4; i++) EXPECT(LARDER_OK, larder_sequence_release(engine, all[i]));
    EXPECT(LARDER_OK, larder_sequence_open(engine, &all[0]));
    EXPECT(LARDER_INVALID_ARGUMENT, larder_sequence_fork(engine, all[0], 1, &one_more));
    EXPECT(LARDER_INVALID_ARGUMENT,
           larder_sequence_fork(engine, all[0], (uint64_t)1 << 32, &one_more));
    EXPECT(LARDER_OK, larder_sequence_release(engine, all[0]));
}

/* A handle of an engine that was released is nothing to the next one, even at the same address. */
static void engines_do_not_share_handles(const char *model, const larder_options *options) {
    larder_sequence before = 0, now = 0;
    uint64_t length;
    larder_engine *first = engine_of(model, options);
    EXPECT(LARDER_OK, larder_sequence_open(first, &before));
    EXPECT(LARDER_OK, larder_engine_release(first));
    larder_engine *second = engine_of(model, options);
    EXPECT(LARDER_OK, larder_sequence_open(second, &now));
    EXPECT(LARDER_STALE_HANDLE, larder_sequence_length(second, before, &length));
    EXPECT(LARDER_OK, larder_engine_release(second));
}

int main(int argc, char **argv) {
    const char *model = model_of(argc, argv);
    larder_options options = small_options();
    larder_engine *engine = engine_of(model, &options), *other = engine_of(model, &options);
    handles_are_checked(engine, other);
    limits_are_named(engine);
    EXPECT(LARDER_OK, larder_engine_release(other));
    handles_are_checked(engine, other = engine_of(model, &options));
    EXPECT(LARDER_OK, larder_engine_release(engine));
    EXPECT(LARDER_OK, larder_engine_release(other));
    engines_do_not_share_handles(model, &options);
    return finish();
}
