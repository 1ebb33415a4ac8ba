/* An agent that ends and comes back with nothing: what its readers meet. */
#include "trial.h"

#include <stdio.h>
#include <string.h>

static reply *settled(trial *t)
{
    enroll(t, "{'Name':'%s','Port':1,'Check':{'TTL':'60s','Status':'passing'}}", t->name);
    return health_when(t, "0/Checks", "[2]");
}

static void restart_cuts_readers_off(trial *t)
{
    reply *blocked = begin(t, "/v1/health/service/%s?index=%llu&wait=8s", t->name,
                           (unsigned long long)index_of(settled(t)));
    reply *idle = ask_raw(t, "GET /v1/status/leader HTTP/1.1\r\nHost: a\r\n\r\n");
    EXPECT(t, is_blocked(blocked, 50));
    restart_agent(t);
    finish(blocked);
    EXPECT(t, blocked->answer.status == 0 && strcmp(blocked->answer.fault, "no answer") == 0);
    EXPECT(t, wire_ends(&idle->w, 2000));
}

static void restart_forgets(trial *t)
{
    uint64_t index = index_of(settled(t));
    for (int i = 2; i < 6; i++) {           /* the indexes of a new agent are lower for sure */
        enroll(t, "{'Name':'%s','Port':%d}", t->name, i);
        index = index_of(health_when(t, "0/Service/Port", text(t, "%d", i)));
    }
    restart_agent(t);
    reply *r = get(t, "/v1/health/service/%s", t->name);
    AT(r, "", "[]");
    EXPECT(t, index_of(r) < index);
    STATUS(get(t, "/v1/agent/service/%s", t->name), 404);
    STATUS(beat(t, "pass"), PER(t, 500, 404));
}

/* The reason why a client starts over with index 0 after an error. */
static void restart_makes_old_indexes_blind(trial *t)
{
    uint64_t old = index_of(settled(t)) + 100000;
    restart_agent(t);
    reply *r = begin(t, "/v1/health/service/%s?index=%llu&wait=400ms", t->name,
                     (unsigned long long)old);
    EXPECT(t, is_blocked(r, 20));
    enroll(t, "{'Name':'%s','Port':2}", t->name);
    finish(r);
    STATUS(r, 200);
    TOOK(r, 398, 3000);
    AT(r, "0/Service/Port", "2");
    EXPECT(t, index_of(r) < old);
}

static void ending_answers_readers(trial *t)
{
    uint64_t index = index_of(settled(t));
    reply *r = begin(t, "/v1/health/service/%s?index=%llu&wait=8s", t->name,
                     (unsigned long long)index);
    EXPECT(t, is_blocked(r, 50));
    terminate_agent(t);
    finish(r);
    STATUS(r, PER(t, 200, 500));
    if (t->is_new) {
        BODY(r, "grpc: the client connection is closing");
    } else {
        AT(r, "", "[1]");
        EXPECT(t, index_of(r) == index);
    }
    restart_agent(t);
}

static const contract_case table[] = {
    { "restart: cuts readers off", restart_cuts_readers_off, CASE_RESTART },
    { "restart: forgets, and indexes start over", restart_forgets, CASE_RESTART },
    { "restart: makes old indexes blind", restart_makes_old_indexes_blind, CASE_RESTART },
    { "restart: SIGTERM answers blocked readers", ending_answers_readers, CASE_RESTART | CASE_REAL }
};

CASES(cases_restart, table);
