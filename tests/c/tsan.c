/* ThreadSanitizer's run-time library comes with the C compiler; code from rustc calls three functions that an older one
 * does not have. */
#include <string.h>

void *__tsan_memcpy(void *to, const void *from, size_t n);
void *__tsan_memmove(void *to, const void *from, size_t n);
void *__tsan_memset(void *to, int value, size_t n);

__attribute__((weak)) void *__tsan_memcpy(void *to, const void *from, size_t n) {
    return memcpy(to, from, n);
}

__attribute__((weak)) void *__tsan_memmove(void *to, const void *from, size_t n) {
    return memmove(to, from, n);
}

__attribute__((weak)) void *__tsan_memset(void *to, int value, size_t n) {
    return memset(to, value, n);
}
