/* plan tells the bytes of what create takes; a limit is kept or refused with the numbers. */
#include "check.h"

static void plan_tells_the_memory(const char *model) {
    for (uint32_t mode = LARDER_AREA_AUTO; mode <= LARDER_AREA_LONG; mode++) {
        larder_options options = small_options();
        options.area_mode = mode;
        larder_memory plan, memory;
        larder_memory_init(&plan);
        larder_memory_init(&memory);
        EXPECT(LARDER_OK, larder_engine_plan(model, &options, &plan));
        larder_engine *engine = engine_of(model, &options);
        EXPECT(LARDER_OK, larder_engine_memory(engine, &memory));
        CHECK(memcmp(&plan, &memory, sizeof plan) == 0);
        CHECK(plan.weights_bytes > 0 && plan.kv_repo_bytes > 0 && plan.compute_area_bytes > 0);
        const uint64_t blocks = plan.weights_bytes + plan.kv_repo_bytes + plan.compute_area_bytes;
        const int is_device = test_device() != LARDER_DEVICE_CPU;
        CHECK(plan.bookkeeping_bytes > 0 && plan.device_bytes == (is_device ? blocks : 0));
        CHECK(plan.host_bytes == plan.bookkeeping_bytes + (is_device ? 0 : blocks));
        CHECK(plan.load_peak_bytes >= plan.host_bytes);
        CHECK(plan.total_tokens == 4 * 64);
        CHECK(plan.kv_repo_bytes >= plan.token_slot_bytes * (plan.total_tokens + 1));
        CHECK(plan.area_mode == LARDER_AREA_SHORT || plan.area_mode == LARDER_AREA_LONG);
        CHECK(mode == LARDER_AREA_AUTO || plan.area_mode == mode);
        EXPECT(LARDER_OK, larder_engine_release(engine));
    }
}

static void a_limit_is_kept_or_refused(const char *model) {
    larder_options options = small_options();
    larder_memory plan;
    larder_memory_init(&plan);
    EXPECT(LARDER_OK, larder_engine_plan(model, &options, &plan));
    options.memory_limit_bytes = plan.weights_bytes;
    EXPECT(LARDER_OUT_OF_MEMORY, larder_engine_plan(model, &options, &plan));
    larder_engine *engine = NULL;
    EXPECT(LARDER_OUT_OF_MEMORY, larder_engine_create(model, &options, &engine));
    CHECK(engine == NULL);
    options.memory_limit_bytes = plan.load_peak_bytes * 2;
    EXPECT(LARDER_OK, larder_engine_create(model, &options, &engine));
    larder_memory memory;
    larder_memory_init(&memory);
    EXPECT(LARDER_OK, larder_engine_memory(engine, &memory));
    CHECK(memory.host_bytes + memory.device_bytes <= options.memory_limit_bytes);
    EXPECT(LARDER_OK, larder_engine_release(engine));
}

int main(int argc, char **argv) {
    const char *model = model_of(argc, argv);
    plan_tells_the_memory(model);
    a_limit_is_kept_or_refused(model);
    return finish();
}
