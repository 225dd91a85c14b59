/* What the C tests share: checks that say where they failed, and a model's path from the command line. */
#ifndef LARDER_TEST_CHECK_H
#define LARDER_TEST_CHECK_H
#include "larder.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int n_failures = 0;

#define CHECK(condition)                                                                   \
    do {                                                                                   \
        if (!(condition)) {                                                                \
            fprintf(stderr, "%s:%d: %s (last error: %s)\n", __FILE__, __LINE__, #condition, \
                    larder_last_error());                                                  \
            n_failures++;                                                                  \
        }                                                                                  \
    } while (0)

/* The call returns this status; a failing one leaves a message. */
#define EXPECT(expected, call)                                                              \
    do {                                                                                    \
        larder_status status_ = (call);                                                     \
        if (status_ != (expected) || (status_ != LARDER_OK && larder_last_error()[0] == 0)) { \
            fprintf(stderr, "%s:%d: %s is %d, expected %s (last error: %s)\n", __FILE__,    \
                    __LINE__, #call, (int)status_, #expected, larder_last_error());         \
            n_failures++;                                                                   \
        }                                                                                   \
    } while (0)

/* The last error has this word. */
#define SAYS(word)                                                                          \
    do {                                                                                    \
        if (strstr(larder_last_error(), (word)) == NULL) {                                  \
            fprintf(stderr, "%s:%d: \"%s\" is not in: %s\n", __FILE__, __LINE__, (word),    \
                    larder_last_error());                                                   \
            n_failures++;                                                                   \
        }                                                                                   \
    } while (0)

static inline int finish(void) {
    if (n_failures > 0) fprintf(stderr, "%d checks failed\n", n_failures);
    return n_failures > 0;
}

/* The device that the environment names: the same tests run on a CUDA device, or on what stands in for one. */
static inline uint32_t test_device(void) {
    const char *name = getenv("LARDER_TEST_DEVICE");
    return name != NULL && strcmp(name, "cuda") == 0 ? LARDER_DEVICE_CUDA : LARDER_DEVICE_CPU;
}

/* Logits of the same tokens computed in other batches: the same bits on the CPU; on a GPU the kernels differ with
 * the number of rows, and bf16 activations with them. */
static inline int same_row(const float *a, const float *b, size_t n) {
    if (test_device() == LARDER_DEVICE_CPU) return memcmp(a, b, n * sizeof(float)) == 0;
    double difference = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        difference += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        size += (double)a[i] * a[i];
    }
    return difference <= 1e-4 * size; /* a relative error of 1e-2; NaN is no success */
}

/* Small and without threads. */
static inline larder_options small_options(void) {
    larder_options options;
    larder_options_init(&options);
    options.device = test_device();
    options.n_threads = 1;
    options.max_sequences = 4;
    options.max_requests = 4;
    options.max_sequence_tokens = 64;
    options.max_batch_rows = 16;
    return options;
}

/* Ends the program when the engine cannot be had. */
static inline larder_engine *engine_of(const char *path, const larder_options *options) {
    larder_engine *engine = NULL;
    if (larder_engine_create(path, options, &engine) != LARDER_OK) {
        fprintf(stderr, "%s: %s\n", path, larder_last_error());
        exit(1);
    }
    return engine;
}

static inline const char *model_of(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: %s MODEL\n", argv[0]);
        exit(2);
    }
    return argv[1];
}
#endif
