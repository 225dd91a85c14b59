/* What this machine can do at most: bytes read from memory, f32 multiply-adds and 8-bit multiply-adds a second.
 *
 *     cc -O3 -march=native -pthread bench/limits.c -o build/bench/limits && build/bench/limits THREADS
 *
 * Prints a line of JSON with the best of several rounds; an operation is a multiplication or an addition. The 8-bit
 * limit is that of the vector instructions (VNNI, dot product, or pmaddubsw where there is neither), not of AMX.
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif

enum { MAX_THREADS = 256, ROUNDS = 7, CHAINS = 12, STEPS = 10000000 };
static const size_t BYTES_PER_THREAD = (size_t)256 << 20;

#if defined(__AVX512F__)
enum { VECTOR_BYTES = 64 };
#elif defined(__AVX__)
enum { VECTOR_BYTES = 32 };
#else
enum { VECTOR_BYTES = 16 };
#endif
typedef float floats __attribute__((vector_size(VECTOR_BYTES)));
typedef uint64_t words __attribute__((vector_size(VECTOR_BYTES)));

/* The compiler must take this vector for a new value. */
#if defined(__AVX512F__)
#define TOUCH(vector) __asm__ volatile("" : "+v"(vector))
#elif defined(__x86_64__)
#define TOUCH(vector) __asm__ volatile("" : "+x"(vector))
#else
#define TOUCH(vector) __asm__ volatile("" : "+w"(vector))
#endif

/* Work of one thread: gives its bytes or operations. */
typedef double work_fn(const void *data);

struct worker {
    pthread_t thread;
    pthread_barrier_t *barrier;
    work_fn *work;
    const void *data;
    double done;
};

static volatile uint64_t sink; /* keeps results from being optimised away */

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static double read_memory(const void *data)
{
    const words *at = data;
    const size_t n = BYTES_PER_THREAD / sizeof *at;
    words a = {0}, b = {0}, c = {0}, d = {0};
    for (size_t i = 0; i + 4 <= n; i += 4) {
        __builtin_prefetch((const char *)(at + i) + 4096);
        a ^= at[i];
        b ^= at[i + 1];
        c ^= at[i + 2];
        d ^= at[i + 3];
    }
    a ^= b ^ c ^ d;
    sink += a[0];
    return (double)BYTES_PER_THREAD;
}

/* Chains that do not depend on each other, which stay in registers: as many as hide the latency. */
static double multiply_floats(const void *data)
{
    (void)data;
    floats sums[CHAINS], x = {0}, y = {0};
    x += 0.999f;
    y += 1e-3f;
    for (int i = 0; i < CHAINS; i++)
        sums[i] = y * (float)i; /* equal chains would be computed once */
    for (int step = 0; step < STEPS; step++) {
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++)
            sums[i] = sums[i] * x + y;
        TOUCH(x);
    }
    for (int i = 0; i < CHAINS; i++)
        sink += (uint64_t)sums[i][0];
    return 2.0 * CHAINS * STEPS * (sizeof x / sizeof x[0]);
}

#if defined(__AVX512VNNI__)
#define INT8_NAME "AVX-512 VNNI"
typedef __m512i int8s;
#define INT8_SET(value) _mm512_set1_epi32(value)
#define INT8_STEP(sum, x, y) sum = _mm512_dpbusd_epi32(sum, x, y)
#elif defined(__AVXVNNI__)
#define INT8_NAME "AVX-VNNI"
typedef __m256i int8s;
#define INT8_SET(value) _mm256_set1_epi32(value)
#define INT8_STEP(sum, x, y) sum = _mm256_dpbusd_avx_epi32(sum, x, y)
#elif defined(__AVX2__)
#define INT8_NAME "AVX2 pmaddubsw"
typedef __m256i int8s;
#define INT8_SET(value) _mm256_set1_epi32(value)
#define INT8_STEP(sum, x, y) \
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(x, y), _mm256_set1_epi16(1)))
#elif defined(__ARM_FEATURE_DOTPROD)
#define INT8_NAME "NEON dot product"
typedef int32x4_t int8s;
#define INT8_SET(value) vdupq_n_s32(value)
#define INT8_STEP(sum, x, y) sum = vdotq_s32(sum, vreinterpretq_s8_s32(x), vreinterpretq_s8_s32(y))
#endif

#ifdef INT8_NAME
static double multiply_int8(const void *data)
{
    (void)data;
    int8s sums[CHAINS], x = INT8_SET(0x01020304), y = INT8_SET(0x04030201);
    for (int i = 0; i < CHAINS; i++)
        sums[i] = INT8_SET(i);
    for (int step = 0; step < STEPS; step++) {
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++) {
            INT8_STEP(sums[i], x, y);
            TOUCH(x); /* so that no product is computed once for all chains */
        }
    }
    for (int i = 0; i < CHAINS; i++) {
        uint64_t part;
        memcpy(&part, &sums[i], sizeof part);
        sink += part;
    }
    return 2.0 * CHAINS * STEPS * sizeof x;
}
#endif

static void *work(void *argument)
{
    struct worker *worker = argument;
    for (int round = 0; round < ROUNDS; round++) {
        pthread_barrier_wait(worker->barrier);
        worker->done = worker->work(worker->data);
        pthread_barrier_wait(worker->barrier);
    }
    return NULL;
}

/* The best rate of all threads together. */
static double best_rate(int n_threads, work_fn *of, void *const *data)
{
    static struct worker workers[MAX_THREADS];
    pthread_barrier_t barrier;
    pthread_barrier_init(&barrier, NULL, (unsigned)n_threads + 1);
    for (int i = 0; i < n_threads; i++) {
        workers[i] = (struct worker){.barrier = &barrier, .work = of, .data = data[i]};
        if (pthread_create(&workers[i].thread, NULL, work, &workers[i]) != 0) {
            fprintf(stderr, "limits: cannot start thread %d\n", i);
            exit(1);
        }
    }
    double best = 0.0;
    for (int round = 0; round < ROUNDS; round++) {
        double done = 0.0;
        pthread_barrier_wait(&barrier);
        const double begin = seconds();
        pthread_barrier_wait(&barrier);
        const double time = seconds() - begin;
        for (int i = 0; i < n_threads; i++)
            done += workers[i].done;
        if (done / time > best)
            best = done / time;
    }
    for (int i = 0; i < n_threads; i++)
        pthread_join(workers[i].thread, NULL);
    pthread_barrier_destroy(&barrier);
    return best;
}

int main(int argc, char **argv)
{
    const int n_threads = argc > 1 ? atoi(argv[1]) : 1;
    if (n_threads < 1 || n_threads > MAX_THREADS) {
        fprintf(stderr, "usage: limits THREADS, 1 to %d\n", MAX_THREADS);
        return 2;
    }
    void *data[MAX_THREADS];
    for (int i = 0; i < n_threads; i++) {
        if (posix_memalign(&data[i], 4096, BYTES_PER_THREAD) != 0) {
            fprintf(stderr, "limits: no %zu bytes for thread %d\n", BYTES_PER_THREAD, i);
            return 1;
        }
        memset(data[i], i + 1, BYTES_PER_THREAD);
    }
    printf("{\"threads\": %d, \"read_bytes\": %.4g", n_threads, best_rate(n_threads, read_memory, data));
    printf(", \"f32_operations\": %.4g", best_rate(n_threads, multiply_floats, data));
#ifdef INT8_NAME
    printf(", \"int8_operations\": %.4g", best_rate(n_threads, multiply_int8, data));
    printf(", \"int8_kind\": \"%s\"", INT8_NAME);
#endif
    printf("}\n");
    return 0;
}
