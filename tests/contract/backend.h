/* What the suite can do to an agent beside asking it: make and revoke tokens, end and start it. */
#ifndef CONTRACT_BACKEND_H
#define CONTRACT_BACKEND_H

#include "trial.h"

#include "../agent/server.h"

struct backend {
    const char   *control;      /* real: a shell command that takes "restart" or "term" behind it */
    agent        *core;         /* embedded in this program, else NULL                         */
    agent_server *server;
};

#endif
