/* The header stands alone, twice, in two units of one program; see double_include_b.c. */
#include "larder.h"
#include "larder.h"

uint32_t version_of_b(void);

int main(void) {
    larder_options options;
    larder_options_init(&options);
    return larder_abi_version() != version_of_b() || options.struct_size != sizeof options;
}
