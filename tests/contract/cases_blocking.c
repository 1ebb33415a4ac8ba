#include "trial.h"
static const contract_case table[] = { { "none", 0, CASE_REAL | CASE_ALONE | CASE_ACL } };
const contract_group cases_blocking = { table, 0 };
