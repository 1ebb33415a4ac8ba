/* The file with the implementation. System headers come first, and the header comes twice. */
#include <stdio.h>
#include <string.h>

#define SDCONSUL_IMPLEMENTATION
#include "../../sdconsul.h"
#include "../../sdconsul.h"

#include "two.h"

int main(void)
{
    const sdc_event *event = NULL;
    sdc_cache *cache = two_make_cache();

    if (cache == NULL) {
        return 1;
    }
    event = sdc_cache_state(cache);
    int is_right = event->num_instances == 1 && strcmp(event->instances[0].addr, "10.0.0.1:80") == 0
                   && sdc_version() == two_version() && sdc_io_posix() == two_io();
    sdc_event_release(event);
    sdc_cache_destroy(cache);
    puts(is_right ? "two files, one library" : "the two files disagree");
    return is_right ? 0 : 1;
}
