/* Blocking queries: index and wait, what wakes a reader and what does not.

   Waits are short: WAIT_MS where the whole wait is to pass, LONG where the answer must come before
   it. QUIET_MS is how long nothing must come from a reader that blocks. */
#include "trial.h"

#include <stdio.h>
#include <string.h>

enum { WAIT_MS = 200, QUIET_MS = 120, SOON_MS = 2000 };

#define WAIT "wait=200ms"           /* WAIT_MS */
#define LONG "wait=6s"

/* A wait that ends by itself: never early; late by wait/16, and by what a busy machine adds. */
static void took_the_wait(reply *r)
{
    TOOK(r, WAIT_MS - 2, WAIT_MS + 1500);
}

/* A query on the service that blocks on `index`. */
static reply *block_on(trial *t, uint64_t index, const char *more)
{
    return begin(t, "/v1/health/service/%s?index=%llu&%s", t->name, (unsigned long long)index,
                 more);
}

static reply *read_at(trial *t, uint64_t index, const char *more)
{
    reply *r = block_on(t, index, more);
    finish(r);
    return r;
}

/* An instance with a TTL check, settled: its plain answer. */
static reply *settled(trial *t)
{
    enroll(t, "{'Name':'%s','Port':1,'Check':{'TTL':'60s','Status':'passing'}}", t->name);
    return health_when(t, "0/Checks", "[2]");
}

/* The answer must come now, with a higher index than the one sent. */
static void woken(reply *r, uint64_t index)
{
    finish(r);
    STATUS(r, 200);
    TOOK(r, 0, SOON_MS);
    EXPECT(r->of, index_of(r) > index);
}

/* The catalogue of a real agent follows a moment later: until then an index still moves. */
static void wait_for_quiet(trial *t)
{
    uint64_t before = 0, now = 1;
    for (int i = 0; i < 40 && before != now; i++) {
        before = now;
        reply *r = get(t, "/v1/catalog/services");
        now = index_of(r);
        reply *pause = block_on(t, UINT64_MAX, "wait=40ms");
        finish(pause);
    }
}

/* ---- index and wait ---------------------------------------------------------------- */

static void index_zero_is_plain(trial *t)
{
    static const char *const forms[] = { "index=0&" LONG, "index=&" LONG, LONG, "index=1&" LONG,
                                         "index=007&" LONG };
    settled(t);
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        reply *r = get(t, "/v1/health/service/%s?%s", t->name, forms[i]);
        STATUS(r, 200);
        AT(r, "", "[1]");
        TOOK(r, 0, SOON_MS);
    }
}

static void index_current_waits(trial *t)
{
    uint64_t index = index_of(settled(t));
    reply *r = read_at(t, index, WAIT);
    STATUS(r, 200);
    took_the_wait(r);
    AT(r, "", "[1]");
    EXPECT(t, index_of(r) == index);
}

static void index_too_large_waits(trial *t)
{
    uint64_t index = index_of(settled(t));
    reply *far = block_on(t, index + 100000, WAIT);
    reply *farthest = block_on(t, UINT64_MAX, WAIT);
    finish(far);
    finish(farthest);
    took_the_wait(far);
    took_the_wait(farthest);
    EXPECT(t, index_of(far) == index);
    EXPECT(t, index_of(farthest) == index);
    AT(far, "", "[1]");
}

static void index_too_large_is_blind(trial *t)
{
    uint64_t index = index_of(settled(t));
    reply *r = block_on(t, index + 100000, "wait=600ms");
    EXPECT(t, is_blocked(r, 50));
    STATUS(beat(t, "fail"), 200);
    health_when(t, "0/Checks/1/Status", "critical");
    finish(r);
    TOOK(r, 598, 2500);
    AT(r, "0/Checks/1/Status", "critical");
    EXPECT(t, index_of(r) > index && index_of(r) < index + 100000);
}

static void index_refused(trial *t)
{
    static const char *const bad[] = { "garbage", "-1", "18446744073709551616", "1.5", "0x10",
                                       "%2B5", "1%20" };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        reply *r = get(t, "/v1/health/service/%s?index=%s&wait=1s", t->name, bad[i]);
        STATUS(r, 400);
        BODY(r, "Invalid index");
        FIELD(r, "Content-Type", "text/plain; charset=utf-8");
        FIELD(r, "X-Consul-Index", NULL);
    }
}

static void wait_refused(trial *t)
{
    static const char *const bad[] = { "garbage", "5", "s", "5%20s", "1d", "-", ".s", "1..5s" };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        reply *r = get(t, "/v1/health/service/%s?index=1&wait=%s", t->name, bad[i]);
        STATUS(r, 400);
        BODY(r, "Invalid wait time");
        STATUS(get(t, "/v1/health/service/%s?wait=%s", t->name, bad[i]), 400);
    }
}

static void wait_forms(trial *t)
{
    static const char *const forms[] = { "wait=0.2s", "wait=200000us", "wait=0m0.2s", "wait=.2s",
                                         "wait=200000000ns" };
    uint64_t index = index_of(settled(t));
    reply *all[5];
    for (size_t i = 0; i < 5; i++) {
        all[i] = block_on(t, index, forms[i]);
    }
    for (size_t i = 0; i < 5; i++) {
        finish(all[i]);
        STATUS(all[i], 200);
        took_the_wait(all[i]);
    }
}

/* Zero and negative waits are no short waits. */
static void wait_not_positive(trial *t)
{
    uint64_t index = index_of(settled(t));
    reply *zero = block_on(t, index, "wait=0s"), *none = block_on(t, index, "x");
    reply *negative = block_on(t, index, "wait=-1s"), *empty = block_on(t, index, "wait=");
    EXPECT(t, is_blocked(zero, WAIT_MS));
    EXPECT(t, is_blocked(none, 0) && is_blocked(negative, 0) && is_blocked(empty, 0));
    STATUS(get(t, "/v1/health/service/%s?wait=0s", t->name), 200);
}

/* ---- what a woken reader is told ----------------------------------------------------- */

static void fields_of_a_blocking_answer(trial *t)
{
    uint64_t index = index_of(settled(t));
    reply *r = read_at(t, index, "wait=50ms");
    FIELD(r, "X-Consul-KnownLeader", PER(t, "true", "false"));
    FIELD(r, "X-Consul-LastContact", "0");
    FIELD(r, "X-Consul-Query-Backend", PER(t, NULL, "streaming"));
    FIELD(r, "X-Consul-Effective-Consistency", "leader");
    FIELD(r, "Content-Type", "application/json");
    r = read_at(t, index, "wait=50ms&near=_agent");
    FIELD(r, "X-Consul-KnownLeader", "true");
    FIELD(r, "X-Consul-Query-Backend", PER(t, NULL, "blocking-query"));
    r = read_at(t, index, "wait=50ms&stale");
    FIELD(r, "X-Consul-Query-Backend", PER(t, NULL, "streaming"));
    FIELD(r, "X-Consul-Effective-Consistency", "stale");
}

static void same_body_plain_and_blocking(trial *t)
{
    reply *plain = settled(t);
    reply *r = read_at(t, 1, LONG);
    EXPECT(t, index_of(r) == index_of(plain));
    BODY(r, "%s", plain->answer.body);
}

/* ---- what wakes ------------------------------------------------------------------------ */

static void wakes_on_a_new_instance(trial *t)
{
    uint64_t index = index_of(settled(t));
    reply *r = block_on(t, index, LONG);
    EXPECT(t, is_blocked(r, 50));
    enroll(t, "{'Name':'%s','ID':'%s-2','Port':2}", t->name, t->name);
    woken(r, index);
    AT(r, "", "[2]");
}

static void wakes_on_a_changed_instance(trial *t)
{
    static const char *const changes[] = { "'Port':2", "'Port':2,'Tags':['a']",
                                           "'Port':2,'Tags':['b']", "'Port':2,'Meta':{'k':'v'}",
                                           "'Port':2,'Weights':{'Passing':2,'Warning':1}",
                                           "'Port':2,'Address':'10.0.0.1'" };
    uint64_t index = index_of(settled(t));
    for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
        reply *r = block_on(t, index, LONG);
        EXPECT(t, is_blocked(r, 20));
        enroll(t, "{'Name':'%s',%s,'Check':{'TTL':'60s'}}", t->name, changes[i]);
        woken(r, index);
        AT(r, "0/Service/Port", "2");
        index = index_of(r);
    }
}

static void wakes_on_a_check(trial *t)
{
    static const char *const states[][2] = {
        { "fail", "critical" }, { "warn", "warning" }, { "pass", "passing" }
    };
    uint64_t index = index_of(settled(t));
    for (size_t i = 0; i < 3; i++) {
        reply *r = block_on(t, index, LONG);
        EXPECT(t, is_blocked(r, 20));
        STATUS(beat(t, states[i][0]), 200);
        woken(r, index);
        AT(r, "0/Checks/1/Status", states[i][1]);
        index = index_of(r);
    }
}

static void wakes_on_maintenance(trial *t)
{
    uint64_t index = index_of(settled(t));
    reply *r = block_on(t, index, LONG);
    EXPECT(t, is_blocked(r, 50));
    put(t, NULL, "/v1/agent/service/maintenance/%s?enable=true", t->name);
    woken(r, index);
    AT(r, "0/Checks", "[3]");
    index = index_of(r);
    r = block_on(t, index, LONG);
    EXPECT(t, is_blocked(r, 50));
    put(t, NULL, "/v1/agent/service/maintenance/%s?enable=false", t->name);
    woken(r, index);
    AT(r, "0/Checks", "[2]");
}

static void wakes_when_one_leaves(trial *t)
{
    enroll(t, "{'Name':'%s','ID':'%s-2','Port':2}", t->name, t->name);
    settled(t);
    uint64_t index = index_of(health_of(t, 2));
    reply *r = block_on(t, index, LONG);
    EXPECT(t, is_blocked(r, 50));
    deregister(t, text(t, "%s-2", t->name));
    woken(r, index);
    AT(r, "", "[1]");
}

static void wakes_when_the_last_leaves(trial *t)
{
    uint64_t index = index_of(settled(t));
    reply *r = block_on(t, index, LONG);
    EXPECT(t, is_blocked(r, 50));
    deregister(t, t->name);
    woken(r, index);
    AT(r, "", "[]");
}

static void wakes_when_it_comes_back(trial *t)
{
    settled(t);
    deregister(t, t->name);
    uint64_t index = index_of(health_of(t, 0));
    reply *r = block_on(t, index, LONG);
    enroll(t, "{'Name':'%s','Port':5}", t->name);
    finish(r);
    TOOK(r, 0, SOON_MS);
}

static void wakes_every_reader(trial *t)
{
    reply *all[10];
    uint64_t index = index_of(settled(t));
    for (size_t i = 0; i < 10; i++) {
        all[i] = block_on(t, index, LONG);
    }
    EXPECT(t, is_blocked(all[9], 50));
    STATUS(beat(t, "fail"), 200);
    for (size_t i = 0; i < 10; i++) {
        woken(all[i], index);
        AT(all[i], "0/Checks/1/Status", "critical");
    }
}

static void wakes_filtered_readers(trial *t)
{
    enroll(t, "{'Name':'%s','ID':'%s-2','Port':2,'Tags':['a']}", t->name, t->name);
    settled(t);
    uint64_t index = index_of(health_of(t, 2));
    reply *passing = block_on(t, index, LONG "&passing");
    reply *tagged = block_on(t, index, LONG "&tag=A");
    EXPECT(t, is_blocked(passing, 50) && is_blocked(tagged, 0));
    STATUS(beat(t, "fail"), 200);
    woken(passing, index);
    AT(passing, "", "[1]");
    AT(passing, "0/Service/Port", "2");
    woken(tagged, index);               /* though nothing in its answer has changed */
    AT(tagged, "", "[1]");
    AT(tagged, "0/Service/Port", "2");
}

static void wakes_in_any_case_of_the_name(trial *t)
{
    enroll(t, "{'Name':'%s-MiXed'}", t->name);
    t->name = text(t, "%s-mixed", t->name);
    uint64_t index = index_of(health_of(t, 1));
    reply *r = read_at(t, index, WAIT);
    took_the_wait(r);
    AT(r, "", "[1]");
}

/* ---- what does not wake ------------------------------------------------------------------ */

static void sleeps_through_others(trial *t)
{
    uint64_t index = index_of(settled(t));
    reply *r = block_on(t, index, LONG);
    enroll(t, "{'Name':'%s-other'}", t->name);
    enroll(t, "{'Name':'%s-other','Port':2}", t->name);
    deregister(t, text(t, "%s-other", t->name));
    EXPECT(t, is_blocked(r, QUIET_MS));
}

static void sleeps_through_the_same_again(trial *t)
{
    static const char same[] = "{'Name':'%s','Port':1,'Tags':['a'],'Check':{'TTL':'60s'}}";
    enroll(t, same, t->name);
    uint64_t index = index_of(health_when(t, "0/Checks", "[2]"));
    reply *r = block_on(t, index, LONG);
    enroll(t, same, t->name);
    enroll(t, same, t->name);
    EXPECT(t, is_blocked(r, QUIET_MS));
    reply *plain = get(t, "/v1/health/service/%s", t->name);
    EXPECT(t, index_of(plain) == index);
}

static void sleeps_through_the_same_status(trial *t)
{
    settled(t);
    STATUS(beat(t, "pass"), 200);
    uint64_t index = index_of(health_when(t, "0/Checks/1/Status", "passing"));
    reply *r = block_on(t, index, LONG);
    STATUS(beat(t, "pass"), 200);
    STATUS(beat(t, "pass"), 200);
    EXPECT(t, is_blocked(r, QUIET_MS));
}

/* Output alone reaches the catalogue minutes later (check_update_interval). */
static void sleeps_through_output(trial *t)
{
    uint64_t index = index_of(settled(t));
    reply *r = block_on(t, index, LONG);
    STATUS(put(t, "{'Status':'passing','Output':'new'}", "/v1/agent/check/update/service:%s",
               t->name), 200);
    EXPECT(t, is_blocked(r, QUIET_MS));
}

static void wakes_on_the_node(trial *t)
{
    wait_for_quiet(t);
    uint64_t index = index_of(settled(t));
    reply *r = block_on(t, index, LONG);
    EXPECT(t, is_blocked(r, 50));
    STATUS(put(t, NULL, "/v1/agent/maintenance?enable=true&reason=why"), 200);
    woken(r, index);
    AT(r, "0/Checks", "[3]");
    BODY_STARTS(get(t, "/v1/health/service/%s?passing", t->name), "[]");
    STATUS(put(t, NULL, "/v1/agent/maintenance?enable=false"), 200);
    health_when(t, "0/Checks", "[2]");
}

/* ---- a service that does not exist --------------------------------------------------------- */

static void unknown_old_index(trial *t)
{
    reply *r = read_at(t, 1, LONG);
    STATUS(r, 200);
    TOOK(r, 0, SOON_MS);
    AT(r, "", "[]");
}

static void unknown_waits(trial *t)
{
    wait_for_quiet(t);
    uint64_t index = index_of(get(t, "/v1/health/service/%s", t->name));
    reply *r = read_at(t, index, WAIT);
    STATUS(r, 200);
    took_the_wait(r);
    AT(r, "", "[]");
    EXPECT(t, PER(t, index_of(r) == index, index_of(r) <= index));
}

static void unknown_appears(trial *t)
{
    wait_for_quiet(t);
    uint64_t index = index_of(get(t, "/v1/health/service/%s", t->name));
    reply *r = block_on(t, index, LONG);
    EXPECT(t, is_blocked(r, 50));
    enroll(t, "{'Name':'%s'}", t->name);
    woken(r, index);
    AT(r, "", "[1]");
}

/* Until a service has ever lost its last instance, the index of what does not exist is that of the
   whole catalogue: on 1.8 each registration wakes its readers. Only a fresh agent shows that. */
static void unknown_and_others_at_first(trial *t)
{
    uint64_t before = index_of(get(t, "/v1/health/service/%s", t->name));
    enroll(t, "{'Name':'%s-1'}", t->name);
    wait_for_quiet(t);
    uint64_t index = index_of(get(t, "/v1/health/service/%s", t->name));
    if (index == before) {
        return;
    }
    reply *r = block_on(t, index, "wait=300ms");
    EXPECT(t, is_blocked(r, 50));
    enroll(t, "{'Name':'%s-2'}", t->name);
    finish(r);
    AT(r, "", "[]");
    TOOK(r, PER(t, 50, 298), PER(t, 290, SOON_MS));
    EXPECT(t, PER(t, index_of(r) > index, index_of(r) <= index));
}

/* Afterwards it is the index of the newest extinction, and on 1.8 each of these wakes. */
static void unknown_and_an_extinction(trial *t)
{
    enroll(t, "{'Name':'%s-1'}", t->name);
    enroll(t, "{'Name':'%s-2'}", t->name);
    wait_for_quiet(t);
    deregister(t, text(t, "%s-1", t->name));
    wait_for_quiet(t);
    uint64_t index = index_of(get(t, "/v1/health/service/%s", t->name));
    reply *r = block_on(t, index, "wait=500ms");
    EXPECT(t, is_blocked(r, 50));
    enroll(t, "{'Name':'%s-3'}", t->name);
    EXPECT(t, is_blocked(r, QUIET_MS));
    deregister(t, text(t, "%s-2", t->name));
    finish(r);
    AT(r, "", "[]");
    TOOK(r, PER(t, 50, 498), PER(t, 490, SOON_MS));
    EXPECT(t, PER(t, index_of(r) > index, index_of(r) <= index));
    EXPECT(t, index_of(get(t, "/v1/health/service/%s", t->name)) > index);
}

static void gone_waits(trial *t)
{
    settled(t);
    deregister(t, t->name);
    health_of(t, 0);
    wait_for_quiet(t);
    uint64_t index = index_of(get(t, "/v1/health/service/%s", t->name));
    reply *r = read_at(t, index, WAIT);
    STATUS(r, 200);
    took_the_wait(r);
    AT(r, "", "[]");
}

/* ---- one service of this agent, by its hash -------------------------------------------------- */

static void hash_waits_and_wakes(trial *t)
{
    settled(t);
    reply *r = get(t, "/v1/agent/service/%s", t->name);
    const char *hash = text(t, "%s", value_text(value_at(r->json, "ContentHash")));
    r = get(t, "/v1/agent/service/%s?hash=%s&" WAIT, t->name, hash);
    STATUS(r, 200);
    took_the_wait(r);
    FIELD(r, "X-Consul-ContentHash", hash);
    r = get(t, "/v1/agent/service/%s?hash=0&" LONG, t->name);
    TOOK(r, 0, SOON_MS);
    r = begin(t, "/v1/agent/service/%s?hash=%s&" LONG, t->name, hash);
    EXPECT(t, is_blocked(r, 50));
    enroll(t, "{'Name':'%s','Port':2}", t->name);
    finish(r);
    TOOK(r, 0, SOON_MS);
    AT(r, "Port", "2");
}

static const contract_case table[] = {
    { "index: 0, empty, none and old answer at once", index_zero_is_plain, 0 },
    { "index: the current one waits", index_current_waits, 0 },
    { "index: too large waits, answers the true one", index_too_large_waits, 0 },
    { "index: too large sees no change until its wait ends", index_too_large_is_blind, 0 },
    { "index: refused", index_refused, 0 },
    { "wait: refused", wait_refused, 0 },
    { "wait: forms", wait_forms, 0 },
    { "wait: zero, negative, none", wait_not_positive, 0 },
    { "blocking: fields of the answer", fields_of_a_blocking_answer, 0 },
    { "blocking: same body as a plain read", same_body_plain_and_blocking, 0 },
    { "wakes: a new instance", wakes_on_a_new_instance, 0 },
    { "wakes: a changed instance", wakes_on_a_changed_instance, 0 },
    { "wakes: a check", wakes_on_a_check, 0 },
    { "wakes: maintenance", wakes_on_maintenance, 0 },
    { "wakes: one instance leaves", wakes_when_one_leaves, 0 },
    { "wakes: the last instance leaves", wakes_when_the_last_leaves, 0 },
    { "wakes: it comes back", wakes_when_it_comes_back, 0 },
    { "wakes: every reader", wakes_every_reader, 0 },
    { "wakes: filtered readers too", wakes_filtered_readers, 0 },
    { "wakes: the name in another case", wakes_in_any_case_of_the_name, 0 },
    { "wakes: the node", wakes_on_the_node, CASE_ALONE },
    { "sleeps: other services", sleeps_through_others, 0 },
    { "sleeps: the same registration again", sleeps_through_the_same_again, 0 },
    { "sleeps: the same status again", sleeps_through_the_same_status, 0 },
    { "sleeps: new output alone", sleeps_through_output, 0 },
    { "unknown service: old index", unknown_old_index, 0 },
    { "unknown service: waits", unknown_waits, CASE_ALONE },
    { "unknown service: woken when it appears", unknown_appears, CASE_ALONE },
    { "unknown service: others wake it on 1.8 at first", unknown_and_others_at_first, CASE_FIRST },
    { "unknown service: an extinction wakes it on 1.8", unknown_and_an_extinction, CASE_ALONE },
    { "unknown service: once known, waits", gone_waits, CASE_ALONE },
    { "agent/service: hash waits and wakes", hash_waits_and_wakes, 0 }
};

CASES(cases_blocking, table);
