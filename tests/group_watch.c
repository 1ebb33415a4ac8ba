/* One translation unit and one program: the header is compiled once for all of these. */
#define SDCONSUL_IMPLEMENTATION
#include "../sdconsul.h"

#include "test_cache.c"
#include "test_task.c"
#include "test_instancer.c"
#include "test_agents.c"
#include "test_patience.c"
#include "test_io.c"

TEST_MAIN(GROUP(cases_cache), GROUP(cases_task), GROUP(cases_instancer), GROUP(cases_agents),
          GROUP(cases_patience), GROUP(cases_io))
