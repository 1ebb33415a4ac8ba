/* Tokens of the embedded agent: default deny, a few rights for each token. */
#include "internal.h"

#include <stdlib.h>
#include <string.h>

bool acl_is_on(const agent *a)
{
    return a->management != NULL;
}

static acl_token *find_token(const agent *a, const char *secret)
{
    for (size_t i = 0; i < a->num_tokens; i++) {
        if (text_is(a->tokens[i].secret, secret)) {
            return &a->tokens[i];
        }
    }
    return NULL;
}

bool acl_rights(const agent *a, const char *secret, unsigned *rights)
{
    const acl_token *t = find_token(a, secret);

    *rights = 0;
    if (!acl_is_on(a) || text_is(secret, a->management)) {
        *rights = ~0u;
        return true;
    }
    if (text_is(secret, "")) {
        return true;
    }
    if (t != NULL) {
        *rights = t->rights;
    }
    return t != NULL;
}

bool acl_resolve(agent *a, const char *secret, unsigned *rights, answer *ans)
{
    if (acl_rights(a, secret, rights)) {
        return true;
    }
    answer_error(ans, 403, "ACL not found");
    return false;
}

static const char *right_name(unsigned right)
{
    return right == AGENT_SERVICE_WRITE ? "service:write"
         : right == AGENT_SERVICE_READ ? "service:read"
         : right == AGENT_NODE_WRITE ? "node:write" : "agent:read";
}

bool acl_allow(agent *a, const char *secret, unsigned right, const char *resource, answer *ans)
{
    unsigned rights = 0;
    const acl_token *t = find_token(a, secret);

    if (!acl_resolve(a, secret, &rights, ans)) {
        return false;
    }
    if ((rights & right) != 0) {
        return true;
    }
    if (!agent_is_new(a)) {
        if (right == AGENT_SERVICE_WRITE) {
            answer_error(ans, 403, "Permission denied: Missing service:write on %s", resource);
        } else {
            answer_error(ans, 403, "Permission denied");
        }
    } else if (t != NULL) {
        answer_error(ans, 403, "Permission denied: token with AccessorID '%s' lacks permission "
                     "'%s' on \"%s\"", t->accessor, right_name(right), resource);
    } else {
        answer_error(ans, 403, "Permission denied: anonymous token lacks permission '%s' on "
                     "\"%s\". The anonymous token is used implicitly when a request does not "
                     "specify a token.", right_name(right), resource);
    }
    return false;
}

void agent_set_token(agent *a, const char *secret, uint64_t now_ms)
{
    agent_advance(a, now_ms);
    if (a->management != NULL) {
        query_freeze_token(a, a->management);
    }
    free(a->management);
    a->management = secret == NULL ? NULL : agent_dup(secret);
}

void agent_add_token(agent *a, const char *secret, unsigned rights, uint64_t now_ms)
{
    agent_advance(a, now_ms);
    acl_token *t = find_token(a, secret);
    if (t == NULL) {
        buf accessor = { NULL, 0, 0 };

        a->tokens = agent_grow(a->tokens, (a->num_tokens + 1) * sizeof *a->tokens);
        t = &a->tokens[a->num_tokens++];
        buf_fmt(&accessor, "aaaaaaaa-0000-0000-0000-%012zu", a->num_tokens);
        t->secret = agent_dup(secret);
        t->accessor = agent_dup(buf_text(&accessor));
        buf_free(&accessor);
    }
    t->rights = rights;
}

void agent_revoke_token(agent *a, const char *secret, uint64_t now_ms)
{
    agent_advance(a, now_ms);
    acl_token *t = find_token(a, secret);
    if (t == NULL) {
        return;
    }
    query_freeze_token(a, secret);
    t = find_token(a, secret);
    free(t->secret);
    free(t->accessor);
    *t = a->tokens[--a->num_tokens];
    query_wake(a);
}
