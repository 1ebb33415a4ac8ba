/* What a task waits for, as poll() has it: for programs that step several tasks in a loop of their
   own. */
#ifndef WANTS_H
#define WANTS_H

#include "../../sdconsul.h"

#include <poll.h>

/* Adds the descriptor, if there is one, and shortens the timeout, if the task wants that. */
static inline void wants_add(sdc_wants wants, struct pollfd *fds, nfds_t *num, int *timeout_ms)
{
    if (wants.fd >= 0) {
        fds[*num].fd = wants.fd;
        fds[*num].events = (short)((wants.readable ? POLLIN : 0) | (wants.writable ? POLLOUT : 0));
        (*num)++;
    }
    if (wants.timeout_ms >= 0 && wants.timeout_ms < *timeout_ms) {
        *timeout_ms = wants.timeout_ms;
    }
}

#endif
