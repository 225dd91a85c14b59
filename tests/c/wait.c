/* A host's own loop: it sleeps in larder_engine_wait, or in poll and epoll on the engine's eventfd. */
#define _GNU_SOURCE
#include "check.h"

#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

enum { N_REQUESTS = 6, MAX_NEW_TOKENS = 5, LONG_MS = 60000 };

static larder_engine *engine;

static double milliseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec * 1e-6;
}

static void sleep_ms(long ms) {
    nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL);
}

static uint32_t has_work(uint32_t timeout_ms) {
    uint32_t has_work = 9;
    EXPECT(LARDER_OK, larder_engine_wait(engine, timeout_ms, &has_work));
    CHECK(has_work <= 1);
    return has_work;
}

static larder_request submit(uint32_t max_new_tokens) {
    static const uint32_t PROMPT[] = {20, 30, 40};
    larder_request_options options;
    larder_request_options_init(&options);
    options.prompt_tokens = PROMPT;
    options.n_prompt_tokens = 3;
    options.max_new_tokens = max_new_tokens;
    larder_request request = 0;
    EXPECT(LARDER_OK, larder_request_submit(engine, &options, &request));
    return request;
}

/* One step with room for `capacity` events; how many requests it ended. */
static size_t step(size_t capacity) {
    larder_event events[8];
    size_t n_events = 0, n_ended = 0;
    EXPECT(LARDER_OK, larder_engine_step(engine, events, capacity, &n_events));
    for (size_t i = 0; i < n_events; i++) n_ended += events[i].kind != LARDER_EVENT_TOKEN;
    return n_ended;
}

static void time_out(void) {
    CHECK(has_work(0) == 0);
    double start = milliseconds();
    CHECK(has_work(30) == 0);
    CHECK(milliseconds() - start >= 29);
}

static void events_that_wait_are_work(void) {
    submit(1);
    submit(1);
    size_t n_ended = 0;
    for (int i = 0; i < 100 && n_ended < 2; i++) {
        CHECK(has_work(LONG_MS) == 1);
        n_ended += step(1); /* room for one event: the others wait, though no request is alive any more */
    }
    CHECK(n_ended == 2 && has_work(0) == 0);
}

static void *submit_later(void *requests) {
    sleep_ms(30);
    *(larder_request *)requests = submit(30);
    return NULL;
}

static void *cancel_later(void *request) {
    sleep_ms(30);
    EXPECT(LARDER_OK, larder_request_cancel(engine, *(larder_request *)request));
    return NULL;
}

static void *wait_forever(void *result) {
    *(uint32_t *)result = has_work(LARDER_WAIT_FOREVER);
    return NULL;
}

/* Several threads sleep; one submit wakes all of them. */
static void submit_wakes(void) {
    pthread_t submitter, waiters[3];
    uint32_t woken[3] = {0};
    larder_request request = 0;
    for (int i = 0; i < 3; i++) CHECK(pthread_create(&waiters[i], NULL, wait_forever, &woken[i]) == 0);
    CHECK(pthread_create(&submitter, NULL, submit_later, &request) == 0);
    CHECK(has_work(LONG_MS) == 1);
    for (int i = 0; i < 3; i++) {
        pthread_join(waiters[i], NULL);
        CHECK(woken[i] == 1);
    }
    pthread_join(submitter, NULL);
    EXPECT(LARDER_OK, larder_request_cancel(engine, request));
    while (has_work(0)) step(8);
}

static int is_readable(int fd, int timeout_ms) {
    struct pollfd entry = {.fd = fd, .events = POLLIN};
    int n = poll(&entry, 1, timeout_ms);
    CHECK(n >= 0 && (n == 0 || entry.revents == POLLIN));
    return n;
}

static void one_fd(int fd) {
    int32_t again = -1;
    EXPECT(LARDER_OK, larder_engine_event_fd(engine, &again));
    CHECK(again == fd);
}

/* A file asked for while there is work is readable at once. */
static int made_late(void) {
    int32_t fd = -1;
    larder_request request = submit(1);
    EXPECT(LARDER_OK, larder_engine_event_fd(engine, &fd));
    CHECK(fd >= 0 && is_readable(fd, 0));
    EXPECT(LARDER_OK, larder_request_cancel(engine, request));
    while (has_work(0)) step(8);
    CHECK(!is_readable(fd, 0));
    return fd;
}

static void cancel_is_readable(int fd) {
    larder_request request = submit(50);
    CHECK(is_readable(fd, 0));
    step(8);
    CHECK(!is_readable(fd, 0) && has_work(0) == 1);
    pthread_t canceller;
    CHECK(pthread_create(&canceller, NULL, cancel_later, &request) == 0);
    CHECK(is_readable(fd, LONG_MS));
    pthread_join(canceller, NULL);
    size_t n_ended = 0;
    for (int i = 0; i < 3; i++) n_ended += step(8);
    CHECK(n_ended == 1 && has_work(0) == 0 && !is_readable(fd, 0));
    EXPECT(LARDER_OK, larder_request_cancel(engine, request)); /* ended: nothing to tell */
    CHECK(!is_readable(fd, 0));
}

static void *submit_all(void *unused) {
    (void)unused;
    for (int i = 0; i < N_REQUESTS; i++) {
        if (i % 2 == 1) sleep_ms(10);
        submit(MAX_NEW_TOKENS);
    }
    return NULL;
}

/* The loop of a host that has other files to watch too. `edge`: EPOLLET, told of each change once. */
static void epoll_loop(int fd, uint32_t edge) {
    int poller = epoll_create1(EPOLL_CLOEXEC), other[2];
    CHECK(poller >= 0 && pipe(other) == 0);
    struct epoll_event engine_event = {.events = EPOLLIN | edge, .data.fd = fd};
    struct epoll_event other_event = {.events = EPOLLIN, .data.fd = other[0]};
    CHECK(epoll_ctl(poller, EPOLL_CTL_ADD, fd, &engine_event) == 0);
    CHECK(epoll_ctl(poller, EPOLL_CTL_ADD, other[0], &other_event) == 0);
    pthread_t submitter;
    CHECK(pthread_create(&submitter, NULL, submit_all, NULL) == 0);
    size_t n_ended = 0, n_bytes = 0;
    CHECK(write(other[1], "x", 1) == 1);
    while (n_ended < N_REQUESTS) {
        struct epoll_event ready[2];
        int n_ready = epoll_wait(poller, ready, 2, LONG_MS);
        CHECK(n_ready > 0);
        if (n_ready <= 0) break;
        for (int i = 0; i < n_ready; i++) {
            char byte;
            if (ready[i].data.fd == other[0]) n_bytes += (size_t)read(other[0], &byte, 1);
            if (ready[i].data.fd == fd) {
                do n_ended += step(2);
                while (has_work(0));
            }
        }
    }
    pthread_join(submitter, NULL);
    CHECK(n_ended == N_REQUESTS && n_bytes == 1 && has_work(0) == 0);
    close(other[0]);
    close(other[1]);
    close(poller);
}

static void wait_loop(void) {
    pthread_t submitter;
    CHECK(pthread_create(&submitter, NULL, submit_all, NULL) == 0);
    size_t n_ended = 0;
    while (n_ended < N_REQUESTS && has_work(LONG_MS)) n_ended += step(2);
    pthread_join(submitter, NULL);
    CHECK(n_ended == N_REQUESTS);
}

/* Release closes the file; the next engine may get the same number, so only that it is no longer ours is looked at. */
static void release_closes(int fd) {
    EXPECT(LARDER_OK, larder_engine_release(engine));
    char path[64], target[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    CHECK(readlink(path, target, sizeof target) < 0);
}

int main(int argc, char **argv) {
    larder_options options = small_options();
    options.max_requests = 8;
    engine = engine_of(model_of(argc, argv), &options);
    time_out();
    events_that_wait_are_work();
    submit_wakes();
    int fd = made_late();
    one_fd(fd);
    cancel_is_readable(fd);
    epoll_loop(fd, 0);
    epoll_loop(fd, EPOLLET);
    wait_loop();
    release_closes(fd);
    return finish();
}
