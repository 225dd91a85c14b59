/* submit, cancel, step: every answer ends once, in whatever company. */
#include "check.h"

enum { N_EVENTS = 3, MAX_STEPS = 500, MAX_ANSWER = 64 };

static larder_engine *engine;

/* What one request's events came to. */
typedef struct outcome {
    larder_request request;
    uint32_t n_tokens, n_ends, finish, kind;
    uint32_t tokens[MAX_ANSWER];
    char text[1024];
    size_t length;
} outcome;

static larder_request_options prompt_options(void) {
    static const uint32_t PROMPT[] = {20, 30, 40, 50};
    larder_request_options options;
    larder_request_options_init(&options);
    options.prompt_tokens = PROMPT;
    options.n_prompt_tokens = 4;
    options.max_new_tokens = 8;
    return options;
}

static void take(outcome *outcomes, size_t n, const larder_event *event) {
    for (size_t i = 0; i < n; i++) {
        outcome *o = &outcomes[i];
        if (o->request != event->request) continue;
        CHECK(o->n_ends == 0 && event->answer == 0 && event->n_prompt_tokens > 0);
        if (o->length + event->text_length < sizeof o->text) {
            memcpy(o->text + o->length, event->text, event->text_length);
            o->length += event->text_length;
        }
        if (event->kind == LARDER_EVENT_TOKEN) {
            if (o->n_tokens < MAX_ANSWER) o->tokens[o->n_tokens] = event->token;
            o->n_tokens++;
        } else {
            o->n_ends++;
            o->kind = event->kind;
            o->finish = event->finish;
        }
        return;
    }
    CHECK(!"an event of an unknown request");
}

/* Steps until every outcome has its end. */
static void run(outcome *outcomes, size_t n) {
    for (int step = 0; step < MAX_STEPS; step++) {
        larder_event events[N_EVENTS];
        size_t n_events = 99, n_ended = 0;
        EXPECT(LARDER_OK, larder_engine_step(engine, events, N_EVENTS, &n_events));
        CHECK(n_events <= N_EVENTS);
        for (size_t i = 0; i < n_events && i < N_EVENTS; i++) take(outcomes, n, &events[i]);
        for (size_t i = 0; i < n; i++) n_ended += outcomes[i].n_ends;
        if (n_ended >= n) return;
    }
    CHECK(!"the requests do not end");
}

static void company_does_not_change_an_answer(void) {
    outcome alone = {0}, together[4] = {{0}};
    larder_request_options options = prompt_options();
    EXPECT(LARDER_OK, larder_request_submit(engine, &options, &alone.request));
    run(&alone, 1);
    CHECK(alone.kind == LARDER_EVENT_FINISHED && alone.n_tokens <= 8);
    CHECK(alone.finish == LARDER_FINISH_LENGTH || alone.finish == LARDER_FINISH_STOP);
    for (int i = 0; i < 4; i++) {
        options.n_prompt_tokens = i == 2 ? 4 : 2;
        options.user = (uint64_t)i;
        EXPECT(LARDER_OK, larder_request_submit(engine, &options, &together[i].request));
    }
    larder_request one_more = 3;
    EXPECT(LARDER_LIMIT_REACHED, larder_request_submit(engine, &options, &one_more));
    SAYS("max_requests");
    CHECK(one_more == 3);
    run(together, 4);
    CHECK(together[2].n_tokens == alone.n_tokens);
    CHECK(memcmp(together[2].tokens, alone.tokens, sizeof alone.tokens) == 0);
}

static void seeds_repeat(void) {
    outcome outcomes[2] = {{0}};
    larder_request_options options = prompt_options();
    options.sampling.temperature = 1.5f;
    options.sampling.top_k = 40;
    options.sampling.seed = 42;
    for (int i = 0; i < 2; i++) {
        EXPECT(LARDER_OK, larder_request_submit(engine, &options, &outcomes[i].request));
    }
    run(outcomes, 2);
    CHECK(outcomes[0].n_tokens == outcomes[1].n_tokens);
    CHECK(memcmp(outcomes[0].tokens, outcomes[1].tokens, sizeof outcomes[0].tokens) == 0);
}

static void cancel_in_every_state(void) {
    outcome waiting = {0}, running = {0};
    larder_request_options options = prompt_options();
    options.max_new_tokens = 50;
    larder_event events[N_EVENTS];
    size_t n_events;
    EXPECT(LARDER_OK, larder_request_submit(engine, &options, &waiting.request));
    EXPECT(LARDER_OK, larder_request_cancel(engine, waiting.request));
    EXPECT(LARDER_OK, larder_request_cancel(engine, waiting.request));
    run(&waiting, 1);
    CHECK(waiting.finish == LARDER_FINISH_CANCELLED && waiting.n_tokens == 0);
    EXPECT(LARDER_OK, larder_request_submit(engine, &options, &running.request));
    EXPECT(LARDER_OK, larder_engine_step(engine, events, N_EVENTS, &n_events));
    for (size_t i = 0; i < n_events; i++) take(&running, 1, &events[i]);
    EXPECT(LARDER_OK, larder_request_cancel(engine, running.request));
    run(&running, 1);
    CHECK(running.finish == LARDER_FINISH_CANCELLED || running.finish == LARDER_FINISH_STOP);
    EXPECT(LARDER_OK, larder_request_cancel(engine, running.request));
    EXPECT(LARDER_OK, larder_engine_step(engine, events, N_EVENTS, &n_events));
    CHECK(n_events == 0);
}

static void text_and_logprobs(void) {
    larder_request_options options;
    larder_request_options_init(&options);
    options.prompt_text.data = "the <|im_end|>";
    options.prompt_text.length = 14;
    options.prompt_flags = LARDER_TEXT_PARSE_SPECIAL;
    options.max_new_tokens = 4;
    options.sampling.n_logprobs = 3;
    const uint32_t banned[] = {2};
    const float biases[] = {-1e30f};
    options.sampling.n_biases = 1;
    options.sampling.bias_tokens = banned;
    options.sampling.biases = biases;
    larder_request request;
    EXPECT(LARDER_OK, larder_request_submit(engine, &options, &request));
    uint32_t n_tokens = 0, kind = LARDER_EVENT_TOKEN;
    for (int step = 0; step < MAX_STEPS && kind == LARDER_EVENT_TOKEN; step++) {
        larder_event event;
        size_t n_events;
        EXPECT(LARDER_OK, larder_engine_step(engine, &event, 1, &n_events));
        if (n_events == 0) continue;
        kind = event.kind;
        if (kind != LARDER_EVENT_TOKEN) continue;
        n_tokens++;
        CHECK(event.n_top_logprobs == 3 && event.logprob <= 0);
        CHECK(event.top_logprobs[0].logprob >= event.top_logprobs[1].logprob);
        CHECK(event.top_logprobs[1].logprob >= event.top_logprobs[2].logprob);
    }
    CHECK(kind == LARDER_EVENT_FINISHED && n_tokens == 4);
}

int main(int argc, char **argv) {
    larder_options options = small_options();
    engine = engine_of(model_of(argc, argv), &options);
    company_does_not_change_an_answer();
    seeds_repeat();
    cancel_in_every_state();
    text_and_logprobs();
    EXPECT(LARDER_OK, larder_engine_release(engine));
    return finish();
}
