/* Every exported function from threads with small stacks: 64, 128 and 256 KiB, a guard page below. Their use is measured
 * by a pattern; `small_stack MODEL report` prints it. */
#include "check.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

enum { KIB = 1024, N_SIZES = 3, LARGEST = 2048 * KIB, PATTERN = 0xA5, LONG_TEXT = 20000 };

static const size_t SIZES[N_SIZES] = {64 * KIB, 128 * KIB, 256 * KIB};
static const char *model;
static larder_engine *engine;
static larder_sequence sequence;
static char long_text[LONG_TEXT], room[8 * LONG_TEXT];
static uint32_t tokens[2 * LONG_TEXT];
static size_t n_room, n_tokens;

static larder_request_options request_options(void) {
    static const uint32_t PROMPT[] = {20, 30, 40, 50, 60, 70, 80, 90};
    larder_request_options options;
    larder_request_options_init(&options);
    options.prompt_tokens = PROMPT;
    options.n_prompt_tokens = 8;
    options.max_new_tokens = 12;
    return options;
}

static void inits(void) {
    larder_options options;
    larder_hooks hooks;
    larder_memory memory;
    larder_batch batch;
    larder_output output;
    larder_tensors tensors;
    larder_sampling sampling;
    larder_request_options request;
    larder_stats stats;
    larder_name_space_options name_space;
    larder_options_init(&options);
    larder_hooks_init(&hooks);
    larder_memory_init(&memory);
    larder_batch_init(&batch);
    larder_output_init(&output);
    larder_tensors_init(&tensors);
    larder_sampling_init(&sampling);
    larder_request_options_init(&request);
    larder_stats_init(&stats);
    larder_name_space_options_init(&name_space);
    CHECK(larder_abi_version() == LARDER_ABI_VERSION && larder_version()[0] != 0);
}

static void plan(void) {
    larder_options options = small_options();
    larder_memory memory;
    larder_memory_init(&memory);
    EXPECT(LARDER_OK, larder_engine_plan(model, &options, &memory));
}

/* An engine of `n_threads` comes and goes. */
static void create(uint32_t n_threads) {
    larder_options options = small_options();
    options.n_threads = n_threads;
    larder_engine *other = NULL;
    EXPECT(LARDER_OK, larder_engine_create(model, &options, &other));
    EXPECT(LARDER_OK, larder_engine_release(other));
}

static void create_with_1(void) { create(1); }
static void create_with_2(void) { create(2); }

static void create_that_fails(void) {
    larder_options options = small_options();
    larder_engine *other = NULL;
    EXPECT(LARDER_IO, larder_engine_create("/nonexistent", &options, &other));
    options.memory_limit_bytes = 1;
    EXPECT(LARDER_OUT_OF_MEMORY, larder_engine_create(model, &options, &other));
}

static void memory_and_describe(void) {
    larder_memory memory;
    larder_memory_init(&memory);
    EXPECT(LARDER_OK, larder_engine_memory(engine, &memory));
    EXPECT(LARDER_OK, larder_engine_describe(engine, room, sizeof room, &n_room));
}

static void sequences(void) {
    larder_sequence other = 0, fork = 0;
    uint64_t length = 0;
    EXPECT(LARDER_OK, larder_sequence_open(engine, &other));
    EXPECT(LARDER_OK, larder_sequence_fork(engine, other, 0, &fork));
    EXPECT(LARDER_OK, larder_sequence_length(engine, fork, &length));
    EXPECT(LARDER_OK, larder_sequence_truncate(engine, fork, 0));
    EXPECT(LARDER_OK, larder_sequence_release(engine, other));
    EXPECT(LARDER_OK, larder_sequence_release(engine, fork));
    EXPECT(LARDER_STALE_HANDLE, larder_sequence_release(engine, fork));
}

static larder_batch rows(void) {
    static const uint32_t TOKENS[16] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
    static const uint8_t WANTS[16] = {2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1};
    static larder_sequence sequences[16];
    for (int i = 0; i < 16; i++) sequences[i] = sequence;
    EXPECT(LARDER_OK, larder_sequence_truncate(engine, sequence, 0));
    larder_batch batch;
    larder_batch_init(&batch);
    batch.n_rows = 16;
    batch.tokens = TOKENS;
    batch.sequences = sequences;
    batch.wants = WANTS;
    return batch;
}

static void forward(void) {
    larder_batch batch = rows();
    larder_output output;
    larder_output_init(&output);
    batch.pooling = LARDER_POOL_MEAN;
    batch.normalize = 1;
    EXPECT(LARDER_OK, larder_engine_forward(engine, &batch, &output));
    CHECK(output.n_logits_rows == 8 && output.n_hidden_rows == 1);
    /* A decode row. */
    batch.n_rows = 1;
    batch.wants = NULL;
    batch.pooling = LARDER_POOL_NONE;
    EXPECT(LARDER_OK, larder_engine_forward(engine, &batch, &output));
}

static void forward_tensors(void) {
    larder_batch batch = rows();
    larder_tensors tensors;
    larder_tensors_init(&tensors);
    batch.wants = NULL;
    EXPECT(LARDER_OK, larder_engine_forward_tensors(engine, &batch, &tensors));
}

static void tokenize(void) {
    const uint32_t flags = LARDER_TEXT_ADD_SPECIAL | LARDER_TEXT_PARSE_SPECIAL;
    EXPECT(LARDER_OK, larder_text_tokenize(engine, long_text, LONG_TEXT, flags, tokens,
                                           sizeof tokens / sizeof *tokens, &n_tokens));
    EXPECT(LARDER_OK, larder_text_tokenize(engine, "a <|im_end|> b", 14, 0, tokens, LONG_TEXT, &n_tokens));
}

static void detokenize(void) {
    EXPECT(LARDER_OK, larder_text_detokenize(engine, tokens, n_tokens, 0, room, sizeof room, &n_room));
}

static void render_chat(void) {
    const char *chat = "{\"messages\":[{\"role\":\"system\",\"content\":\"a\"},{\"role\":\"user\",\"content\":"
                       "\"<|im_end|>\"}],\"add_generation_prompt\":true}";
    EXPECT(LARDER_OK, larder_text_render_chat(engine, chat, strlen(chat), room, sizeof room, &n_room));
}

/* Arrays in arrays: an answer or a refusal, whatever the depth. */
static void nested_chat(void) {
    const size_t depths[] = {100, 127, 128, 1000, LONG_TEXT};
    static char chat[2 * LONG_TEXT + 128];
    for (size_t i = 0; i < sizeof depths / sizeof *depths; i++) {
        char *end = chat;
        end += sprintf(end, "{\"tools\":");
        memset(end, '[', depths[i]);
        memset(end + depths[i], ']', depths[i]);
        end += 2 * depths[i];
        end += sprintf(end, ",\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}");
        size_t length = (size_t)(end - chat);
        larder_status status = larder_text_render_chat(engine, chat, length, room, sizeof room, &n_room);
        CHECK(status == LARDER_OK || status == LARDER_INVALID_ARGUMENT);
    }
}

/* Steps until the request has ended. */
static void run(const larder_request_options *options) {
    larder_request request = 0;
    EXPECT(LARDER_OK, larder_request_submit(engine, options, &request));
    larder_event event = {0};
    for (int i = 0; i < 200 && event.kind != LARDER_EVENT_FINISHED; i++) {
        size_t n_events = 0;
        EXPECT(LARDER_OK, larder_engine_step(engine, &event, 1, &n_events));
    }
    CHECK(event.kind == LARDER_EVENT_FINISHED);
}

static void greedy(void) {
    larder_request_options options = request_options();
    run(&options);
}

static void sampled(void) {
    static const larder_text STOPS[] = {{"zzzz", 4}, {"never", 5}, {"ever more", 9}};
    static const uint32_t BANNED[] = {2};
    static const float BIASES[] = {-1e30f};
    larder_request_options options = request_options();
    options.stops = STOPS;
    options.n_stops = 3;
    options.n_answers = 2;
    options.sampling.temperature = 1.2f;
    options.sampling.top_k = 40;
    options.sampling.top_p = 0.9f;
    options.sampling.min_p = 0.01f;
    options.sampling.repetition_penalty = 1.1f;
    options.sampling.presence_penalty = 0.1f;
    options.sampling.n_logprobs = 20;
    options.sampling.bias_tokens = BANNED;
    options.sampling.biases = BIASES;
    options.sampling.n_biases = 1;
    run(&options);
    larder_event events[16];
    size_t n_events = 1;
    for (int i = 0; i < 100 && n_events > 0; i++) EXPECT(LARDER_OK, larder_engine_step(engine, events, 16, &n_events));
}

static void prompt_is_a_chat(void) {
    render_chat();
    larder_request_options options = request_options();
    options.n_prompt_tokens = 0;
    options.prompt_text.data = room;
    options.prompt_text.length = n_room;
    options.prompt_flags = LARDER_TEXT_PARSE_SPECIAL;
    options.max_new_tokens = 2;
    run(&options);
}

static void cancel_and_wait(void) {
    larder_request_options options = request_options();
    larder_request request = 0;
    uint32_t has_work = 0;
    int32_t fd = -1;
    EXPECT(LARDER_OK, larder_engine_event_fd(engine, &fd));
    EXPECT(LARDER_OK, larder_request_submit(engine, &options, &request));
    EXPECT(LARDER_OK, larder_request_cancel(engine, request));
    EXPECT(LARDER_OK, larder_engine_wait(engine, LARDER_WAIT_FOREVER, &has_work));
    while (has_work) {
        larder_event event;
        size_t n_events;
        EXPECT(LARDER_OK, larder_engine_step(engine, &event, 1, &n_events));
        EXPECT(LARDER_OK, larder_engine_wait(engine, 0, &has_work));
    }
    EXPECT(LARDER_OK, larder_engine_wait(engine, 1, &has_work));
}

static void statistics(void) {
    larder_stats stats;
    larder_stats_init(&stats);
    EXPECT(LARDER_OK, larder_engine_stats(engine, &stats));
    EXPECT(LARDER_OK, larder_stats_prometheus(&stats, "larder_", 7, room, sizeof room, &n_room));
}

static void cache(void) {
    larder_name_space_options options;
    larder_name_space_options_init(&options);
    options.max_idle_tokens = 7;
    EXPECT(LARDER_OK, larder_name_space_set(engine, 3, &options));
    EXPECT(LARDER_OK, larder_cache_flush(engine));
}

static void errors(void) {
    larder_request_options options = request_options();
    larder_request request;
    options.sampling.temperature = -1;
    EXPECT(LARDER_INVALID_ARGUMENT, larder_request_submit(engine, &options, &request));
    EXPECT(LARDER_INVALID_ARGUMENT, larder_engine_stats(NULL, NULL));
    CHECK(larder_last_error()[0] != 0);
}

/* A copy of the model in a folder of its own, with one file's words replaced. */
static char folder[] = "/tmp/larder_small_stack_XXXXXX";
static const char *const FILES[] = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"};
static char file[1 << 17];

static void copy_model(const char *changed, const char *from, const char *to) {
    for (int i = 0; i < 4; i++) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", model, FILES[i]);
        FILE *in = fopen(path, "rb");
        size_t length = in == NULL ? 0 : fread(file, 1, sizeof file - 1, in);
        if (in == NULL || fclose(in) != 0 || length == sizeof file - 1) exit(1);
        file[length] = 0;
        snprintf(path, sizeof path, "%s/%s", folder, FILES[i]);
        FILE *out = fopen(path, "wb");
        if (out == NULL) exit(1);
        char *place = strcmp(FILES[i], changed) == 0 ? strstr(file, from) : NULL;
        CHECK((strcmp(FILES[i], changed) == 0) == (place != NULL));
        if (place != NULL) {
            fwrite(file, 1, (size_t)(place - file), out);
            fputs(to, out);
            place += strlen(from);
            fwrite(place, 1, length - (size_t)(place - file), out);
        } else {
            fwrite(file, 1, length, out);
        }
        if (fclose(out) != 0) exit(1);
    }
}

/* An engine of the copy, and a chat rendered by it: any status is fine. */
static void load_copy(void) {
    larder_options options = small_options();
    larder_engine *other = NULL;
    if (larder_engine_create(folder, &options, &other) != LARDER_OK) return;
    const char *chat = "[{\"role\":\"user\",\"content\":\"a\"}]";
    larder_text_render_chat(other, chat, strlen(chat), room, sizeof room, &n_room);
    EXPECT(LARDER_OK, larder_engine_release(other));
}

static char *repeat(char *end, const char *text, int n) {
    for (int i = 0; i < n; i++) end += sprintf(end, "%s", text);
    return end;
}

static char words[1 << 17];

/* A template that nests as deep as its parser allows; run by run deeper. */
static void deep_template(void) {
    for (int depth = 70; depth <= 280; depth *= 2) {
        char *end = words + sprintf(words, "\"chat_template\": \"");
        end = repeat(end, "{% if true %}", depth);
        end = repeat(end, "x{% endif %}", depth);
        sprintf(end, "\", \"other\": \"");
        copy_model("tokenizer_config.json", "\"chat_template\": \"", words);
        load_copy();
    }
}

/* A macro that calls itself until the interpreter has enough of it. */
static void endless_macro(void) {
    copy_model("tokenizer_config.json", "\"chat_template\": \"",
               "\"chat_template\": \"{% macro a(x) %}{{ a(x) }}{% endmacro %}{{ a(1) }}");
    load_copy();
}

/* Groups in groups, the deepest that the library of regular expressions takes, and deeper. */
static void deep_expression(void) {
    for (int depth = 500; depth <= 16000; depth *= 2) {
        char *end = words + sprintf(words, "\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"");
        end = repeat(end, "(", depth);
        end = repeat(end, "a)", depth);
        sprintf(end, "\"},\"behavior\":\"Isolated\",\"invert\":false},\"other\":");
        copy_model("tokenizer.json", "\"pre_tokenizer\":", words);
        load_copy();
    }
}

static void deep_config(void) {
    char *end = words + sprintf(words, "{\"other\":");
    end = repeat(end, "[", 120);
    end = repeat(end, "]", 120);
    sprintf(end, ",");
    copy_model("config.json", "{", words);
    load_copy();
}

typedef struct calls {
    const char *name;
    void (*run)(void);
} calls;

static const calls ALL[] = {
    {"init functions", inits},
    {"plan", plan},
    {"create and release, 1 thread", create_with_1},
    {"create and release, 2 threads", create_with_2},
    {"create that fails", create_that_fails},
    {"memory, describe", memory_and_describe},
    {"sequences", sequences},
    {"forward", forward},
    {"forward_tensors", forward_tensors},
    {"tokenize", tokenize},
    {"detokenize", detokenize},
    {"render_chat", render_chat},
    {"render_chat, nested", nested_chat},
    {"submit, step: greedy", greedy},
    {"submit, step: sampling, stops, logprobs", sampled},
    {"submit, step: a chat", prompt_is_a_chat},
    {"cancel, wait, event_fd", cancel_and_wait},
    {"stats, prometheus", statistics},
    {"name_space_set, cache_flush", cache},
    {"errors", errors},
    {"create: a deep template", deep_template},
    {"create, render_chat: an endless macro", endless_macro},
    {"create: a deep regular expression", deep_expression},
    {"create: a deep config.json", deep_config},
};
enum { N_CALLS = sizeof ALL / sizeof *ALL };

static void *thread_main(void *call) {
    ((const calls *)call)->run();
    return NULL;
}

static void nothing(void) {}

/* Runs `call` on a thread with this stack, a guard page below, and returns the bytes that were written to. */
static size_t on_stack(const calls *call, size_t bytes) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    unsigned char *block = mmap(NULL, page + bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (block == MAP_FAILED || mprotect(block, page, PROT_NONE) != 0) exit(1);
    unsigned char *stack = block + page;
    memset(stack, PATTERN, bytes);
    pthread_attr_t attributes;
    pthread_t thread;
    pthread_attr_init(&attributes);
    CHECK(pthread_attr_setstack(&attributes, stack, bytes) == 0);
    if (pthread_create(&thread, &attributes, thread_main, (void *)call) != 0) exit(1);
    pthread_join(thread, NULL);
    pthread_attr_destroy(&attributes);
    size_t untouched = 0;
    while (untouched < bytes && stack[untouched] == PATTERN) untouched++;
    munmap(block, page + bytes);
    return bytes - untouched;
}

int main(int argc, char **argv) {
    model = model_of(argc, argv);
    for (size_t i = 0; i < LONG_TEXT; i++) long_text[i] = "a b, 12 \n've Z"[i % 14];
    if (mkdtemp(folder) == NULL) return 1;
    larder_options options = small_options();
    engine = engine_of(model, &options);
    EXPECT(LARDER_OK, larder_sequence_open(engine, &sequence));
    if (argc > 2) {
        const calls empty = {"a thread that does nothing", nothing};
        printf("%6.1f KiB  %s\n", (double)on_stack(&empty, LARGEST) / KIB, empty.name);
        for (int i = 0; i < N_CALLS; i++) {
            printf("%6.1f KiB  %s\n", (double)on_stack(&ALL[i], LARGEST) / KIB, ALL[i].name);
        }
    }
    for (int size = 0; size < N_SIZES && argc == 2; size++) {
        for (int i = 0; i < N_CALLS; i++) {
            if (on_stack(&ALL[i], SIZES[size]) == SIZES[size]) {
                fprintf(stderr, "%s: all of %zu KiB are used\n", ALL[i].name, SIZES[size] / KIB);
                n_failures++;
            }
        }
    }
    EXPECT(LARDER_OK, larder_engine_release(engine));
    for (int i = 0; i < 4; i++) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", folder, FILES[i]);
        remove(path);
    }
    rmdir(folder);
    return finish();
}
