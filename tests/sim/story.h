/* A story: what a seed decides. See sim.h. */
#ifndef STORY_H
#define STORY_H

#include <stdbool.h>
#include <stdint.h>

/* Runs it; sim_now has the verdict. */
void story_run(uint64_t seed, bool is_traced);

#endif
