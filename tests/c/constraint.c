/* Answers that follow a constraint, beside one that follows none. */
#include "check.h"

enum { N_PROMPT = 8, MAX_NEW_TOKENS = 40, MAX_TEXT = 4096 };
enum { JSON_SCHEMA = 1, REGEX = 2, LARK = 3 };

static larder_engine *engine;

typedef struct {
    char text[MAX_TEXT];
    size_t length;
    uint32_t kind, finish;
    larder_status status;
} answer_of;

static larder_status submit(uint32_t kind, const char *constraint, uint64_t user, larder_request *request) {
    static uint32_t prompt[N_PROMPT];
    for (uint32_t i = 0; i < N_PROMPT; i++) prompt[i] = 30 + 3 * i;
    larder_request_options options;
    larder_request_options_init(&options);
    options.prompt_tokens = prompt;
    options.n_prompt_tokens = N_PROMPT;
    options.max_new_tokens = MAX_NEW_TOKENS;
    options.user = user;
    options.constraint_kind = kind;
    options.constraint.data = constraint;
    options.constraint.length = strlen(constraint);
    options.sampling.temperature = 1.0f;
    options.sampling.seed = 5;
    return larder_request_submit(engine, &options, request);
}

/* Steps until `n` requests with users 0 .. n - 1 have ended. */
static void run(answer_of *answers, uint32_t n) {
    memset(answers, 0, n * sizeof *answers);
    for (uint32_t n_open = n, step = 0; n_open > 0 && step < 200; step++) {
        larder_event events[8];
        size_t n_events = 0;
        EXPECT(LARDER_OK, larder_engine_step(engine, events, 8, &n_events));
        for (size_t i = 0; i < n_events; i++) {
            answer_of *answer = &answers[events[i].user];
            if (answer->length + events[i].text_length < MAX_TEXT) {
                memcpy(answer->text + answer->length, events[i].text, events[i].text_length);
                answer->length += events[i].text_length;
            }
            if (events[i].kind == LARDER_EVENT_TOKEN) continue;
            answer->kind = events[i].kind;
            answer->finish = events[i].finish;
            answer->status = events[i].status;
            n_open--;
        }
    }
}

static uint64_t constraint_bytes(void) {
    larder_stats stats;
    larder_stats_init(&stats);
    EXPECT(LARDER_OK, larder_engine_stats(engine, &stats));
    return stats.constraint_bytes;
}

/* Each answer is of its language, and the one without a constraint is as it is alone. */
static void each_follows_its_own(void) {
    larder_request requests[4];
    answer_of alone[1], answers[4];
    EXPECT(LARDER_OK, submit(0, "", 0, &requests[0]));
    run(alone, 1);
    EXPECT(LARDER_OK, submit(0, "", 0, &requests[0]));
    EXPECT(LARDER_OK, submit(JSON_SCHEMA, "{\"enum\": [\"yes\", \"no\"]}", 1, &requests[1]));
    EXPECT(LARDER_OK, submit(REGEX, "[0-9]{3}-[ab]+!", 2, &requests[2]));
    EXPECT(LARDER_OK, submit(LARK, "start: \"one\" | \"two\"", 3, &requests[3]));
    run(answers, 4);
    CHECK(answers[0].length == alone[0].length);
    CHECK(memcmp(answers[0].text, alone[0].text, alone[0].length) == 0);
    CHECK(answers[0].finish == alone[0].finish);
    CHECK(strcmp(answers[1].text, "\"yes\"") == 0 || strcmp(answers[1].text, "\"no\"") == 0);
    CHECK(answers[1].kind == LARDER_EVENT_FINISHED && answers[1].finish == LARDER_FINISH_CONSTRAINT);
    size_t n_letters = 0;
    while (n_letters + 4 < answers[2].length && strchr("ab", answers[2].text[4 + n_letters])) n_letters++;
    CHECK(answers[2].length >= 4 && strspn(answers[2].text, "0123456789") == 3 && answers[2].text[3] == '-');
    if (answers[2].finish == LARDER_FINISH_CONSTRAINT) {
        CHECK(n_letters > 0 && answers[2].length == n_letters + 5 && answers[2].text[n_letters + 4] == '!');
    } else {
        CHECK(answers[2].finish == LARDER_FINISH_LENGTH && answers[2].length == n_letters + 4);
    }
    CHECK(strcmp(answers[3].text, "one") == 0 || strcmp(answers[3].text, "two") == 0);
    CHECK(constraint_bytes() == 0);
}

static void refusals_name_the_constraint(void) {
    larder_request request;
    EXPECT(LARDER_INVALID_ARGUMENT, submit(JSON_SCHEMA, "{", 0, &request));
    SAYS("constraint");
    EXPECT(LARDER_INVALID_ARGUMENT, submit(REGEX, "a(", 0, &request));
    SAYS("constraint");
    EXPECT(LARDER_INVALID_ARGUMENT, submit(LARK, "start: nowhere", 0, &request));
    SAYS("nowhere");
}

static void a_cancelled_one_gives_its_bytes_back(void) {
    larder_request request;
    larder_event event;
    answer_of answer[1];
    size_t n_events = 0;
    EXPECT(LARDER_OK, submit(REGEX, "[a-z]{100}", 0, &request));
    EXPECT(LARDER_OK, larder_engine_step(engine, &event, 1, &n_events));
    CHECK(constraint_bytes() > 0);
    EXPECT(LARDER_OK, larder_request_cancel(engine, request));
    run(answer, 1);
    CHECK(answer->finish == LARDER_FINISH_CANCELLED && constraint_bytes() == 0);
}

int main(int argc, char **argv) {
    const larder_options options = small_options();
    engine = engine_of(model_of(argc, argv), &options);
    refusals_name_the_constraint();
    each_follows_its_own();
    a_cancelled_one_gives_its_bytes_back();
    EXPECT(LARDER_OK, larder_engine_release(engine));
    return finish();
}
