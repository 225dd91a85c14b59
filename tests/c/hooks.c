/* What a host lends: memory (also when it refuses), its own executor, a log, progress. */
#include "check.h"

enum { MAX_BLOCKS = 16 };

typedef struct host {
    int n_allocate, refuse_at, n_live, n_parallel, n_tasks;
    size_t n_bytes, block_bytes[MAX_BLOCKS];
    void *blocks[MAX_BLOCKS];
    uint64_t last_done, last_total;
    char log[4096];
    size_t log_length;
} host;

static void *allocate(void *user, uint32_t block, size_t bytes, size_t alignment) {
    host *h = user;
    CHECK(block == LARDER_BLOCK_HOST && bytes > 0 && (alignment & (alignment - 1)) == 0);
    if (h->n_allocate++ == h->refuse_at || h->n_live == MAX_BLOCKS) return NULL;
    void *address = NULL;
    if (posix_memalign(&address, alignment < sizeof(void *) ? sizeof(void *) : alignment, bytes) != 0) {
        return NULL;
    }
    memset(address, 0xa5, bytes); /* what a host lends need not be zero */
    h->blocks[h->n_live] = address;
    h->block_bytes[h->n_live++] = bytes;
    h->n_bytes += bytes;
    return address;
}

static void deallocate(void *user, uint32_t block, void *address, size_t bytes) {
    host *h = user;
    CHECK(block == LARDER_BLOCK_HOST);
    for (int i = 0; i < h->n_live; i++) {
        if (h->blocks[i] != address) continue;
        CHECK(h->block_bytes[i] == bytes);
        free(address);
        h->n_live--;
        h->blocks[i] = h->blocks[h->n_live];
        h->block_bytes[i] = h->block_bytes[h->n_live];
        h->n_bytes -= bytes;
        return;
    }
    CHECK(!"a block that the host did not give");
}

/* Backwards and all on one thread: any order is as good. */
static void parallel_for(void *user, uint32_t n_tasks, larder_task task, void *context) {
    host *h = user;
    h->n_parallel++;
    for (uint32_t i = n_tasks; i-- > 0;) task(context, i);
    h->n_tasks += (int)n_tasks;
}

static void log_line(void *user, uint32_t level, const char *text, size_t length) {
    host *h = user;
    CHECK(level >= 1 && level <= 4);
    if (h->log_length + length + 1 < sizeof h->log) {
        memcpy(h->log + h->log_length, text, length);
        h->log_length += length;
        h->log[h->log_length++] = '\n';
    }
}

static int32_t progress(void *user, uint64_t done_bytes, uint64_t total_bytes) {
    host *h = user;
    CHECK(done_bytes >= h->last_done && done_bytes <= total_bytes);
    h->last_done = done_bytes;
    h->last_total = total_bytes;
    return 0;
}

static larder_hooks hooks_of(host *h) {
    larder_hooks hooks;
    larder_hooks_init(&hooks);
    hooks.user = h;
    hooks.log_level = 4;
    hooks.log = log_line;
    hooks.progress = progress;
    hooks.allocate = allocate;
    hooks.deallocate = deallocate;
    return hooks;
}

/* The logits of a few tokens. */
static void logits_of(larder_engine *engine, float *logits, uint32_t *n) {
    const uint32_t tokens[] = {1, 9, 30, 7};
    larder_sequence sequence, sequences[4];
    EXPECT(LARDER_OK, larder_sequence_open(engine, &sequence));
    for (int i = 0; i < 4; i++) sequences[i] = sequence;
    larder_batch batch;
    larder_output output;
    larder_batch_init(&batch);
    larder_output_init(&output);
    batch.n_rows = 4;
    batch.tokens = tokens;
    batch.sequences = sequences;
    EXPECT(LARDER_OK, larder_engine_forward(engine, &batch, &output));
    *n = output.vocabulary_size;
    memcpy(logits, output.logits, *n * sizeof(float));
    EXPECT(LARDER_OK, larder_sequence_release(engine, sequence));
}

static void lent_memory_and_threads_give_the_same_bits(const char *model) {
    static float own[1024], lent[1024];
    uint32_t n_own = 0, n_lent = 0;
    larder_options options = small_options();
    larder_engine *engine = engine_of(model, &options);
    logits_of(engine, own, &n_own);
    EXPECT(LARDER_OK, larder_engine_release(engine));

    host h = {0};
    h.refuse_at = -1;
    larder_hooks hooks = hooks_of(&h);
    hooks.parallel_for = parallel_for;
    options.hooks = &hooks;
    options.n_threads = 4;
    engine = engine_of(model, &options);
    memset(&hooks, 0, sizeof hooks); /* create has copied them */
    larder_memory memory;
    larder_memory_init(&memory);
    EXPECT(LARDER_OK, larder_engine_memory(engine, &memory));
    CHECK(h.n_bytes == memory.weights_bytes + memory.kv_repo_bytes + memory.compute_area_bytes);
    CHECK(h.last_total > 0 && h.last_done == h.last_total);
    int n_allocate = h.n_allocate;
    logits_of(engine, lent, &n_lent);
    CHECK(h.n_allocate == n_allocate);
    CHECK(h.n_parallel > 0 && h.n_tasks >= h.n_parallel);
    CHECK(n_own == n_lent && memcmp(own, lent, n_own * sizeof(float)) == 0);
    EXPECT(LARDER_OK, larder_engine_release(engine));
    CHECK(h.n_live == 0 && h.n_bytes == 0);
}

static void every_refusal_is_out_of_memory(const char *model) {
    for (int n = 0; n < MAX_BLOCKS; n++) {
        host h = {0};
        h.refuse_at = n;
        larder_hooks hooks = hooks_of(&h);
        larder_options options = small_options();
        options.hooks = &hooks;
        larder_engine *engine = NULL;
        larder_status status = larder_engine_create(model, &options, &engine);
        if (status == LARDER_OK) {
            CHECK(h.n_allocate <= n && n > 0);
            EXPECT(LARDER_OK, larder_engine_release(engine));
            CHECK(h.n_live == 0);
            return;
        }
        CHECK(status == LARDER_OUT_OF_MEMORY && engine == NULL && h.n_live == 0);
    }
    CHECK(!"the blocks are few");
}

int main(int argc, char **argv) {
    const char *model = model_of(argc, argv);
    lent_memory_and_threads_give_the_same_bits(model);
    every_refusal_is_out_of_memory(model);
    return finish();
}
