/* The second unit of double_include_a.c. */
#include "larder.h"

uint32_t version_of_b(void);

uint32_t version_of_b(void) { return LARDER_ABI_VERSION; }
