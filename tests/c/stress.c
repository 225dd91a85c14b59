/* Threads submit, cancel, step, run forward passes, wait, read and meddle at random, on one engine and on two. Every
 * answer that ends by itself is the one that the request gets alone, and no token slot is lost.
 *
 *     stress MODEL [rounds]
 *
 * Texts and logits are the engine's until its next step, and events come in order of the steps. So in every other pair of
 * rounds the threads step under a lock of their own, as a host with several stepping threads would, and look at all
 * that they get; in the others they step into each other, and only count. */
#include "check.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

enum {
    N_THREADS = 8,
    N_ENGINES = 2,
    N_KINDS = 6,
    N_ACTIONS = 60,
    MAX_PROMPT = 24,
    MAX_NEW = 8,
    N_FORWARD = 3,
    MAX_VOCABULARY = 4096,
    TOTAL_TOKENS = 128,
};

typedef struct answer {
    atomic_uint n_tokens, n_ends, finish, sum;
    uint32_t tokens[MAX_NEW]; /* with the lock */
} answer;

typedef struct engine_of_round {
    larder_engine *engine;
    pthread_mutex_t lock; /* for step and forward with what they return, in rounds with locks */
    answer answers[N_THREADS][N_ACTIONS];
} engine_of_round;

typedef struct worker {
    uint32_t number;
    uint64_t random;
    struct {
        larder_sequence sequence;
        larder_request last;
        uint32_t n_submitted, kinds[N_ACTIONS];
    } on[N_ENGINES];
} worker;

static const char *model;
static engine_of_round engines[N_ENGINES];
static int n_engines, has_locks;
static answer alone[N_KINDS];
static float alone_logits[MAX_VOCABULARY];
static const uint32_t FORWARD_TOKENS[N_FORWARD] = {33, 44, 55};
static atomic_long n_busy, n_full, n_steps, n_forwards, n_ended, n_cancelled, n_bad;

#define BAD(condition)                                                                     \
    do {                                                                                   \
        if (condition) {                                                                   \
            fprintf(stderr, "%s:%d: %s (%s)\n", __FILE__, __LINE__, #condition, larder_last_error()); \
            n_bad++;                                                                       \
        }                                                                                  \
    } while (0)

static void try_again(void) {
    n_busy++;
    sched_yield();
}

static uint32_t below(worker *w, uint32_t n) {
    w->random ^= w->random << 13;
    w->random ^= w->random >> 7;
    w->random ^= w->random << 17;
    return (uint32_t)((w->random >> 20) % n);
}

/* Of each kind one request: common beginnings of several lengths, greedy and drawn. */
static larder_request_options options_of(uint32_t kind, uint32_t *prompt) {
    larder_request_options options;
    larder_request_options_init(&options);
    options.n_prompt_tokens = 4 + 4 * (kind % 6);
    for (uint32_t i = 0; i < options.n_prompt_tokens; i++) prompt[i] = i < 4 * kind ? 20 + i : 60 + kind + i;
    options.prompt_tokens = prompt;
    options.max_new_tokens = MAX_NEW - kind % 3;
    options.sampling.temperature = kind % 2 == 0 ? 0.0f : 1.3f;
    options.sampling.seed = kind;
    return options;
}

static void submit(worker *w, int e) {
    uint32_t prompt[MAX_PROMPT], kind = below(w, N_KINDS);
    larder_request_options options = options_of(kind, prompt);
    options.priority = (int32_t)below(w, 3) - 1;
    options.name_space = below(w, 2);
    options.user = (uint64_t)w->number << 32 | w->on[e].n_submitted;
    larder_request request = 0;
    larder_status status = larder_request_submit(engines[e].engine, &options, &request);
    if (status == LARDER_OK) {
        w->on[e].last = request;
        w->on[e].kinds[w->on[e].n_submitted++] = kind;
    } else {
        BAD(status != LARDER_LIMIT_REACHED);
        n_full++;
    }
}

static void cancel(worker *w, int e) {
    if (w->on[e].last == 0) return;
    larder_status status = larder_request_cancel(engines[e].engine, w->on[e].last);
    BAD(status != LARDER_OK && status != LARDER_STALE_HANDLE);
}

static void lock(engine_of_round *on) {
    if (has_locks) pthread_mutex_lock(&on->lock);
}

static void unlock(engine_of_round *on) {
    if (has_locks) pthread_mutex_unlock(&on->lock);
}

static answer *answer_of(engine_of_round *on, uint64_t user) {
    return &on->answers[user >> 32][(uint32_t)user];
}

static void take(engine_of_round *on, const larder_event *event) {
    answer *a = answer_of(on, event->user);
    uint32_t n_before = a->n_tokens;
    BAD(has_locks && a->n_ends != 0);
    if (event->kind == LARDER_EVENT_TOKEN) {
        BAD(n_before >= MAX_NEW);
        if (has_locks && n_before < MAX_NEW) a->tokens[n_before] = event->token;
        a->sum += event->token;
        a->n_tokens++;
        return;
    }
    BAD(event->kind != LARDER_EVENT_FINISHED);
    a->finish = event->finish;
    a->n_ends++;
    n_ended++;
}

/* What all events of a request came to, against what it gets alone. */
static void check_answer(const answer *a, const answer *expected) {
    BAD(a->n_ends != 1 || a->n_tokens > expected->n_tokens);
    if (has_locks) BAD(memcmp(a->tokens, expected->tokens, a->n_tokens * sizeof a->tokens[0]) != 0);
    if (a->finish == LARDER_FINISH_CANCELLED) {
        n_cancelled++;
    } else {
        BAD(a->n_tokens != expected->n_tokens || a->finish != expected->finish || a->sum != expected->sum);
    }
}

static larder_status step(engine_of_round *on) {
    larder_event events[4];
    size_t n_events = 0;
    lock(on);
    larder_status status = larder_engine_step(on->engine, events, 4, &n_events);
    for (size_t i = 0; i < n_events; i++) take(on, &events[i]);
    unlock(on);
    BAD(status != LARDER_OK && status != LARDER_BUSY);
    if (status == LARDER_BUSY) n_busy++;
    n_steps++;
    return status;
}

/* Anew from the sequence's first token. */
static void forward(worker *w, int e) {
    engine_of_round *on = &engines[e];
    larder_sequence sequences[N_FORWARD];
    for (int i = 0; i < N_FORWARD; i++) sequences[i] = w->on[e].sequence;
    larder_batch batch;
    larder_output output;
    larder_batch_init(&batch);
    larder_output_init(&output);
    batch.n_rows = N_FORWARD;
    batch.tokens = FORWARD_TOKENS;
    batch.sequences = sequences;
    lock(on);
    larder_status status = larder_sequence_truncate(on->engine, w->on[e].sequence, 0);
    if (status == LARDER_OK) status = larder_engine_forward(on->engine, &batch, &output);
    if (status == LARDER_OK && has_locks) {
        BAD(!same_row(output.logits, alone_logits, output.vocabulary_size));
    }
    unlock(on);
    BAD(status != LARDER_OK && status != LARDER_BUSY && status != LARDER_OUT_OF_SLOTS);
    if (status == LARDER_BUSY) n_busy++;
    n_forwards += status == LARDER_OK;
}

static void look(worker *w, int e) {
    larder_engine *engine = engines[e].engine;
    larder_stats stats;
    larder_memory memory;
    char text[8192];
    size_t needed;
    int32_t fd;
    uint32_t tokens[16], has_work;
    larder_stats_init(&stats);
    larder_memory_init(&memory);
    switch (below(w, 6)) {
        case 0:
            BAD(larder_engine_stats(engine, &stats) != LARDER_OK);
            BAD(stats.total_slots != TOTAL_TOKENS || stats.used_slots + stats.free_slots != TOTAL_TOKENS);
            BAD(larder_stats_prometheus(&stats, "x_", 2, text, sizeof text, &needed) != LARDER_OK);
            break;
        case 1: BAD(larder_engine_memory(engine, &memory) != LARDER_OK); break;
        case 2: BAD(larder_text_tokenize(engine, "the text", 8, 0, tokens, 16, &needed) != LARDER_OK); break;
        case 3: BAD(larder_engine_event_fd(engine, &fd) != LARDER_OK); break;
        case 4: BAD(larder_engine_describe(engine, text, sizeof text, &needed) != LARDER_OK); break;
        default: BAD(larder_engine_wait(engine, below(w, 2), &has_work) != LARDER_OK);
    }
}

static void meddle(worker *w, int e) {
    larder_engine *engine = engines[e].engine;
    uint64_t length;
    larder_sequence fork;
    larder_status status;
    switch (below(w, 4)) {
        case 0: status = larder_cache_flush(engine); break;
        case 1: status = larder_name_space_set(engine, below(w, 2), NULL); break;
        case 2: status = larder_sequence_length(engine, w->on[e].sequence, &length); break;
        default:
            status = larder_sequence_fork(engine, w->on[e].sequence, 0, &fork);
            while (status == LARDER_OK && larder_sequence_release(engine, fork) == LARDER_BUSY) try_again();
    }
    BAD(status != LARDER_OK && status != LARDER_BUSY && status != LARDER_LIMIT_REACHED);
    if (status == LARDER_BUSY) n_busy++;
}

static void *act(void *argument) {
    worker *w = argument;
    for (int e = 0; e < n_engines; e++) {
        while (larder_sequence_open(engines[e].engine, &w->on[e].sequence) == LARDER_BUSY) try_again();
    }
    for (int action = 0; action < N_ACTIONS; action++) {
        int e = (int)below(w, (uint32_t)n_engines);
        switch (below(w, 10)) {
            case 0:
            case 1: submit(w, e); break;
            case 2: cancel(w, e); break;
            case 3:
            case 4: forward(w, e); break;
            case 5: look(w, e); break;
            case 6: meddle(w, e); break;
            default: step(&engines[e]);
        }
    }
    for (int e = 0; e < n_engines; e++) {
        while (larder_sequence_release(engines[e].engine, w->on[e].sequence) == LARDER_BUSY) try_again();
    }
    return NULL;
}

static void create(int e) {
    larder_options options = small_options();
    options.n_threads = 2;
    options.total_tokens = TOTAL_TOKENS;
    options.max_sequences = 8 + 2 * N_THREADS; /* the threads' own never take the last place */
    options.max_requests = 12;
    memset(engines[e].answers, 0, sizeof engines[e].answers);
    engines[e].engine = engine_of(model, &options);
}

static int has_work(int e) {
    uint32_t has_any = 0;
    EXPECT(LARDER_OK, larder_engine_wait(engines[e].engine, 0, &has_any));
    return has_any != 0;
}

/* Makes the tokenizer's tables, which it makes when they are first needed, within a lock of Rust's standard library that
 * ThreadSanitizer does not see. */
static void tokenize_first(void) {
    uint32_t tokens[16];
    size_t needed;
    EXPECT(LARDER_OK, larder_text_tokenize(engines[0].engine, "the text", 8, 0, tokens, 16, &needed));
}

/* Each kind of request, and the forward pass, alone on an engine. */
static void alone_first(void) {
    for (uint32_t kind = 0; kind < N_KINDS; kind++) {
        uint32_t prompt[MAX_PROMPT];
        larder_request_options options = options_of(kind, prompt);
        larder_request request;
        create(0);
        EXPECT(LARDER_OK, larder_request_submit(engines[0].engine, &options, &request));
        larder_event event = {0};
        size_t n_events;
        while (event.kind != LARDER_EVENT_FINISHED && has_work(0)) {
            EXPECT(LARDER_OK, larder_engine_step(engines[0].engine, &event, 1, &n_events));
            if (n_events == 1 && event.kind == LARDER_EVENT_TOKEN) {
                alone[kind].tokens[alone[kind].n_tokens++] = event.token;
                alone[kind].sum += event.token;
            }
        }
        alone[kind].finish = event.finish;
        CHECK(event.kind == LARDER_EVENT_FINISHED && alone[kind].n_tokens > 0);
        EXPECT(LARDER_OK, larder_engine_release(engines[0].engine));
    }
    create(0);
    larder_sequence sequences[N_FORWARD];
    EXPECT(LARDER_OK, larder_sequence_open(engines[0].engine, &sequences[0]));
    for (int i = 1; i < N_FORWARD; i++) sequences[i] = sequences[0];
    larder_batch batch;
    larder_output output;
    larder_batch_init(&batch);
    larder_output_init(&output);
    batch.n_rows = N_FORWARD;
    batch.tokens = FORWARD_TOKENS;
    batch.sequences = sequences;
    EXPECT(LARDER_OK, larder_engine_forward(engines[0].engine, &batch, &output));
    CHECK(output.vocabulary_size <= MAX_VOCABULARY);
    memcpy(alone_logits, output.logits, output.vocabulary_size * sizeof(float));
    tokenize_first();
    EXPECT(LARDER_OK, larder_engine_release(engines[0].engine));
}

static void play(uint64_t seed) {
    worker workers[N_THREADS] = {0};
    pthread_t threads[N_THREADS];
    for (int e = 0; e < n_engines; e++) create(e);
    for (uint32_t i = 0; i < N_THREADS; i++) {
        workers[i].number = i;
        workers[i].random = (seed * N_THREADS + i + 1) * 0x9e3779b97f4a7c15u;
        if (pthread_create(&threads[i], NULL, act, &workers[i]) != 0) exit(1);
    }
    for (int i = 0; i < N_THREADS; i++) pthread_join(threads[i], NULL);
    for (int e = 0; e < n_engines; e++) {
        for (int i = 0; i < 5000 && has_work(e); i++) step(&engines[e]);
        CHECK(!has_work(e));
        larder_stats stats;
        larder_stats_init(&stats);
        step(&engines[e]);
        EXPECT(LARDER_OK, larder_engine_stats(engines[e].engine, &stats));
        CHECK(stats.used_slots == 0 && stats.requests_running == 0 && stats.requests_waiting == 0);
        for (int i = 0; i < N_THREADS; i++) {
            for (uint32_t n = 0; n < workers[i].on[e].n_submitted; n++) {
                check_answer(&engines[e].answers[i][n], &alone[workers[i].on[e].kinds[n]]);
            }
        }
        EXPECT(LARDER_OK, larder_engine_release(engines[e].engine));
    }
}

int main(int argc, char **argv) {
    model = model_of(argc, argv);
    long n_rounds = argc > 2 ? strtol(argv[2], NULL, 10) : 4;
    for (int e = 0; e < N_ENGINES; e++) pthread_mutex_init(&engines[e].lock, NULL);
    alone_first();
    for (long round = 0; round < n_rounds; round++) {
        n_engines = 1 + (int)(round % N_ENGINES);
        has_locks = round / N_ENGINES % 2 == 0;
        play((uint64_t)round);
    }
    printf("%ld rounds: %ld steps, %ld forwards, %ld requests ended, %ld of them cancelled; %ld times busy, %ld times full\n",
           n_rounds, (long)n_steps, (long)n_forwards, (long)n_ended, (long)n_cancelled, (long)n_busy, (long)n_full);
    CHECK(n_bad == 0);
    return finish();
}
