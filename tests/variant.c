/* The tests of the entries decoder alone. It is compiled in each of the ways that the header offers
   for it (SDC_NO_FAST_PATH, SDC_NO_SIMD), and for other machines. Public functions that are static
   leave out all that these tests do not call, so that one more variant takes two seconds. */
#define SDC_API static
#define SDCONSUL_IMPLEMENTATION
#include "../sdconsul.h"

#include "test_entries.c"
#include "test_differential.c"

TEST_MAIN(GROUP(cases_entries), GROUP(cases_differential))
