/* One translation unit and one program: the header is compiled once for all of these. */
#define SDCONSUL_IMPLEMENTATION
#include "../sdconsul.h"

#include "test_endpointer.c"
#include "test_balancer.c"
#include "test_retry.c"

TEST_MAIN(GROUP(cases_endpointer), GROUP(cases_balancer), GROUP(cases_retry))
