/* What two.c, which has the public half alone, gives to one.c. */
#ifndef TWO_H
#define TWO_H

#include "../../sdconsul.h"

sdc_cache    *two_make_cache(void);
int           two_version(void);
const sdc_io *two_io(void);

#endif
