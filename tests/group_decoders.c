/* One translation unit and one program: the header is compiled once for all of these. */
#define SDCONSUL_IMPLEMENTATION
#include "../sdconsul.h"

#include "test_base.c"
#include "test_json.c"
#include "test_entries.c"
#include "test_known.c"
#include "test_http.c"
#include "test_url.c"
#include "test_split.c"
#include "test_guard.c"

TEST_MAIN(GROUP(cases_base), GROUP(cases_json), GROUP(cases_entries), GROUP(cases_known), GROUP(cases_http), GROUP(cases_url), GROUP(cases_split), GROUP(cases_guard))
