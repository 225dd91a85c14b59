/* Nothing is written to the descriptors 1 and 2: a load, answers, errors; all lines go to the host's log. And
 * signals, their mask and the locale are as they were. */
#define _GNU_SOURCE
#include "capture.h"
#include "check.h"

#include <locale.h>
#include <signal.h>

enum { N_SIGNALS = 32 };

static void count_line(void *user, uint32_t level, const char *text, size_t length) {
    CHECK(level >= 1 && level <= 4 && length > 0 && memchr(text, '\n', length) == NULL);
    ++*(int *)user;
}

static void run(const char *model, larder_hooks *hooks) {
    larder_options options = small_options();
    options.n_threads = 2;
    options.hooks = hooks;
    larder_engine *engine = NULL;
    CHECK(larder_engine_create("/nonexistent/model.gguf", &options, &engine) == LARDER_IO);
    CHECK(larder_engine_create("/dev/null", &options, &engine) < 0);
    CHECK(larder_engine_create("/", &options, &engine) < 0);
    engine = engine_of(model, &options);
    larder_request_options request_options;
    larder_request_options_init(&request_options);
    request_options.prompt_text.data = "the";
    request_options.prompt_text.length = 3;
    request_options.max_new_tokens = 4;
    larder_request request;
    CHECK(larder_request_submit(engine, &request_options, &request) == LARDER_OK);
    request_options.sampling.temperature = -1;
    CHECK(larder_request_submit(engine, &request_options, &request) == LARDER_INVALID_ARGUMENT);
    for (int i = 0; i < 8; i++) {
        larder_event events[4];
        size_t n_events;
        CHECK(larder_engine_step(engine, events, 4, &n_events) == LARDER_OK);
    }
    CHECK(larder_engine_release(engine) == LARDER_OK);
}

static void signals_of(struct sigaction *actions, sigset_t *mask) {
    for (int i = 1; i < N_SIGNALS; i++) sigaction(i, NULL, &actions[i]);
    sigprocmask(SIG_SETMASK, NULL, mask);
}

int main(int argc, char **argv) {
    const char *model = model_of(argc, argv);
    struct sigaction before[N_SIGNALS] = {0}, after[N_SIGNALS] = {0};
    sigset_t mask_before, mask_after;
    sigemptyset(&mask_before);
    sigemptyset(&mask_after);
    signals_of(before, &mask_before);
    /* A decimal comma where the system has one. */
    const char *locale = setlocale(LC_ALL, "de_DE.UTF-8");
    if (locale == NULL) locale = setlocale(LC_ALL, "C.UTF-8");

    int n_lines = 0;
    larder_hooks hooks;
    larder_hooks_init(&hooks);
    hooks.user = &n_lines;
    hooks.log = count_line;
    capture c = capture_begin();
    run(model, NULL);
    run(model, &hooks); /* log_level 0: nothing */
    int n_unasked = n_lines;
    hooks.log_level = 4;
    run(model, &hooks);
    size_t n_bytes = capture_end(&c);
    CHECK(n_bytes == 0);
    CHECK(n_unasked == 0);

    signals_of(after, &mask_after);
    for (int i = 1; i < N_SIGNALS; i++) {
        CHECK(before[i].sa_handler == after[i].sa_handler && before[i].sa_flags == after[i].sa_flags);
        CHECK(sigismember(&mask_before, i) == sigismember(&mask_after, i));
    }
    CHECK(locale == NULL || strcmp(locale, setlocale(LC_ALL, NULL)) == 0);
    return finish();
}
