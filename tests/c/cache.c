/* The prefix cache as a host sees it: hits, namespaces, pins, quotas, flush, and what the evicted hook is told. */
#include "check.h"

enum {
    TOTAL_TOKENS = 96,
    N_PROMPT = 20,
    N_NEW = 4,
    N_KEPT = N_PROMPT + N_NEW - 1, /* the last token drawn has no K and V */
    MAX_NAME_SPACES = 1024,
};

static larder_engine *engine;

/* What the hook was told since it was looked at last. */
static uint64_t n_evicted, evicted_name_space;

static void evicted(void *user, uint64_t name_space, uint64_t n_tokens) {
    CHECK(user == &n_evicted && n_tokens > 0);
    n_evicted += n_tokens;
    evicted_name_space = name_space;
}

static uint64_t take_evicted(void) {
    uint64_t n = n_evicted;
    n_evicted = 0;
    return n;
}

static larder_stats read_stats(void) {
    larder_stats stats;
    larder_stats_init(&stats);
    EXPECT(LARDER_OK, larder_engine_stats(engine, &stats));
    CHECK(stats.total_slots == TOTAL_TOKENS && stats.used_slots + stats.free_slots == TOTAL_TOKENS);
    return stats;
}

/* Statistics are those of the last step: one that has nothing to do makes them new. */
static larder_stats stats_now(void) {
    larder_event event;
    size_t n_events = 1;
    EXPECT(LARDER_OK, larder_engine_step(engine, &event, 1, &n_events));
    CHECK(n_events == 0);
    return read_stats();
}

typedef struct answer {
    uint32_t n_cached, n_tokens, tokens[N_NEW];
} answer;

/* Runs a prompt of N_PROMPT tokens that begins with `n_common` tokens that all prompts share. */
static answer ask(uint64_t name_space, uint32_t n_common, uint32_t kind) {
    static const uint32_t BANNED[] = {0, 1, 2};
    static const float BIASES[] = {-1e30f, -1e30f, -1e30f};
    uint32_t prompt[N_PROMPT];
    for (uint32_t i = 0; i < N_PROMPT; i++) prompt[i] = i < n_common ? 20 + i : 50 + 10 * kind + i % 10;
    larder_request_options options;
    larder_request_options_init(&options);
    options.prompt_tokens = prompt;
    options.n_prompt_tokens = N_PROMPT;
    options.max_new_tokens = N_NEW;
    options.name_space = name_space;
    options.sampling.bias_tokens = BANNED;
    options.sampling.biases = BIASES;
    options.sampling.n_biases = 3;
    larder_request request;
    EXPECT(LARDER_OK, larder_request_submit(engine, &options, &request));
    answer got = {0};
    for (int i = 0; i < 100; i++) {
        larder_event event;
        size_t n_events = 0;
        EXPECT(LARDER_OK, larder_engine_step(engine, &event, 1, &n_events));
        if (n_events == 0) continue;
        CHECK(event.kind != LARDER_EVENT_FAILED && event.request == request);
        got.n_cached = event.n_cached_tokens;
        if (event.kind != LARDER_EVENT_TOKEN) break;
        if (got.n_tokens < N_NEW) got.tokens[got.n_tokens] = event.token;
        got.n_tokens++;
    }
    CHECK(got.n_tokens == N_NEW);
    return got;
}

static int same(const answer *a, const answer *b) {
    return memcmp(a->tokens, b->tokens, sizeof a->tokens) == 0;
}

static void flush(void) {
    EXPECT(LARDER_OK, larder_cache_flush(engine));
}

static void set(uint64_t name_space, larder_name_space_options options) {
    options.struct_size = sizeof options;
    EXPECT(LARDER_OK, larder_name_space_set(engine, name_space, &options));
}

static void a_prompt_is_computed_once(void) {
    answer first = ask(0, 20, 0);
    CHECK(first.n_cached == 0 && read_stats().tree_slots == N_KEPT);
    answer second = ask(0, 20, 0);
    CHECK(second.n_cached == N_PROMPT - 1 && same(&first, &second)); /* its last token is computed always */
    CHECK(read_stats().cached_tokens == N_PROMPT - 1 && read_stats().tree_slots == N_KEPT);
    /* 1, 11, 19 tokens in common. */
    CHECK(ask(0, 1, 1).n_cached == 1);
    CHECK(ask(0, 11, 2).n_cached == 11);
    CHECK(ask(0, 19, 3).n_cached == 19);
    /* Nothing in common but the name, nothing but the tokens. */
    CHECK(ask(0, 0, 4).n_cached == 0);
    CHECK(ask(1, 20, 0).n_cached == 0 && ask(1, 20, 0).n_cached == N_PROMPT - 1);
}

static void flush_evicts_all(void) {
    flush();
    take_evicted();
    ask(6, 20, 0);
    uint64_t before = read_stats().evicted_slots;
    CHECK(read_stats().tree_slots == N_KEPT && read_stats().free_slots == TOTAL_TOKENS);
    flush();
    CHECK(take_evicted() == N_KEPT && evicted_name_space == 6);
    CHECK(stats_now().tree_slots == 0 && read_stats().evicted_slots == before + N_KEPT);
    CHECK(ask(6, 20, 0).n_cached == 0);
    flush();
    take_evicted();
    flush();
    CHECK(take_evicted() == 0);
}

static void room_is_made(void) {
    flush();
    take_evicted();
    uint64_t before = stats_now().evicted_slots;
    for (uint32_t kind = 0; kind < 8; kind++) {
        ask(100 + kind, 0, kind);
        CHECK(n_evicted == 0 || (evicted_name_space >= 100 && evicted_name_space < 100 + kind));
    }
    CHECK(n_evicted > 0 && read_stats().evicted_slots - before == n_evicted);
    CHECK(read_stats().tree_slots <= TOTAL_TOKENS && read_stats().free_slots == TOTAL_TOKENS);
    /* The latest is there still, the first is not. */
    CHECK(ask(107, 0, 7).n_cached == N_PROMPT - 1);
    CHECK(ask(100, 0, 0).n_cached == 0);
    flush();
    take_evicted();
}

static void quotas(void) {
    set(7, (larder_name_space_options){.max_idle_tokens = 8});
    ask(7, 20, 0);
    CHECK(read_stats().tree_slots == 8 && take_evicted() <= N_KEPT);
    CHECK(ask(7, 20, 0).n_cached == 8);
    CHECK(ask(8, 20, 0).n_cached == 0 && read_stats().tree_slots == 8 + N_KEPT); /* the others have theirs */
    set(7, (larder_name_space_options){.keeps_nothing = 1});
    CHECK(stats_now().tree_slots == N_KEPT); /* in force at once */
    ask(7, 20, 0);
    CHECK(ask(7, 20, 0).n_cached == 0 && read_stats().tree_slots == N_KEPT);
    EXPECT(LARDER_OK, larder_name_space_set(engine, 7, NULL));
    ask(7, 20, 0);
    CHECK(ask(7, 20, 0).n_cached == N_PROMPT - 1);
    flush();
    take_evicted();
}

static void pins(void) {
    set(9, (larder_name_space_options){.is_pinned = 1});
    answer first = ask(9, 20, 0);
    CHECK(read_stats().used_slots == N_KEPT && read_stats().tree_slots == N_KEPT);
    flush();
    CHECK(take_evicted() == 0 && stats_now().tree_slots == N_KEPT);
    for (uint32_t kind = 0; kind < 6; kind++) ask(200 + kind, 0, kind);
    CHECK(take_evicted() > 0);
    answer second = ask(9, 20, 0);
    CHECK(second.n_cached == N_PROMPT - 1 && same(&first, &second));
    /* Not pinned any more: kept like any other. */
    EXPECT(LARDER_OK, larder_name_space_set(engine, 9, NULL));
    CHECK(stats_now().used_slots == 0);
    flush();
    CHECK(stats_now().tree_slots == 0 && ask(9, 20, 0).n_cached == 0);
    flush();
}

static void as_many_name_spaces_as_there_are_places(void) {
    larder_name_space_options options;
    larder_name_space_options_init(&options);
    options.max_idle_tokens = 1;
    larder_status status = LARDER_OK;
    uint64_t n = 0;
    while (n < 2 * MAX_NAME_SPACES && (status = larder_name_space_set(engine, 1000 + n, &options)) == LARDER_OK) n++;
    CHECK(n == MAX_NAME_SPACES && status == LARDER_LIMIT_REACHED);
    SAYS("1024");
    /* A request of one more runs all the same. */
    CHECK(ask(5000, 20, 0).n_cached == 0);
    for (uint64_t i = 0; i < n; i++) EXPECT(LARDER_OK, larder_name_space_set(engine, 1000 + i, NULL));
    EXPECT(LARDER_OK, larder_name_space_set(engine, 999, &options));
    EXPECT(LARDER_OK, larder_name_space_set(engine, 999, NULL));
}

int main(int argc, char **argv) {
    larder_hooks hooks;
    larder_hooks_init(&hooks);
    hooks.user = &n_evicted;
    hooks.evicted = evicted;
    larder_options options = small_options();
    options.total_tokens = TOTAL_TOKENS;
    options.hooks = &hooks;
    engine = engine_of(model_of(argc, argv), &options);
    a_prompt_is_computed_once();
    flush_evicts_all();
    room_is_made();
    quotas();
    pins();
    as_many_name_spaces_as_there_are_places();
    EXPECT(LARDER_OK, larder_engine_release(engine));
    return finish();
}
