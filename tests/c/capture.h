/* Turns the file descriptors 1 and 2 into pipes and counts what is written to them. */
#ifndef LARDER_TEST_CAPTURE_H
#define LARDER_TEST_CAPTURE_H
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

typedef struct capture {
    int saved[2], ends[2];
} capture;

static inline capture capture_begin(void) {
    capture c;
    fflush(NULL);
    for (int i = 0; i < 2; i++) {
        int ends[2];
        c.saved[i] = dup(i + 1);
        if (c.saved[i] < 0 || pipe(ends) != 0 || dup2(ends[1], i + 1) < 0) _exit(3);
        close(ends[1]);
        c.ends[i] = ends[0];
        fcntl(ends[0], F_SETFL, O_NONBLOCK);
    }
    return c;
}

/* Puts the descriptors back and returns how many bytes came. */
static inline size_t capture_end(capture *c) {
    size_t n_bytes = 0;
    fflush(NULL);
    for (int i = 0; i < 2; i++) {
        char text[4096];
        ssize_t n;
        dup2(c->saved[i], i + 1);
        close(c->saved[i]);
        while ((n = read(c->ends[i], text, sizeof text)) > 0) {
            n_bytes += (size_t)n;
            fprintf(stderr, "descriptor %d got: %.*s\n", i + 1, (int)n, text);
        }
        close(c->ends[i]);
    }
    return n_bytes;
}
#endif
