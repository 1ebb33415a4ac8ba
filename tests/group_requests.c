/* One translation unit and one program: the header is compiled once for all of these. */
#define SDCONSUL_IMPLEMENTATION
#include "../sdconsul.h"

#include "test_client.c"
#include "test_requests.c"
#include "test_registrar.c"
#include "test_checklist.c"
#include "test_beat.c"

TEST_MAIN(GROUP(cases_client), GROUP(cases_requests), GROUP(cases_registrar), GROUP(cases_checklist), GROUP(cases_beat))
