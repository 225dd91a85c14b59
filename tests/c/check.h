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

/* Small and without threads. */
static inline larder_options small_options(void) {
    larder_options options;
    larder_options_init(&options);
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
