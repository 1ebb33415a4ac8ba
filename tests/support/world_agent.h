/* The embedded agent (tests/agent) behind an address of the simulated world.

       agent *a = agent_create(&desc, world_now(w));
       world_listen_agent(w, "10.0.0.1", 8500, a);
       ...agent_set_check(a, ..., world_now(w)) and so on at any time...
       world_destroy(w);
       agent_destroy(a);                            in either order

   What the test does to the agent reaches the library when the clock may move next: in a wait,
   world_advance, world_loop or world_poll. One agent may listen at several addresses. */
#ifndef WORLD_AGENT_H
#define WORLD_AGENT_H

#include "../agent/agent.h"
#include "world.h"

void world_listen_agent(world *w, const char *ip, uint16_t port, agent *a);

#endif
