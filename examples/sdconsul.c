#define SDCONSUL_IMPLEMENTATION
#include "sdconsul.h"
