/* Statistics before and after requests, and the same as Prometheus' text. */
#include "check.h"

enum { N_METRICS = 25, MAX_NAME = 64, MAX_NEW_TOKENS = 6, N_PROMPT = 20 };

static larder_engine *engine;

static larder_stats read_stats(void) {
    larder_stats stats;
    larder_stats_init(&stats);
    EXPECT(LARDER_OK, larder_engine_stats(engine, &stats));
    CHECK(stats.struct_size == sizeof stats && stats.reserved == 0);
    CHECK(stats.used_slots + stats.free_slots == stats.total_slots);
    CHECK(stats.tree_slots <= stats.total_slots);
    return stats;
}

static larder_request submit(uint32_t max_new_tokens) {
    static uint32_t prompt[N_PROMPT];
    for (uint32_t i = 0; i < N_PROMPT; i++) prompt[i] = 20 + i;
    larder_request_options options;
    larder_request_options_init(&options);
    options.prompt_tokens = prompt;
    options.n_prompt_tokens = N_PROMPT;
    options.max_new_tokens = max_new_tokens;
    larder_request request = 0;
    EXPECT(LARDER_OK, larder_request_submit(engine, &options, &request));
    return request;
}

/* Steps until a request has ended, and returns how many tokens its events told. */
static uint32_t run(void) {
    uint32_t n_tokens = 0;
    for (int i = 0; i < 100; i++) {
        larder_event event;
        size_t n_events = 0;
        EXPECT(LARDER_OK, larder_engine_step(engine, &event, 1, &n_events));
        if (n_events == 0) continue;
        if (event.kind != LARDER_EVENT_TOKEN) return n_tokens;
        n_tokens++;
    }
    CHECK(!"the request does not end");
    return 0;
}

static void before_anything(void) {
    larder_memory memory;
    larder_memory_init(&memory);
    EXPECT(LARDER_OK, larder_engine_memory(engine, &memory));
    larder_stats stats = read_stats(), empty;
    CHECK(stats.total_slots == memory.total_tokens && stats.free_slots == memory.total_tokens);
    larder_stats_init(&empty);
    stats.total_slots = stats.free_slots = 0;
    CHECK(memcmp(&stats, &empty, sizeof stats) == 0);
}

static void a_request_counts(void) {
    larder_event event;
    size_t n_events = 0;
    submit(MAX_NEW_TOKENS);
    CHECK(read_stats().requests_running == 0); /* as of the end of the last step */
    EXPECT(LARDER_OK, larder_engine_step(engine, &event, 1, &n_events));
    larder_stats stats = read_stats();
    CHECK(stats.steps == 1 && stats.requests_running == 1 && stats.requests_waiting == 0);
    CHECK(stats.answers_running == 1 && stats.answers_paused == 0 && stats.prompt_tokens == N_PROMPT);
    CHECK(stats.last_step_rows > 0 && stats.last_step_rows <= 16 && stats.decode_rows == 0);
    CHECK(stats.prefill_rows == stats.last_step_rows && stats.used_slots >= stats.prefill_rows);

    uint32_t n_tokens = run();
    stats = read_stats();
    CHECK(n_tokens > 0 && n_tokens <= MAX_NEW_TOKENS);
    CHECK(stats.requests_finished == 1 && stats.requests_running == 0 && stats.answers_running == 0);
    CHECK(stats.requests_cancelled == 0 && stats.requests_failed == 0 && stats.pauses == 0);
    /* A stop token is drawn, but no event of its own. */
    CHECK(stats.generated_tokens == n_tokens || stats.generated_tokens == n_tokens + 1);
    CHECK(stats.prefill_rows == N_PROMPT && stats.decode_rows == stats.generated_tokens - 1);
    CHECK(stats.used_slots == 0 && stats.cached_tokens == 0 && stats.evicted_slots == 0);
    CHECK(stats.forward_nanoseconds > 0 && stats.schedule_nanoseconds > 0 && stats.sample_nanoseconds > 0);
}

static void cancelled_and_waiting(void) {
    enum { N = 4 };
    larder_request requests[N];
    larder_stats before = read_stats(), stats;
    for (int i = 0; i < N; i++) requests[i] = submit(30);
    larder_event event;
    size_t n_events = 0;
    EXPECT(LARDER_OK, larder_engine_step(engine, &event, 1, &n_events));
    stats = read_stats();
    CHECK(stats.requests_running + stats.requests_waiting == N && stats.requests_running > 0);
    for (int i = 0; i < N; i++) EXPECT(LARDER_OK, larder_request_cancel(engine, requests[i]));
    for (int i = 0; i < N; i++) run();
    stats = read_stats();
    CHECK(stats.requests_cancelled == N && stats.requests_finished == before.requests_finished);
    CHECK(stats.requests_running == 0 && stats.requests_waiting == 0 && stats.used_slots == 0);
}

/* One metric's three lines; false at the end or when they are not as they should be. */
static int metric(const char **text, char *name, int *is_counter, uint64_t *value) {
    char again[2][MAX_NAME], kind[16];
    int length = 0;
    if (sscanf(*text, "# HELP %63s %*[^\n]\n# TYPE %63s %15s\n%63s %llu%n", name, again[0], kind, again[1],
               (unsigned long long *)value, &length) != 5) {
        return 0;
    }
    *is_counter = strcmp(kind, "counter") == 0;
    CHECK(*is_counter || strcmp(kind, "gauge") == 0);
    CHECK(strcmp(name, again[0]) == 0 && strcmp(name, again[1]) == 0);
    const char *end = strstr(name, "_total");
    CHECK(*is_counter == (end != NULL && strcmp(end, "_total") == 0));
    CHECK((*text)[length] == '\n');
    *text += length + 1;
    return 1;
}

static void prometheus(void) {
    const struct {
        const char *name;
        size_t offset;
    } some[] = {
        {"x_total_slots", offsetof(larder_stats, total_slots)},
        {"x_free_slots", offsetof(larder_stats, free_slots)},
        {"x_requests_finished_total", offsetof(larder_stats, requests_finished)},
        {"x_requests_cancelled_total", offsetof(larder_stats, requests_cancelled)},
        {"x_prefill_rows_total", offsetof(larder_stats, prefill_rows)},
        {"x_last_step_rows", offsetof(larder_stats, last_step_rows)},
        {"x_sample_nanoseconds_total", offsetof(larder_stats, sample_nanoseconds)},
    };
    larder_stats stats = read_stats();
    char text[8192];
    size_t needed = 0;
    EXPECT(LARDER_OK, larder_stats_prometheus(&stats, "x_", 2, text, sizeof text - 1, &needed));
    CHECK(needed > 0 && needed < sizeof text);
    text[needed] = 0;
    const char *rest = text;
    char name[MAX_NAME];
    int is_counter, n_metrics = 0;
    size_t n_found = 0;
    uint64_t value;
    while (*rest != 0 && metric(&rest, name, &is_counter, &value)) {
        n_metrics++;
        for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
            if (strcmp(name, some[i].name) != 0) continue;
            uint64_t expected;
            memcpy(&expected, (const char *)&stats + some[i].offset, sizeof expected);
            CHECK(value == expected);
            n_found++;
        }
    }
    CHECK(*rest == 0 && n_metrics == N_METRICS && n_found == sizeof some / sizeof *some);
}

static void buffers(void) {
    larder_stats stats = read_stats();
    char text[8192];
    size_t needed = 0, again = 0;
    EXPECT(LARDER_BUFFER_TOO_SMALL, larder_stats_prometheus(&stats, NULL, 0, NULL, 0, &needed));
    CHECK(needed > 0 && needed < sizeof text);
    memset(text, '~', sizeof text);
    EXPECT(LARDER_BUFFER_TOO_SMALL, larder_stats_prometheus(&stats, "", 0, text, needed - 1, &again));
    CHECK(again == needed && text[0] == '~');
    EXPECT(LARDER_OK, larder_stats_prometheus(&stats, "", 0, text, needed, &again));
    CHECK(again == needed && text[needed - 1] == '\n' && text[needed] == '~');
    EXPECT(LARDER_OK, larder_stats_prometheus(&stats, "_:aB9", 5, text, sizeof text, &again));
    CHECK(again == needed + 3 * 5 * N_METRICS);
}

int main(int argc, char **argv) {
    larder_options options = small_options();
    engine = engine_of(model_of(argc, argv), &options);
    before_anything();
    a_request_counts();
    cancelled_and_waiting();
    prometheus();
    buffers();
    EXPECT(LARDER_OK, larder_engine_release(engine));
    return finish();
}
