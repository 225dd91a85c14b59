/* Answers one question: plan, load, render the chat, stream the answer, tell the speed.
 *
 *     generate MODEL "Why is the sky blue?"
 *     generate MODEL "Why is the sky blue?" cuda
 */
#include <larder.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Every call returns a status; its reason in words is this thread's last error. */
static void check(larder_status status, const char *what) {
    if (status == LARDER_OK) return;
    fprintf(stderr, "%s: %s\n", what, larder_last_error());
    exit(1);
}

static double seconds(void) {
    struct timespec now;
    timespec_get(&now, TIME_UTC);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static void print_plan(const char *model, const larder_options *options) {
    larder_memory memory;
    larder_memory_init(&memory);
    check(larder_engine_plan(model, options, &memory), "plan");
    const double mib = 1024.0 * 1024.0;
    printf("plan          weights %.1f MiB, KV repo %.1f MiB for %llu tokens, compute area %.1f MiB, "
           "bookkeeping %.1f MiB\n\n",
           (double)memory.weights_bytes / mib, (double)memory.kv_repo_bytes / mib,
           (unsigned long long)memory.total_tokens, (double)memory.compute_area_bytes / mib,
           (double)memory.bookkeeping_bytes / mib);
}

/* The question as the model's own chat template writes it. The caller frees the text. */
static larder_text render(const larder_engine *engine, const char *question) {
    static char chat[4096];
    size_t length = 0;
    length += (size_t)snprintf(chat, sizeof chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"");
    for (const char *c = question; *c != 0 && length < sizeof chat - 64; c++) {
        if (*c == '"' || *c == '\\') chat[length++] = '\\';
        chat[length++] = (unsigned char)*c < ' ' ? ' ' : *c;
    }
    length += (size_t)snprintf(chat + length, sizeof chat - length, "\"}],\"add_generation_prompt\":true}");
    size_t needed = 0;
    if (larder_text_render_chat(engine, chat, length, NULL, 0, &needed) != LARDER_BUFFER_TOO_SMALL) {
        check(LARDER_INTERNAL, "render");
    }
    char *text = malloc(needed);
    if (text == NULL) exit(1);
    check(larder_text_render_chat(engine, chat, length, text, needed, &needed), "render");
    return (larder_text){text, needed};
}

int main(int argc, char **argv) {
    if (argc < 3 || argc > 4 || (argc == 4 && strcmp(argv[3], "cuda") != 0)) {
        fprintf(stderr, "usage: %s MODEL QUESTION [cuda]\n", argv[0]);
        return 2;
    }
    larder_options options;
    larder_options_init(&options);
    options.device = argc == 4 ? LARDER_DEVICE_CUDA : LARDER_DEVICE_CPU;
    options.max_sequences = 1;
    options.max_sequence_tokens = 512;
    print_plan(argv[1], &options);

    larder_engine *engine = NULL;
    check(larder_engine_create(argv[1], &options, &engine), "create");
    larder_text prompt = render(engine, argv[2]);
    larder_request_options request_options;
    larder_request_options_init(&request_options);
    request_options.prompt_text = prompt;
    request_options.prompt_flags = LARDER_TEXT_PARSE_SPECIAL;
    request_options.max_new_tokens = 160;
    larder_request request;
    check(larder_request_submit(engine, &request_options, &request), "submit");
    free((void *)prompt.data);

    unsigned n_tokens = 0, n_prompt = 0;
    double start = seconds(), first = 0, end = 0;
    for (larder_event event = {0}; event.kind < LARDER_EVENT_FINISHED;) {
        size_t n_events = 0;
        check(larder_engine_step(engine, &event, 1, &n_events), "step");
        if (n_events == 0) continue;
        if (event.kind == LARDER_EVENT_FAILED) check(event.status, "request");
        fwrite(event.text, 1, event.text_length, stdout);
        fflush(stdout);
        end = seconds();
        n_prompt = event.n_prompt_tokens;
        if (event.kind == LARDER_EVENT_TOKEN && n_tokens++ == 0) first = end;
    }
    double prefill = first > start ? n_prompt / (first - start) : 0;
    double decode = n_tokens > 1 && end > first ? (n_tokens - 1) / (end - first) : 0;
    printf("\n\nspeed         %u prompt tokens at %.0f/s, %u answer tokens at %.0f/s\n", n_prompt, prefill,
           n_tokens, decode);
    check(larder_engine_release(engine), "release");
    return 0;
}
