/* forward through the header: chunks, a fork and embeddings give the logits of the whole prompt at once. */
#include "check.h"

enum { N = 12, MAX_VOCABULARY = 512 };

static const uint32_t TOKENS[N] = {1, 17, 5, 99, 42, 7, 3, 64, 100, 12, 8, 31};

static larder_engine *engine;
static uint32_t vocabulary_size, hidden_size;

/* Appends tokens to a sequence; the last row's logits go to `logits`. */
static void append(larder_sequence sequence, const uint32_t *tokens, uint32_t n, float *logits) {
    larder_sequence sequences[N];
    for (uint32_t i = 0; i < n; i++) sequences[i] = sequence;
    larder_batch batch;
    larder_batch_init(&batch);
    batch.n_rows = n;
    batch.tokens = tokens;
    batch.sequences = sequences;
    larder_output output;
    larder_output_init(&output);
    EXPECT(LARDER_OK, larder_engine_forward(engine, &batch, &output));
    CHECK(output.n_logits_rows == 1 && output.n_hidden_rows == 0 && output.hidden == NULL);
    vocabulary_size = output.vocabulary_size;
    hidden_size = output.hidden_size;
    if (output.logits != NULL) memcpy(logits, output.logits, vocabulary_size * sizeof(float));
}

static void chunks_and_forks_keep_the_logits(void) {
    float whole[MAX_VOCABULARY], other[MAX_VOCABULARY];
    larder_sequence a, b, c;
    EXPECT(LARDER_OK, larder_sequence_open(engine, &a));
    append(a, TOKENS, N, whole);
    CHECK(vocabulary_size > 0 && vocabulary_size <= MAX_VOCABULARY && hidden_size > 0);

    EXPECT(LARDER_OK, larder_sequence_open(engine, &b));
    for (uint32_t i = 0; i < N; i++) append(b, TOKENS + i, 1, other);
    CHECK(same_row(whole, other, vocabulary_size));

    EXPECT(LARDER_OK, larder_sequence_fork(engine, a, 5, &c));
    append(c, TOKENS + 5, N - 5, other);
    CHECK(same_row(whole, other, vocabulary_size));

    EXPECT(LARDER_OK, larder_sequence_truncate(engine, b, 7));
    append(b, TOKENS + 7, N - 7, other);
    CHECK(same_row(whole, other, vocabulary_size));

    uint64_t length = 0;
    EXPECT(LARDER_OK, larder_sequence_length(engine, c, &length));
    CHECK(length == N);
    EXPECT(LARDER_OK, larder_sequence_release(engine, a));
    EXPECT(LARDER_OK, larder_sequence_release(engine, b));
    EXPECT(LARDER_OK, larder_sequence_release(engine, c));
}

/* Two sequences in one batch, each row asking for what it likes. */
static void rows_get_what_they_want(void) {
    larder_sequence a, b;
    EXPECT(LARDER_OK, larder_sequence_open(engine, &a));
    EXPECT(LARDER_OK, larder_sequence_open(engine, &b));
    const larder_sequence sequences[4] = {a, b, a, b};
    const uint32_t tokens[4] = {1, 2, 3, 4};
    const uint8_t wants[4] = {LARDER_WANT_HIDDEN, 0, LARDER_WANT_LOGITS | LARDER_WANT_HIDDEN,
                              LARDER_WANT_LOGITS};
    larder_batch batch;
    larder_batch_init(&batch);
    batch.n_rows = 4;
    batch.tokens = tokens;
    batch.sequences = sequences;
    batch.wants = wants;
    larder_output output;
    larder_output_init(&output);
    EXPECT(LARDER_OK, larder_engine_forward(engine, &batch, &output));
    CHECK(output.n_logits_rows == 2 && output.n_hidden_rows == 2);

    batch.pooling = LARDER_POOL_MEAN;
    batch.normalize = 1;
    EXPECT(LARDER_OK, larder_engine_forward(engine, &batch, &output));
    CHECK(output.n_hidden_rows == 1);
    float square = 0;
    for (uint32_t i = 0; i < output.hidden_size; i++) square += output.hidden[i] * output.hidden[i];
    CHECK(square > 0.999f && square < 1.001f);
    EXPECT(LARDER_OK, larder_sequence_release(engine, a));
    EXPECT(LARDER_OK, larder_sequence_release(engine, b));
}

static void embeddings_take_the_place_of_tokens(void) {
    larder_sequence a;
    EXPECT(LARDER_OK, larder_sequence_open(engine, &a));
    float *rows = malloc(2 * hidden_size * sizeof(float));
    for (uint32_t i = 0; i < 2 * hidden_size; i++) rows[i] = (float)(i % 7) - 3;
    const larder_sequence sequences[2] = {a, a};
    larder_batch batch;
    larder_batch_init(&batch);
    batch.n_rows = 2;
    batch.embeddings = rows;
    batch.sequences = sequences;
    larder_output output;
    larder_output_init(&output);
    EXPECT(LARDER_OK, larder_engine_forward(engine, &batch, &output));
    CHECK(output.n_logits_rows == 1);
    uint64_t length = 0;
    EXPECT(LARDER_OK, larder_sequence_length(engine, a, &length));
    CHECK(length == 2);
    EXPECT(LARDER_OK, larder_sequence_release(engine, a));
    free(rows);
}

/* A batch that does not fit changes nothing. */
static void all_or_nothing(void) {
    larder_sequence a;
    EXPECT(LARDER_OK, larder_sequence_open(engine, &a));
    float logits[MAX_VOCABULARY];
    append(a, TOKENS, 3, logits);
    larder_sequence sequences[17];
    uint32_t tokens[17] = {0};
    for (int i = 0; i < 17; i++) sequences[i] = a;
    larder_batch batch;
    larder_batch_init(&batch);
    batch.n_rows = 17;
    batch.tokens = tokens;
    batch.sequences = sequences;
    larder_output output;
    larder_output_init(&output);
    EXPECT(LARDER_LIMIT_REACHED, larder_engine_forward(engine, &batch, &output));
    SAYS("max_batch_rows");
    batch.n_rows = 16;
    for (int i = 0; i < 3; i++) EXPECT(LARDER_OK, larder_engine_forward(engine, &batch, &output));
    EXPECT(LARDER_LIMIT_REACHED, larder_engine_forward(engine, &batch, &output));
    SAYS("max_sequence_tokens");
    uint64_t length = 0;
    EXPECT(LARDER_OK, larder_sequence_length(engine, a, &length));
    CHECK(length == 3 + 3 * 16);
    EXPECT(LARDER_OK, larder_sequence_release(engine, a));
}

int main(int argc, char **argv) {
    larder_options options = small_options();
    engine = engine_of(model_of(argc, argv), &options);
    chunks_and_forks_keep_the_logits();
    rows_get_what_they_want();
    embeddings_take_the_place_of_tokens();
    all_or_nothing();
    EXPECT(LARDER_OK, larder_engine_release(engine));
    return finish();
}
