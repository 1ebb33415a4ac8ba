/* The embedded agent behind a socket: one thread, poll(), the monotonic clock. */
#ifndef SDCONSUL_TESTS_AGENT_SERVER_H
#define SDCONSUL_TESTS_AGENT_SERVER_H

#include "agent.h"

typedef struct agent_server agent_server;

/* Listens on 127.0.0.1, or [::1] where `where` is "::1", or a unix socket where it is a path.
   *port: the wanted one, 0 for any; then the one it is. NULL: errno says why. The agent stays the
   caller's and must have been created with agent_server_now; from here on it is touched only
   between lock and unlock. */
agent_server *agent_server_start(agent *a, const char *where, uint16_t *port);
/* Closes all; the agent is the caller's alone again, without connections. */
void     agent_server_stop(agent_server *server);
void     agent_server_lock(agent_server *server);
void     agent_server_unlock(agent_server *server);     /* and sends what came of it */
uint64_t agent_server_now(void);                        /* CLOCK_MONOTONIC in milliseconds */

/* No listener: connecting is refused until resume, as with a dead agent. What is open is cut. */
void agent_server_pause(agent_server *server);
bool agent_server_resume(agent_server *server);         /* on the same port; false: errno */

#endif
