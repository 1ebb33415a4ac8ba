/* The embedded agent as a program of its own:
     embedded-agent [--profile 1.8|1.22] [--port N] [--unix PATH] [--token T] [--pretty]
                    [--node NAME] [--max-conns N] [--first-index N]
   It says where it listens and ends on SIGTERM or SIGINT. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "../../sdconsul.h"

#include "server.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int usage(void)
{
    fprintf(stderr, "usage: embedded-agent [--profile 1.8|1.22] [--port N] [--unix PATH] "
            "[--token T] [--pretty] [--node NAME] [--max-conns N] [--first-index N]\n");
    return 2;
}

typedef struct options { agent_desc desc; const char *path; uint16_t port; } options;

static bool take(options *o, const char *name, const char *value)
{
    if (strcmp(name, "--profile") == 0) {
        o->desc.profile = strcmp(value, "1.22") == 0 ? AGENT_1_22 : AGENT_1_8;
        return strcmp(value, "1.22") == 0 || strcmp(value, "1.8") == 0;
    }
    if (strcmp(name, "--port") == 0) {
        o->port = (uint16_t)strtoul(value, NULL, 10);
    } else if (strcmp(name, "--unix") == 0) {
        o->path = value;
    } else if (strcmp(name, "--token") == 0) {
        o->desc.management_token = value;
    } else if (strcmp(name, "--node") == 0) {
        o->desc.node = value;
    } else if (strcmp(name, "--max-conns") == 0) {
        o->desc.max_conns = strtoul(value, NULL, 10);
    } else if (strcmp(name, "--first-index") == 0) {
        o->desc.first_index = strtoull(value, NULL, 10);
    } else {
        return false;
    }
    return true;
}

static bool parse(int argc, char **argv, options *o)
{
    memset(o, 0, sizeof *o);
    o->desc.profile = AGENT_1_22;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--pretty") == 0) {
            o->desc.pretty = true;
        } else if (i + 1 == argc || !take(o, argv[i], argv[i + 1])) {
            return false;
        } else {
            i++;
        }
    }
    return true;
}

int main(int argc, char **argv)
{
    options o;
    sigset_t ends;
    int got = 0;

    if (!parse(argc, argv, &o)) {
        return usage();
    }
    sigemptyset(&ends);
    sigaddset(&ends, SIGTERM);
    sigaddset(&ends, SIGINT);
    pthread_sigmask(SIG_BLOCK, &ends, NULL);
    agent *a = agent_create(&o.desc, agent_server_now());
    agent_server *server = agent_server_start(a, o.path, &o.port);
    if (server == NULL) {
        fprintf(stderr, "embedded-agent: %s\n", strerror(errno));
        agent_destroy(a);
        return 1;
    }
    if (o.path != NULL && o.path[0] == '/') {
        printf("listening on unix://%s\n", o.path);
    } else {
        printf(o.path != NULL ? "listening on [::1]:%u\n" : "listening on 127.0.0.1:%u\n",
               (unsigned)o.port);
    }
    fflush(stdout);
    sigwait(&ends, &got);
    agent_server_stop(server);
    agent_destroy(a);
    return 0;
}
