/* 30 rounds of create, answers and release, also with a request in flight: memory and threads come back. */
#include "check.h"

#include <dirent.h>
#include <unistd.h>

enum { N_ROUNDS = 30, WARM_UP = 5, MAX_GROWTH_BYTES = 1 << 20 };

static long resident_bytes(void) {
    long pages = 0, total = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file == NULL || fscanf(file, "%ld %ld", &total, &pages) != 2) exit(2);
    fclose(file);
    return pages * sysconf(_SC_PAGESIZE);
}

static int n_threads(void) {
    int n = 0;
    DIR *folder = opendir("/proc/self/task");
    if (folder == NULL) exit(2);
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;) n += entry->d_name[0] != '.';
    closedir(folder);
    return n;
}

static void round_of(const char *model, int in_flight) {
    larder_options options = small_options();
    options.n_threads = 3;
    larder_engine *engine = engine_of(model, &options);
    CHECK(n_threads() == 3);
    for (int i = 0; i < 10; i++) {
        const uint32_t prompt[] = {5, 6, 7};
        larder_request_options request_options;
        larder_request_options_init(&request_options);
        request_options.prompt_tokens = prompt;
        request_options.n_prompt_tokens = 3;
        request_options.max_new_tokens = 3;
        larder_request request;
        EXPECT(LARDER_OK, larder_request_submit(engine, &request_options, &request));
        larder_event event = {0};
        for (int step = 0; step < 20 && event.kind != LARDER_EVENT_FINISHED; step++) {
            size_t n_events;
            EXPECT(LARDER_OK, larder_engine_step(engine, &event, 1, &n_events));
            if (in_flight && i == 9) break;
        }
    }
    EXPECT(LARDER_OK, larder_engine_release(engine));
}

int main(int argc, char **argv) {
    const char *model = model_of(argc, argv);
    CHECK(n_threads() == 1);
    long warm = 0;
    for (int i = 0; i < N_ROUNDS; i++) {
        round_of(model, i % 2);
        CHECK(n_threads() == 1);
        if (i == WARM_UP) warm = resident_bytes();
    }
    long growth = resident_bytes() - warm;
    if (growth > MAX_GROWTH_BYTES) fprintf(stderr, "%ld bytes more than after warming up\n", growth);
    CHECK(growth <= MAX_GROWTH_BYTES);
    return finish();
}
