/* A file that only uses the library: the header is the first thing in it. */
#include "../../sdconsul.h"

#include "two.h"

#include <string.h>

/* Names of the private half are free here. */
static int sdci_min(int a, int b)
{
    return a < b ? a : b;
}

sdc_cache *two_make_cache(void)
{
    sdc_instance instance;
    sdc_cache *cache = NULL;

    memset(&instance, 0, sizeof instance);
    instance.host = "10.0.0.1";
    instance.port = 80;
    if (sdc_cache_create(NULL, &cache) == SDC_OK &&
        sdc_cache_update(cache, &instance, (size_t)sdci_min(1, 2), 1, 1) != SDC_OK) {
        sdc_cache_destroy(cache);
        cache = NULL;
    }
    return cache;
}

int two_version(void)
{
    return SDC_VERSION;
}

const sdc_io *two_io(void)
{
    return sdc_io_posix();
}
