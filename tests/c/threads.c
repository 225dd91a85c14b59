/* Threads submit, cancel, tokenize and meddle while one steps: every answer is what it is alone, and a call that
 * would have to wait says BUSY. All on stacks of 64 KiB. */
#include "check.h"

#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>

enum { N_THREADS = 4, N_EACH = 12, N_REQUESTS = N_THREADS * N_EACH, MAX_TOKENS = 6, STACK_BYTES = 64 << 10 };

static const char *model;
static pthread_attr_t attributes;
static larder_engine *engine;
static atomic_int n_running, n_busy, n_failed;

static larder_request_options options_of(uint64_t user) {
    static const uint32_t PROMPTS[3][3] = {{20, 30, 40}, {50, 60, 70}, {9, 8, 7}};
    larder_request_options options;
    larder_request_options_init(&options);
    options.prompt_tokens = PROMPTS[user % 3];
    options.n_prompt_tokens = 3;
    options.max_new_tokens = MAX_TOKENS;
    options.user = user;
    return options;
}

static void *submit_all(void *argument) {
    uint64_t first = (uint64_t)(size_t)argument * N_EACH;
    for (uint64_t user = first; user < first + N_EACH; user++) {
        larder_request_options options = options_of(user);
        larder_request request = 0;
        larder_status status;
        while ((status = larder_request_submit(engine, &options, &request)) == LARDER_LIMIT_REACHED) {
        }
        if (status != LARDER_OK) n_failed++;
        if (user % 5 == 4 && larder_request_cancel(engine, request) != LARDER_OK) n_failed++;

        uint32_t tokens[8];
        size_t n_tokens;
        if (larder_text_tokenize(engine, "the", 3, 0, tokens, 8, &n_tokens) != LARDER_OK) n_failed++;
        larder_sequence sequence;
        status = larder_sequence_open(engine, &sequence);
        if (status == LARDER_OK) {
            while ((status = larder_sequence_release(engine, sequence)) == LARDER_BUSY) n_busy++;
            if (status != LARDER_OK) n_failed++;
        } else if (status == LARDER_BUSY) {
            n_busy++;
        } else if (status != LARDER_LIMIT_REACHED) {
            n_failed++;
        }
    }
    n_running--;
    return NULL;
}

typedef struct answer {
    uint32_t n_tokens, n_ends, kind, finish;
    uint32_t tokens[MAX_TOKENS];
} answer;

static answer answers[N_REQUESTS];

/* Steps until `n` requests have ended. */
static void step_until(uint32_t n) {
    uint32_t n_ended = 0;
    for (long i = 0; n_ended < n && i < 100000000; i++) {
        larder_event events[4];
        size_t n_events = 0;
        larder_status status = larder_engine_step(engine, events, 4, &n_events);
        if (status == LARDER_BUSY) continue;
        CHECK(status == LARDER_OK);
        for (size_t e = 0; e < n_events; e++) {
            answer *a = &answers[events[e].user];
            CHECK(a->n_ends == 0);
            if (events[e].kind == LARDER_EVENT_TOKEN) {
                if (a->n_tokens < MAX_TOKENS) a->tokens[a->n_tokens] = events[e].token;
                a->n_tokens++;
            } else {
                a->n_ends++;
                a->kind = events[e].kind;
                a->finish = events[e].finish;
                n_ended++;
            }
        }
    }
    CHECK(n_ended == n);
}

static void *everything(void *unused) {
    (void)unused;
    larder_options options = small_options();
    options.n_threads = 2;
    options.max_sequences = 8; /* 4 requests at most: the others' sequences never take a place from them */
    engine = engine_of(model, &options);

    answer alone[3];
    for (uint64_t i = 0; i < 3; i++) {
        larder_request_options request_options = options_of(i);
        larder_request request;
        EXPECT(LARDER_OK, larder_request_submit(engine, &request_options, &request));
        step_until(1);
        alone[i] = answers[i];
    }
    memset(answers, 0, sizeof answers);

    pthread_t threads[N_THREADS];
    n_running = N_THREADS;
    for (size_t i = 0; i < N_THREADS; i++) pthread_create(&threads[i], &attributes, submit_all, (void *)i);
    step_until(N_REQUESTS);
    for (size_t i = 0; i < N_THREADS; i++) pthread_join(threads[i], NULL);
    CHECK(n_failed == 0 && n_running == 0);
    for (uint64_t i = 0; i < N_REQUESTS; i++) {
        const answer *a = &answers[i];
        CHECK(a->n_ends == 1 && a->kind == LARDER_EVENT_FINISHED);
        if (a->finish == LARDER_FINISH_CANCELLED) continue;
        CHECK(a->n_tokens == alone[i % 3].n_tokens);
        CHECK(memcmp(a->tokens, alone[i % 3].tokens, sizeof a->tokens) == 0);
    }
    EXPECT(LARDER_OK, larder_engine_release(engine));
    return NULL;
}

int main(int argc, char **argv) {
    model = model_of(argc, argv);
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES < PTHREAD_STACK_MIN ? PTHREAD_STACK_MIN : STACK_BYTES);
    pthread_t thread;
    CHECK(pthread_create(&thread, &attributes, everything, NULL) == 0);
    pthread_join(thread, NULL);
    printf("%d calls found the engine busy\n", (int)n_busy);
    return finish();
}
