/* Structs of older and later headers: too short, shorter, exact, longer with zeros, longer with something set. */
#include "check.h"

#define LATER(name) struct { name known; unsigned char added[24]; }

static larder_engine *engine;

static void options(const char *model) {
    LATER(larder_options) later;
    larder_memory memory;
    larder_memory_init(&memory);
    memset(&later, 0, sizeof later);
    larder_options_init(&later.known);
    CHECK(later.known.struct_size == sizeof(larder_options));
    const uint32_t wrong[] = {0, 1, 4, 7, 4097, UINT32_MAX};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        later.known.struct_size = wrong[i];
        EXPECT(LARDER_INVALID_ARGUMENT, larder_engine_plan(model, &later.known, &memory));
        SAYS("options.struct_size");
    }
    /* A short one has defaults for what it lacks, whatever lies behind it. */
    later.known.struct_size = offsetof(larder_options, memory_limit_bytes);
    later.known.k_type = 99;
    later.added[0] = 1;
    EXPECT(LARDER_OK, larder_engine_plan(model, &later.known, &memory));
    later.known.struct_size = sizeof later.known;
    EXPECT(LARDER_INVALID_ARGUMENT, larder_engine_plan(model, &later.known, &memory));
    SAYS("options.k_type");
    later.known.k_type = 0;
    EXPECT(LARDER_OK, larder_engine_plan(model, &later.known, &memory));
    later.known.struct_size = sizeof later;
    EXPECT(LARDER_INVALID_ARGUMENT, larder_engine_plan(model, &later.known, &memory));
    SAYS("later version");
    later.added[0] = 0;
    EXPECT(LARDER_OK, larder_engine_plan(model, &later.known, &memory));
    later.added[23] = 1;
    EXPECT(LARDER_INVALID_ARGUMENT, larder_engine_plan(model, &later.known, &memory));
}

static void hooks(const char *model) {
    LATER(larder_hooks) later;
    memset(&later, 0, sizeof later);
    larder_hooks_init(&later.known);
    larder_options options = small_options();
    options.hooks = &later.known;
    larder_memory memory;
    larder_memory_init(&memory);
    EXPECT(LARDER_OK, larder_engine_plan(model, &options, &memory));
    later.known.struct_size = 12;
    EXPECT(LARDER_INVALID_ARGUMENT, larder_engine_plan(model, &options, &memory));
    SAYS("options.hooks.struct_size");
    later.known.struct_size = sizeof later;
    EXPECT(LARDER_OK, larder_engine_plan(model, &options, &memory));
    later.added[8] = 1;
    EXPECT(LARDER_INVALID_ARGUMENT, larder_engine_plan(model, &options, &memory));
}

static void memory(void) {
    LATER(larder_memory) later;
    memset(&later, 0xee, sizeof later);
    later.known.struct_size = 0;
    EXPECT(LARDER_INVALID_ARGUMENT, larder_engine_memory(engine, &later.known));
    SAYS("larder_memory_init");
    later.known.struct_size = offsetof(larder_memory, kv_repo_bytes);
    EXPECT(LARDER_OK, larder_engine_memory(engine, &later.known));
    CHECK(later.known.struct_size == offsetof(larder_memory, kv_repo_bytes));
    CHECK(later.known.weights_bytes > 0 && later.known.weights_bytes < 0xee00000000000000u);
    CHECK(later.known.kv_repo_bytes == 0xeeeeeeeeeeeeeeeeu);
    /* What a later header added stays as the host left it: zero. */
    memset(&later, 0, sizeof later);
    later.known.struct_size = sizeof later;
    EXPECT(LARDER_OK, larder_engine_memory(engine, &later.known));
    CHECK(later.known.token_slot_bytes > 0 && later.added[0] == 0);
}

static void batch_and_output(void) {
    larder_sequence sequence;
    EXPECT(LARDER_OK, larder_sequence_open(engine, &sequence));
    const uint32_t token = 3;
    LATER(larder_batch) batch;
    LATER(larder_output) output;
    memset(&batch, 0, sizeof batch);
    memset(&output, 0, sizeof output);
    larder_batch_init(&batch.known);
    larder_output_init(&output.known);
    batch.known.n_rows = 1;
    batch.known.tokens = &token;
    batch.known.sequences = &sequence;
    batch.known.pooling = 99;
    EXPECT(LARDER_INVALID_ARGUMENT, larder_engine_forward(engine, &batch.known, &output.known));
    SAYS("batch.pooling");
    batch.known.struct_size = offsetof(larder_batch, pooling);
    EXPECT(LARDER_OK, larder_engine_forward(engine, &batch.known, &output.known));
    batch.known.struct_size = offsetof(larder_batch, sequences);
    EXPECT(LARDER_INVALID_ARGUMENT, larder_engine_forward(engine, &batch.known, &output.known));
    batch.known.struct_size = sizeof batch;
    batch.known.pooling = 0;
    EXPECT(LARDER_OK, larder_engine_forward(engine, &batch.known, &output.known));
    batch.added[0] = 1;
    EXPECT(LARDER_INVALID_ARGUMENT, larder_engine_forward(engine, &batch.known, &output.known));
    batch.known.struct_size = sizeof batch.known;
    output.known.struct_size = 8;
    EXPECT(LARDER_INVALID_ARGUMENT, larder_engine_forward(engine, &batch.known, &output.known));
    SAYS("output.struct_size");
    uint64_t length = 0;
    EXPECT(LARDER_OK, larder_sequence_length(engine, sequence, &length));
    CHECK(length == 2);
    EXPECT(LARDER_OK, larder_sequence_release(engine, sequence));
}

static void request_options(void) {
    const uint32_t token = 3;
    LATER(larder_request_options) later;
    larder_request request = 0;
    memset(&later, 0, sizeof later);
    larder_request_options_init(&later.known);
    CHECK(later.known.sampling.struct_size == sizeof(larder_sampling));
    later.known.prompt_tokens = &token;
    later.known.n_prompt_tokens = 1;
    later.known.max_new_tokens = 1;
    later.known.sampling.struct_size = 12;
    EXPECT(LARDER_INVALID_ARGUMENT, larder_request_submit(engine, &later.known, &request));
    SAYS("options.sampling.struct_size");
    later.known.struct_size = offsetof(larder_request_options, sampling);
    EXPECT(LARDER_OK, larder_request_submit(engine, &later.known, &request));
    later.known.struct_size = sizeof later;
    later.known.sampling.struct_size = 0;
    EXPECT(LARDER_OK, larder_request_submit(engine, &later.known, &request));
    later.known.sampling.temperature = 1;
    EXPECT(LARDER_INVALID_ARGUMENT, larder_request_submit(engine, &later.known, &request));
    later.known.sampling.struct_size = sizeof(larder_sampling);
    later.added[3] = 1;
    EXPECT(LARDER_INVALID_ARGUMENT, larder_request_submit(engine, &later.known, &request));
    SAYS("later version");
}

static void stats(void) {
    LATER(larder_stats) later;
    char text[8];
    size_t needed = 0;
    memset(&later, 0xee, sizeof later);
    later.known.struct_size = 0;
    EXPECT(LARDER_INVALID_ARGUMENT, larder_engine_stats(engine, &later.known));
    SAYS("larder_stats_init");
    EXPECT(LARDER_INVALID_ARGUMENT, larder_stats_prometheus(&later.known, NULL, 0, text, 0, &needed));
    SAYS("larder_stats_init");
    later.known.struct_size = offsetof(larder_stats, used_slots);
    EXPECT(LARDER_OK, larder_engine_stats(engine, &later.known));
    CHECK(later.known.struct_size == offsetof(larder_stats, used_slots));
    CHECK(later.known.total_slots > 0 && later.known.total_slots < 0xee00000000000000u);
    CHECK(later.known.used_slots == 0xeeeeeeeeeeeeeeeeu);
    /* A short one is written with zeros for what it lacks. */
    EXPECT(LARDER_BUFFER_TOO_SMALL, larder_stats_prometheus(&later.known, NULL, 0, text, 0, &needed));
    char *all = calloc(needed + 1, 1);
    EXPECT(LARDER_OK, larder_stats_prometheus(&later.known, NULL, 0, all, needed, &needed));
    CHECK(strstr(all, "\nused_slots 0\n") != NULL && strstr(all, "\ntotal_slots 0\n") == NULL);
    free(all);
    memset(&later, 0, sizeof later);
    later.known.struct_size = sizeof later;
    EXPECT(LARDER_OK, larder_engine_stats(engine, &later.known));
    CHECK(later.known.total_slots > 0 && later.added[0] == 0);
    EXPECT(LARDER_BUFFER_TOO_SMALL, larder_stats_prometheus(&later.known, NULL, 0, text, 0, &needed));
    later.added[5] = 1;
    EXPECT(LARDER_INVALID_ARGUMENT, larder_stats_prometheus(&later.known, NULL, 0, text, 0, &needed));
    SAYS("later version");
}

static void name_space_options(void) {
    LATER(larder_name_space_options) later;
    memset(&later, 0, sizeof later);
    larder_name_space_options_init(&later.known);
    CHECK(later.known.struct_size == sizeof(larder_name_space_options));
    EXPECT(LARDER_OK, larder_name_space_set(engine, 5, &later.known));
    later.known.struct_size = 4;
    EXPECT(LARDER_INVALID_ARGUMENT, larder_name_space_set(engine, 5, &later.known));
    SAYS("options.struct_size");
    later.known.struct_size = offsetof(larder_name_space_options, max_idle_tokens);
    later.known.keeps_nothing = 7;
    EXPECT(LARDER_OK, larder_name_space_set(engine, 5, &later.known));
    later.known.struct_size = sizeof later;
    EXPECT(LARDER_INVALID_ARGUMENT, larder_name_space_set(engine, 5, &later.known));
    SAYS("options.keeps_nothing");
    later.known.keeps_nothing = 0;
    EXPECT(LARDER_OK, larder_name_space_set(engine, 5, &later.known));
    later.added[23] = 1;
    EXPECT(LARDER_INVALID_ARGUMENT, larder_name_space_set(engine, 5, &later.known));
    SAYS("later version");
}

int main(int argc, char **argv) {
    const char *model = model_of(argc, argv);
    larder_options small = small_options();
    options(model);
    hooks(model);
    engine = engine_of(model, &small);
    memory();
    batch_and_output();
    request_options();
    stats();
    name_space_options();
    EXPECT(LARDER_OK, larder_engine_release(engine));
    return finish();
}
