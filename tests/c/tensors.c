/* forward_tensors: the rows that forward copies, at the place where they were computed. */
#include "check.h"

/* As dlpack.h 0.8 declares them, without its names, which a host may include itself. */
typedef struct {
    void *data;
    int32_t device_type, device_id, n_dim;
    uint8_t type_code, type_bits;
    uint16_t type_lanes;
    int64_t *shape, *strides;
    uint64_t byte_offset;
    void *manager;
    void (*deleter)(void *);
} tensor;

enum { N = 5, DL_CPU = 1, DL_CUDA = 2 };

static const uint32_t TOKENS[N] = {3, 1, 4, 1, 5};

static larder_engine *engine;

static void check_tensor(const tensor *t, int64_t n_rows, int64_t n_columns) {
    const int is_device = test_device() != LARDER_DEVICE_CPU;
    CHECK(t->device_type == (is_device ? DL_CUDA : DL_CPU) && t->device_id == 0 && t->n_dim == 2);
    CHECK(t->type_code == 2 && t->type_bits == 32 && t->type_lanes == 1);
    CHECK(t->shape[0] == n_rows && t->shape[1] == n_columns && t->strides == NULL);
    CHECK(t->data != NULL && t->byte_offset == 0);
}

static void the_rows_are_those_of_forward(void) {
    larder_sequence a, b, sequences[N];
    EXPECT(LARDER_OK, larder_sequence_open(engine, &a));
    EXPECT(LARDER_OK, larder_sequence_open(engine, &b));
    const uint8_t wants[N] = {0, 3, 0, 3, 3};
    larder_batch batch;
    larder_batch_init(&batch);
    batch.n_rows = N;
    batch.tokens = TOKENS;
    batch.sequences = sequences;
    batch.wants = wants;
    for (int i = 0; i < N; i++) sequences[i] = a;
    larder_output output;
    larder_output_init(&output);
    EXPECT(LARDER_OK, larder_engine_forward(engine, &batch, &output));
    const size_t n_logits = 3 * output.vocabulary_size, n_hidden = 3 * output.hidden_size;
    float *logits = malloc(n_logits * sizeof(float)), *hidden = malloc(n_hidden * sizeof(float));
    memcpy(logits, output.logits, n_logits * sizeof(float));
    memcpy(hidden, output.hidden, n_hidden * sizeof(float));

    for (int i = 0; i < N; i++) sequences[i] = b;
    larder_tensors tensors;
    larder_tensors_init(&tensors);
    EXPECT(LARDER_OK, larder_engine_forward_tensors(engine, &batch, &tensors));
    const tensor *l = (const void *)tensors.logits, *h = (const void *)tensors.hidden;
    check_tensor(l, 3, output.vocabulary_size);
    check_tensor(h, 3, output.hidden_size);
    if (test_device() == LARDER_DEVICE_CPU) {
        CHECK(tensors.is_device == 0 && tensors.event == NULL);
        CHECK(memcmp(l->data, logits, n_logits * sizeof(float)) == 0);
        CHECK(memcmp(h->data, hidden, n_hidden * sizeof(float)) == 0);
    } else {
        CHECK(tensors.is_device != 0 && tensors.event != NULL);
    }
    l->deleter((void *)tensors.logits);
    h->deleter((void *)tensors.hidden);

    const uint8_t only_logits[N] = {0, 0, 0, 0, 1};
    batch.wants = only_logits;
    EXPECT(LARDER_OK, larder_engine_forward_tensors(engine, &batch, &tensors));
    CHECK(tensors.hidden == NULL && tensors.logits != NULL);
    check_tensor((const void *)tensors.logits, 1, output.vocabulary_size);
    free(logits);
    free(hidden);
}

static void what_the_host_would_do_is_refused(void) {
    larder_sequence a, sequences[2];
    EXPECT(LARDER_OK, larder_sequence_open(engine, &a));
    sequences[0] = sequences[1] = a;
    const uint8_t mixed[2] = {1, 2};
    larder_batch batch;
    larder_batch_init(&batch);
    batch.n_rows = 2;
    batch.tokens = TOKENS;
    batch.sequences = sequences;
    batch.wants = mixed;
    larder_tensors tensors;
    larder_tensors_init(&tensors);
    EXPECT(LARDER_INVALID_ARGUMENT, larder_engine_forward_tensors(engine, &batch, &tensors));
    SAYS("batch.wants");
    batch.normalize = 1;
    EXPECT(LARDER_INVALID_ARGUMENT, larder_engine_forward_tensors(engine, &batch, &tensors));
    SAYS("normalize");
    EXPECT(LARDER_INVALID_ARGUMENT, larder_engine_forward_tensors(engine, NULL, &tensors));
    EXPECT(LARDER_INVALID_ARGUMENT, larder_engine_forward_tensors(engine, &batch, NULL));
    CHECK(tensors.logits == NULL && tensors.hidden == NULL);
    uint64_t length = 1;
    EXPECT(LARDER_OK, larder_sequence_length(engine, a, &length));
    CHECK(length == 0);
}

int main(int argc, char **argv) {
    larder_options options = small_options();
    engine = engine_of(model_of(argc, argv), &options);
    the_rows_are_those_of_forward();
    what_the_host_would_do_is_refused();
    EXPECT(LARDER_OK, larder_engine_release(engine));
    return finish();
}
