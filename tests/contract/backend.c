#include "backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

bool can_restart(const trial *t)
{
    return t->backend->core != NULL || t->backend->control != NULL;
}

bool can_make_tokens(const trial *t)
{
    return t->backend->core != NULL || t->is_real;
}

static void control(trial *t, const char *verb)
{
    int status = system(text(t, "%s %s >/dev/null", t->backend->control, verb));
    trial_expect(t, status == 0, 0, verb);
}

void restart_agent(trial *t)
{
    const backend *b = t->backend;
    if (b->core == NULL) {
        control(t, "restart");
        return;
    }
    agent_server_lock(b->server);
    agent_restart(b->core, 0, false, agent_server_now());
    agent_server_unlock(b->server);
}

void terminate_agent(trial *t)
{
    control(t, "term");
}

const char *make_token(trial *t, bool reads_nodes, bool writes_services)
{
    const backend *b = t->backend;
    /* The number behind the name is this trial's alone. */
    unsigned long of_trial = strtoul(strrchr(t->name, '-') + 1, NULL, 10) * 100 + t->num_texts;
    const char *secret = text(t, "%08lx-0000-4000-8000-%012lx", (unsigned long)getpid(), of_trial);
    if (b->core != NULL) {
        unsigned rights = (unsigned)AGENT_SERVICE_READ | (reads_nodes ? AGENT_NODE_READ : 0u) |
                          (writes_services ? AGENT_SERVICE_WRITE : 0u);
        agent_server_lock(b->server);
        agent_add_token(b->core, secret, rights, agent_server_now());
        agent_server_unlock(b->server);
        return secret;
    }
    const char *services = writes_services ? "write" : "read";
    const char *nodes = reads_nodes ? "read" : "deny";
    const char *rules = text(t, "service_prefix \\'\\' { policy = \\'%s\\' } "
                                "node_prefix \\'\\' { policy = \\'%s\\' }", services, nodes);
    reply *r = put(t, text(t, "{'Name':'p-%s','Rules':'%s'}", secret, rules), "/v1/acl/policy");
    trial_expect(t, r->answer.status == 200, 0, "a policy is made");
    r = put(t, text(t, "{'SecretID':'%s','AccessorID':'a%s','Policies':[{'Name':'p-%s'}]}", secret,
                    secret + 1, secret), "/v1/acl/token");
    trial_expect(t, r->answer.status == 200, 0, "a token is made");
    return secret;
}

void revoke_token(trial *t, const char *secret)
{
    const backend *b = t->backend;
    if (b->core != NULL) {
        agent_server_lock(b->server);
        agent_revoke_token(b->core, secret, agent_server_now());
        agent_server_unlock(b->server);
        return;
    }
    reply *r = ask(t, "DELETE", "", "/v1/acl/token/a%s", secret + 1);
    trial_expect(t, r->answer.status == 200, 0, "a token is revoked");
}
