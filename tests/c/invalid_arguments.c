/* Every function with every argument invalid in turn: a code and a message, and the engine works afterwards. */
#include "check.h"

#include <math.h>

enum { ROOM = 8 };

static larder_engine *engine;
static larder_sequence sequence;
static char odd_room[64];

/* An address that is not NULL and not a multiple of anything. */
#define ODD(type) ((type *)(void *)(odd_room + 1))

#define INVALID(word, call)                  \
    do {                                     \
        EXPECT(LARDER_INVALID_ARGUMENT, call); \
        SAYS(word);                          \
    } while (0)

static void init_functions_take_null(void) {
    larder_options_init(NULL);
    larder_hooks_init(NULL);
    larder_memory_init(NULL);
    larder_batch_init(NULL);
    larder_output_init(NULL);
    larder_tensors_init(NULL);
    larder_sampling_init(NULL);
    larder_request_options_init(NULL);
    larder_stats_init(NULL);
    larder_name_space_options_init(NULL);
    larder_stats_init(ODD(larder_stats));
    larder_name_space_options_init(ODD(larder_name_space_options));
    for (size_t i = 0; i < sizeof odd_room; i++) CHECK(odd_room[i] == 0);
}

/* Plan and create on the CPU with one option changed. */
#define WITH(field, value, expected, word)                                      \
    do {                                                                        \
        larder_options changed = small_options();                               \
        changed.device = LARDER_DEVICE_CPU;                                     \
        changed.field = value;                                                  \
        EXPECT(expected, larder_engine_plan(model, &changed, &memory));         \
        SAYS(word);                                                             \
        EXPECT(expected, larder_engine_create(model, &changed, &created));      \
        SAYS(word);                                                             \
    } while (0)

static void plan_and_create(const char *model) {
    larder_options options = small_options();
    larder_engine *created = NULL;
    larder_memory memory;
    larder_memory_init(&memory);
    INVALID("model_path", larder_engine_plan(NULL, &options, &memory));
    INVALID("model_path", larder_engine_plan("", &options, &memory));
    INVALID("memory", larder_engine_plan(model, &options, NULL));
    INVALID("memory", larder_engine_plan(model, &options, ODD(larder_memory)));
    INVALID("options", larder_engine_plan(model, ODD(larder_options), &memory));
    INVALID("model_path", larder_engine_create(NULL, &options, &created));
    INVALID("engine", larder_engine_create(model, &options, NULL));
    INVALID("engine", larder_engine_create(model, &options, ODD(larder_engine *)));
    INVALID("options", larder_engine_create(model, ODD(larder_options), &created));
    EXPECT(LARDER_IO, larder_engine_create("/nonexistent/\xff\xfe", &options, &created));
    EXPECT(LARDER_OK, larder_engine_plan(model, NULL, &memory));

    WITH(device, 7, LARDER_INVALID_ARGUMENT, "options.device");
    WITH(device_index, 1, LARDER_INVALID_ARGUMENT, "options.device_index");
    WITH(k_type, LARDER_KV_INT8, LARDER_UNSUPPORTED, "options.k_type");
    WITH(v_type, LARDER_KV_FP8, LARDER_UNSUPPORTED, "options.v_type");
    WITH(v_type, 5, LARDER_INVALID_ARGUMENT, "options.v_type");
    WITH(area_mode, 3, LARDER_INVALID_ARGUMENT, "options.area_mode");
    WITH(flags, 0x80, LARDER_INVALID_ARGUMENT, "options.flags");
    WITH(cuda_context, odd_room, LARDER_INVALID_ARGUMENT, "cuda_context");
    WITH(cuda_stream, odd_room, LARDER_INVALID_ARGUMENT, "cuda_stream");
    WITH(hooks, ODD(larder_hooks), LARDER_INVALID_ARGUMENT, "options.hooks");
    WITH(memory_limit_bytes, 1, LARDER_OUT_OF_MEMORY, "memory_limit");
    larder_hooks hooks;
    larder_hooks_init(&hooks);
    hooks.log_level = 5;
    WITH(hooks, &hooks, LARDER_INVALID_ARGUMENT, "log_level");
    hooks.log_level = 0;
    hooks.allocate = (void *(*)(void *, uint32_t, size_t, size_t))abort;
    WITH(hooks, &hooks, LARDER_INVALID_ARGUMENT, "deallocate");
    CHECK(created == NULL);
}

/* A build without CUDA, a machine without a driver: a status that says so. With a GPU there is an engine. */
static void cuda_or_a_reason(const char *model) {
    larder_options options = small_options();
    options.device = LARDER_DEVICE_CUDA;
    larder_engine *created = NULL;
    larder_status status = larder_engine_create(model, &options, &created);
    if (status == LARDER_OK) {
        EXPECT(LARDER_OK, larder_engine_release(created));
        return;
    }
    CHECK(status == LARDER_UNSUPPORTED || status == LARDER_DEVICE);
    CHECK(created == NULL);
    SAYS("CUDA");
    options.device_index = 1000;
    CHECK(larder_engine_create(model, &options, &created) < 0 && created == NULL);
    SAYS("CUDA");
}

static void engine_functions(void) {
    larder_memory memory;
    char text[ROOM];
    size_t needed = 0;
    larder_memory_init(&memory);
    INVALID("engine", larder_engine_release(ODD(larder_engine)));
    INVALID("engine", larder_engine_memory(NULL, &memory));
    INVALID("engine", larder_engine_memory(ODD(larder_engine), &memory));
    INVALID("memory", larder_engine_memory(engine, NULL));
    INVALID("memory", larder_engine_memory(engine, ODD(larder_memory)));
    INVALID("engine", larder_engine_describe(NULL, text, ROOM, &needed));
    INVALID("text", larder_engine_describe(engine, NULL, ROOM, &needed));
    INVALID("text", larder_engine_describe(engine, text, SIZE_MAX, &needed));
    INVALID("needed", larder_engine_describe(engine, text, ROOM, NULL));
    INVALID("needed", larder_engine_describe(engine, text, ROOM, ODD(size_t)));
}

static void sequence_functions(void) {
    larder_sequence other = 0;
    uint64_t length = 0;
    INVALID("engine", larder_sequence_open(NULL, &other));
    INVALID("sequence", larder_sequence_open(engine, NULL));
    INVALID("sequence", larder_sequence_open(engine, ODD(larder_sequence)));
    INVALID("engine", larder_sequence_fork(NULL, sequence, 0, &other));
    INVALID("child", larder_sequence_fork(engine, sequence, 0, NULL));
    INVALID("child", larder_sequence_fork(engine, sequence, 0, ODD(larder_sequence)));
    EXPECT(LARDER_INVALID_ARGUMENT, larder_sequence_fork(engine, sequence, 9, &other));
    INVALID("engine", larder_sequence_truncate(NULL, sequence, 0));
    EXPECT(LARDER_INVALID_ARGUMENT, larder_sequence_truncate(engine, sequence, 9));
    INVALID("engine", larder_sequence_length(NULL, sequence, &length));
    INVALID("n_tokens", larder_sequence_length(engine, sequence, NULL));
    INVALID("n_tokens", larder_sequence_length(engine, sequence, ODD(uint64_t)));
    INVALID("engine", larder_sequence_release(NULL, sequence));
    EXPECT(LARDER_STALE_HANDLE, larder_sequence_release(engine, sequence + 1));
}

static void forward(void) {
    larder_batch good, batch;
    larder_output output;
    larder_sequence sequences[2] = {sequence, sequence};
    uint32_t tokens[2] = {1, 2};
    uint8_t wants[2] = {0, LARDER_WANT_LOGITS};
    float embeddings[2 * 64] = {0};
    larder_batch_init(&good);
    larder_output_init(&output);
    good.n_rows = 2;
    good.tokens = tokens;
    good.sequences = sequences;
    good.wants = wants;
    batch = good;
    INVALID("engine", larder_engine_forward(NULL, &batch, &output));
    INVALID("batch", larder_engine_forward(engine, NULL, &output));
    INVALID("batch", larder_engine_forward(engine, ODD(larder_batch), &output));
    INVALID("output", larder_engine_forward(engine, &batch, NULL));
    INVALID("output", larder_engine_forward(engine, &batch, ODD(larder_output)));
    batch.n_rows = 0;
    INVALID("n_rows", larder_engine_forward(engine, &batch, &output));
    batch.n_rows = UINT32_MAX;
    EXPECT(LARDER_LIMIT_REACHED, larder_engine_forward(engine, &batch, &output));
    batch = good;
    batch.tokens = NULL;
    EXPECT(LARDER_INVALID_ARGUMENT, larder_engine_forward(engine, &batch, &output));
    batch.tokens = ODD(uint32_t);
    INVALID("batch.tokens", larder_engine_forward(engine, &batch, &output));
    batch = good;
    batch.embeddings = embeddings;
    EXPECT(LARDER_INVALID_ARGUMENT, larder_engine_forward(engine, &batch, &output));
    batch = good;
    batch.sequences = NULL;
    INVALID("batch.sequences", larder_engine_forward(engine, &batch, &output));
    batch = good;
    sequences[1] = sequence + 1;
    EXPECT(LARDER_STALE_HANDLE, larder_engine_forward(engine, &batch, &output));
    sequences[1] = sequence;
    tokens[1] = 1000000;
    EXPECT(LARDER_INVALID_ARGUMENT, larder_engine_forward(engine, &batch, &output));
    tokens[1] = UINT32_MAX;
    EXPECT(LARDER_INVALID_ARGUMENT, larder_engine_forward(engine, &batch, &output));
    tokens[1] = 2;
    wants[0] = 0xf0;
    EXPECT(LARDER_INVALID_ARGUMENT, larder_engine_forward(engine, &batch, &output));
    wants[0] = 0;
    batch.pooling = 3;
    INVALID("batch.pooling", larder_engine_forward(engine, &batch, &output));
    uint64_t length = 9;
    EXPECT(LARDER_OK, larder_sequence_length(engine, sequence, &length));
    CHECK(length == 0);
}

/* Submit with one field changed. */
#define SUBMIT(change, expected, word)                                            \
    do {                                                                          \
        options = good;                                                           \
        change;                                                                   \
        EXPECT(expected, larder_request_submit(engine, &options, &request));      \
        SAYS(word);                                                               \
    } while (0)

static void submit(void) {
    const uint32_t tokens[] = {1, 2, 3};
    const uint32_t unknown[] = {1, 1000000, 3};
    const float biases[] = {NAN};
    const larder_text bad_stop[] = {{"\xff", 1}}, empty_stop[] = {{"", 0}}, null_stop[] = {{NULL, 3}};
    larder_request_options good, options;
    larder_request request = 0;
    larder_request_options_init(&good);
    good.prompt_tokens = tokens;
    good.n_prompt_tokens = 3;
    good.max_new_tokens = 2;
    INVALID("engine", larder_request_submit(NULL, &good, &request));
    INVALID("options", larder_request_submit(engine, NULL, &request));
    INVALID("options", larder_request_submit(engine, ODD(larder_request_options), &request));
    INVALID("request", larder_request_submit(engine, &good, NULL));
    INVALID("request", larder_request_submit(engine, &good, ODD(larder_request)));
    SUBMIT(options.prompt_tokens = NULL, LARDER_INVALID_ARGUMENT, "prompt_tokens");
    SUBMIT(options.prompt_tokens = unknown, LARDER_INVALID_ARGUMENT, "1000000");
    SUBMIT(options.n_prompt_tokens = 0, LARDER_INVALID_ARGUMENT, "prompt");
    SUBMIT((options.prompt_text.data = "a", options.prompt_text.length = 1),
           LARDER_INVALID_ARGUMENT, "prompt_text");
    SUBMIT((options.n_prompt_tokens = 0, options.prompt_text.length = 1), LARDER_INVALID_ARGUMENT,
           "prompt_text");
    SUBMIT((options.n_prompt_tokens = 0, options.prompt_text.data = "a\xc3(",
            options.prompt_text.length = 3), LARDER_INVALID_ARGUMENT, "UTF-8");
    SUBMIT(options.prompt_flags = 1, LARDER_INVALID_ARGUMENT, "prompt_flags");
    SUBMIT(options.reserved = 1, LARDER_INVALID_ARGUMENT, "reserved");
    SUBMIT(options.n_answers = 1000, LARDER_INVALID_ARGUMENT, "n_answers");
    SUBMIT(options.n_stops = 1, LARDER_INVALID_ARGUMENT, "stops");
    SUBMIT((options.n_stops = 17, options.stops = bad_stop), LARDER_INVALID_ARGUMENT, "n_stops");
    SUBMIT((options.n_stops = 1, options.stops = bad_stop), LARDER_INVALID_ARGUMENT, "stops[0]");
    SUBMIT((options.n_stops = 1, options.stops = null_stop), LARDER_INVALID_ARGUMENT, "stops[0]");
    SUBMIT((options.n_stops = 1, options.stops = empty_stop), LARDER_INVALID_ARGUMENT, "stop");
    SUBMIT(options.constraint_kind = 1, LARDER_INVALID_ARGUMENT, "constraint");
    SUBMIT(options.constraint_kind = 4, LARDER_INVALID_ARGUMENT, "constraint_kind");
    SUBMIT((options.constraint.data = "a", options.constraint.length = 1), LARDER_INVALID_ARGUMENT,
           "constraint_kind is 0");
    SUBMIT((options.constraint_kind = 2, options.constraint.length = 1), LARDER_INVALID_ARGUMENT,
           "constraint");
    SUBMIT(options.sampling.temperature = -1, LARDER_INVALID_ARGUMENT, "temperature");
    SUBMIT(options.sampling.temperature = NAN, LARDER_INVALID_ARGUMENT, "temperature");
    SUBMIT(options.sampling.top_p = 1.5f, LARDER_INVALID_ARGUMENT, "top_p");
    SUBMIT(options.sampling.min_p = -1, LARDER_INVALID_ARGUMENT, "min_p");
    SUBMIT(options.sampling.repetition_penalty = -1, LARDER_INVALID_ARGUMENT, "repetition_penalty");
    SUBMIT(options.sampling.presence_penalty = NAN, LARDER_INVALID_ARGUMENT, "presence_penalty");
    SUBMIT(options.sampling.frequency_penalty = NAN, LARDER_INVALID_ARGUMENT, "frequency_penalty");
    SUBMIT(options.sampling.n_logprobs = 1000, LARDER_INVALID_ARGUMENT, "n_logprobs");
    SUBMIT(options.sampling.n_biases = 1, LARDER_INVALID_ARGUMENT, "bias");
    SUBMIT((options.sampling.n_biases = 1, options.sampling.bias_tokens = tokens),
           LARDER_INVALID_ARGUMENT, "biases");
    SUBMIT((options.sampling.n_biases = 1, options.sampling.bias_tokens = tokens,
            options.sampling.biases = biases), LARDER_INVALID_ARGUMENT, "bias");
    CHECK(request == 0);
    INVALID("engine", larder_request_cancel(NULL, 1));
    EXPECT(LARDER_STALE_HANDLE, larder_request_cancel(engine, 0));
    EXPECT(LARDER_STALE_HANDLE, larder_request_cancel(engine, 1));
    EXPECT(LARDER_STALE_HANDLE, larder_request_cancel(engine, sequence));
    EXPECT(LARDER_STALE_HANDLE, larder_request_cancel(engine, UINT64_MAX));
}

static void step(void) {
    larder_event events[ROOM];
    size_t n_events = 0;
    INVALID("engine", larder_engine_step(NULL, events, ROOM, &n_events));
    INVALID("events", larder_engine_step(engine, NULL, ROOM, &n_events));
    INVALID("events", larder_engine_step(engine, ODD(larder_event), ROOM, &n_events));
    INVALID("events", larder_engine_step(engine, events, SIZE_MAX, &n_events));
    INVALID("capacity", larder_engine_step(engine, events, 0, &n_events));
    INVALID("n_events", larder_engine_step(engine, events, ROOM, NULL));
    INVALID("n_events", larder_engine_step(engine, events, ROOM, ODD(size_t)));
}

static void wait_and_event_fd(void) {
    uint32_t has_work = 9;
    int32_t fd = -7;
    INVALID("engine", larder_engine_wait(NULL, 0, &has_work));
    INVALID("engine", larder_engine_wait(ODD(larder_engine), 0, &has_work));
    INVALID("has_work", larder_engine_wait(engine, LARDER_WAIT_FOREVER, NULL));
    INVALID("has_work", larder_engine_wait(engine, LARDER_WAIT_FOREVER, ODD(uint32_t)));
    INVALID("engine", larder_engine_event_fd(NULL, &fd));
    INVALID("engine", larder_engine_event_fd(ODD(larder_engine), &fd));
    INVALID("fd", larder_engine_event_fd(engine, NULL));
    INVALID("fd", larder_engine_event_fd(engine, ODD(int32_t)));
    CHECK(has_work == 9 && fd == -7);
}

static void statistics(void) {
    larder_stats stats;
    char text[ROOM];
    size_t needed = 0;
    larder_stats_init(&stats);
    INVALID("engine", larder_engine_stats(NULL, &stats));
    INVALID("engine", larder_engine_stats(ODD(larder_engine), &stats));
    INVALID("stats", larder_engine_stats(engine, NULL));
    INVALID("stats", larder_engine_stats(engine, ODD(larder_stats)));
    CHECK(stats.total_slots == 0);
    INVALID("stats", larder_stats_prometheus(NULL, "a_", 2, text, ROOM, &needed));
    INVALID("stats", larder_stats_prometheus(ODD(larder_stats), "a_", 2, text, ROOM, &needed));
    INVALID("prefix", larder_stats_prometheus(&stats, NULL, 2, text, ROOM, &needed));
    INVALID("prefix", larder_stats_prometheus(&stats, "a", SIZE_MAX, text, ROOM, &needed));
    INVALID("UTF-8", larder_stats_prometheus(&stats, "a\xff", 2, text, ROOM, &needed));
    INVALID("prefix", larder_stats_prometheus(&stats, "1a", 2, text, ROOM, &needed));
    INVALID("prefix", larder_stats_prometheus(&stats, "a-", 2, text, ROOM, &needed));
    INVALID("prefix", larder_stats_prometheus(&stats, "a\n", 2, text, ROOM, &needed));
    INVALID("prefix", larder_stats_prometheus(&stats, "\xc3\xa4", 2, text, ROOM, &needed));
    INVALID("text", larder_stats_prometheus(&stats, "a_", 2, NULL, ROOM, &needed));
    INVALID("text", larder_stats_prometheus(&stats, "a_", 2, text, SIZE_MAX, &needed));
    INVALID("needed", larder_stats_prometheus(&stats, "a_", 2, text, ROOM, NULL));
    INVALID("needed", larder_stats_prometheus(&stats, "a_", 2, text, ROOM, ODD(size_t)));
}

static void cache(void) {
    larder_name_space_options options;
    INVALID("engine", larder_cache_flush(NULL));
    INVALID("engine", larder_cache_flush(ODD(larder_engine)));
    INVALID("engine", larder_name_space_set(NULL, 1, NULL));
    INVALID("engine", larder_name_space_set(ODD(larder_engine), 1, NULL));
    INVALID("options", larder_name_space_set(engine, 1, ODD(larder_name_space_options)));
    larder_name_space_options_init(&options);
    options.is_pinned = 2;
    INVALID("options.is_pinned", larder_name_space_set(engine, 1, &options));
    options.is_pinned = 0;
    options.keeps_nothing = UINT32_MAX;
    INVALID("options.keeps_nothing", larder_name_space_set(engine, 1, &options));
    options.keeps_nothing = 1;
    options.max_idle_tokens = 1;
    INVALID("options.max_idle_tokens", larder_name_space_set(engine, 1, &options));
    EXPECT(LARDER_OK, larder_name_space_set(engine, 1, NULL));
}

static void text_functions(void) {
    const uint32_t unknown[] = {1000000};
    uint32_t tokens[ROOM];
    char text[ROOM];
    size_t n = 0;
    INVALID("engine", larder_text_tokenize(NULL, "a", 1, 0, tokens, ROOM, &n));
    INVALID("text", larder_text_tokenize(engine, NULL, 1, 0, tokens, ROOM, &n));
    INVALID("UTF-8", larder_text_tokenize(engine, "a\xff", 2, 0, tokens, ROOM, &n));
    INVALID("text", larder_text_tokenize(engine, "a", SIZE_MAX, 0, tokens, ROOM, &n));
    INVALID("flags", larder_text_tokenize(engine, "a", 1, 4, tokens, ROOM, &n));
    INVALID("tokens", larder_text_tokenize(engine, "a", 1, 0, NULL, ROOM, &n));
    INVALID("tokens", larder_text_tokenize(engine, "a", 1, 0, ODD(uint32_t), ROOM, &n));
    INVALID("needed", larder_text_tokenize(engine, "a", 1, 0, tokens, ROOM, NULL));
    EXPECT(LARDER_OK, larder_text_tokenize(engine, NULL, 0, 0, NULL, 0, &n));
    INVALID("engine", larder_text_detokenize(NULL, tokens, 0, 0, text, ROOM, &n));
    INVALID("tokens", larder_text_detokenize(engine, NULL, 1, 0, text, ROOM, &n));
    INVALID("tokens", larder_text_detokenize(engine, tokens, SIZE_MAX / 2, 0, text, ROOM, &n));
    INVALID("1000000", larder_text_detokenize(engine, unknown, 1, 0, text, ROOM, &n));
    INVALID("flags", larder_text_detokenize(engine, tokens, 0, 1, text, ROOM, &n));
    INVALID("text", larder_text_detokenize(engine, tokens, 0, 0, NULL, ROOM, &n));
    INVALID("needed", larder_text_detokenize(engine, tokens, 0, 0, text, ROOM, NULL));
    INVALID("engine", larder_text_render_chat(NULL, "{}", 2, text, ROOM, &n));
    INVALID("messages_json", larder_text_render_chat(engine, NULL, 2, text, ROOM, &n));
    INVALID("UTF-8", larder_text_render_chat(engine, "\xff\xff", 2, text, ROOM, &n));
    EXPECT(LARDER_INVALID_ARGUMENT, larder_text_render_chat(engine, "[", 1, text, ROOM, &n));
    INVALID("needed", larder_text_render_chat(engine, "{}", 2, text, ROOM, NULL));
}

static void the_engine_works_afterwards(void) {
    const uint32_t token = 4;
    larder_request_options options;
    larder_request request = 0;
    larder_request_options_init(&options);
    options.prompt_tokens = &token;
    options.n_prompt_tokens = 1;
    options.max_new_tokens = 2;
    EXPECT(LARDER_OK, larder_request_submit(engine, &options, &request));
    larder_event event = {0};
    for (int i = 0; i < 10 && event.kind != LARDER_EVENT_FINISHED; i++) {
        size_t n_events;
        EXPECT(LARDER_OK, larder_engine_step(engine, &event, 1, &n_events));
    }
    CHECK(event.kind == LARDER_EVENT_FINISHED && event.request == request);
    EXPECT(LARDER_OK, larder_sequence_release(engine, sequence));
}

int main(int argc, char **argv) {
    const char *model = model_of(argc, argv);
    larder_options options = small_options();
    init_functions_take_null();
    plan_and_create(model);
    cuda_or_a_reason(model);
    engine = engine_of(model, &options);
    EXPECT(LARDER_OK, larder_sequence_open(engine, &sequence));
    engine_functions();
    sequence_functions();
    forward();
    submit();
    step();
    wait_and_event_fd();
    statistics();
    cache();
    text_functions();
    the_engine_works_afterwards();
    EXPECT(LARDER_OK, larder_engine_release(engine));
    return finish();
}
