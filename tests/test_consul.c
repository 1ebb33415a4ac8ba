/* End to end on real Consul agents: each change that is made there reaches a subscriber here, and
   how long that takes is printed.

   consul/run.sh starts the agents and says in the environment where they are: for X in 18 and NEW
   SDC_CONSUL_X (state in memory), SDC_CONSUL_X_ACL, SDC_CONSUL_X_SERVER (keeps its state) and
   SDC_CONSUL_X_UNIX, each an URL; beside each ..._CTL, a command that takes kill, up or restart;
   and SDC_CONSUL_TOKEN. What is not there is skipped. */
#include "../sdconsul.h"

#include "support/test.h"
#include "consul/wants.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CONSUL_NUM(array) (sizeof(array) / sizeof((array)[0]))

enum { CONSUL_SETTLE_MS = 1200, CONSUL_PATIENCE_MS = 15000 };

/* ---- a stage: one agent, a watch, a registrar and a loop ------------------------------------- */

typedef struct consul_stage {
    char           version[8];      /* "18", "NEW"                                            */
    char           url[256], command[512];
    char           service[64];     /* of this test alone                                     */
    sdc_client    *client;
    sdc_instancer *instancer;
    sdc_registrar *registrar;
    pid_t          child;           /* that restarts the agent; 0 none                        */
    /* what the subscriber saw last */
    char           state[600];      /* "a=passing[v1];b=critical[]"                           */
    sdc_err        err;
    bool           is_known;
    uint64_t       at_us;
    size_t         num_events, num_empty;       /* the latter: good answers without instances */
    uint64_t       begin_us;        /* of the change that is waited for                       */
    double         times_ms[32];
    size_t         num_times;
} consul_stage;

static uint64_t consul_now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

static const char *consul_status_name(sdc_status status)
{
    switch (status) {
    case SDC_STATUS_PASSING:     return "passing";
    case SDC_STATUS_WARNING:     return "warning";
    case SDC_STATUS_CRITICAL:    return "critical";
    case SDC_STATUS_MAINTENANCE: return "maintenance";
    case SDC_STATUS_UNSET:       break;
    }
    return "unset";
}

static void consul_write_state(const sdc_event *event, char *out, size_t size)
{
    size_t len = 0;
    out[0] = '\0';
    for (size_t i = 0; i < event->num_instances && len < size; i++) {
        const sdc_instance *one = &event->instances[i];
        len += (size_t)snprintf(out + len, size - len, "%s%s=%s[", i > 0 ? ";" : "", one->id,
                                consul_status_name(one->status));
        for (size_t k = 0; k < one->num_tags && len < size; k++) {
            len += (size_t)snprintf(out + len, size - len, "%s%s", k > 0 ? " " : "", one->tags[k]);
        }
        len += len < size ? (size_t)snprintf(out + len, size - len, "]") : 0;
    }
}

static void consul_on_event(void *user, const sdc_event *event, const sdc_change *change)
{
    consul_stage *s = (consul_stage *)user;
    (void)change;
    s->at_us = consul_now_us();
    s->num_events++;
    s->err = event->err;
    s->is_known = event->is_known;
    s->num_empty += event->err == SDC_OK && event->num_instances == 0 ? 1 : 0;
    consul_write_state(event, s->state, sizeof s->state);
}

/* SDC_CONSUL_X and SDC_CONSUL_X_CTL. False: there is no such agent here. */
static bool consul_begin(consul_stage *s, const char *version, const char *kind, const char *test)
{
    char name[64];
    memset(s, 0, sizeof *s);
    snprintf(s->version, sizeof s->version, "%s", version);
    snprintf(name, sizeof name, "SDC_CONSUL_%s%s", version, kind);
    const char *url = getenv(name);
    snprintf(name, sizeof name, "SDC_CONSUL_%s%s_CTL", version, kind);
    const char *command = getenv(name);
    if (url == NULL || url[0] == '\0') {
        return false;
    }
    snprintf(s->url, sizeof s->url, "%s", url);
    snprintf(s->command, sizeof s->command, "%s", command != NULL ? command : "");
    snprintf(s->service, sizeof s->service, "e2e-%s-%ld", test, (long)getpid());
    sdc_client_desc desc;
    sdc_error error;
    memset(&desc, 0, sizeof desc);
    desc.address = s->url;
    desc.ignore_environment = true;
    if (sdc_client_create(&desc, &s->client, &error) != SDC_OK) {
        FAIL("sdc_client_create: %s", error.message);
    }
    return true;
}

static void consul_end(consul_stage *s)
{
    sdc_registrar_destroy(s->registrar);
    sdc_instancer_destroy(s->instancer);
    sdc_client_destroy(s->client);
    if (s->child > 0) {
        waitpid(s->child, NULL, 0);
    }
}

static bool consul_watch(consul_stage *s)
{
    sdc_instancer_desc desc;
    sdc_error error;
    memset(&desc, 0, sizeof desc);
    desc.query.service = s->service;
    if (sdc_instancer_create(s->client, &desc, &s->instancer, &error) != SDC_OK) {
        FAIL("sdc_instancer_create: %s", error.message);
        return false;
    }
    return CHECK_ERR(sdc_instancer_subscribe(s->instancer, consul_on_event, s), SDC_OK);
}

/* The instance "a", with a TTL check unless ttl_ms is 0; the check is the caller's memory. */
static sdc_registration consul_a(const consul_stage *s, sdc_check *check, uint32_t ttl_ms)
{
    sdc_registration registration;
    memset(check, 0, sizeof *check);
    memset(&registration, 0, sizeof registration);
    check->ttl_ms = ttl_ms;
    registration.id = "a";
    registration.name = s->service;
    registration.address = "10.77.0.1";
    registration.port = 8001;
    registration.checks = check;
    registration.num_checks = ttl_ms != 0 ? 1 : 0;
    return registration;
}

static bool consul_keep_by(consul_stage *s, sdc_client *client, uint32_t ttl_ms,
                           uint32_t status_expires_ms)
{
    sdc_check check;
    sdc_registrar_desc desc;
    sdc_error error;
    memset(&desc, 0, sizeof desc);
    desc.registration = consul_a(s, &check, ttl_ms);
    desc.status_expires_ms = status_expires_ms;
    desc.verify_ms = 1000;
    if (sdc_registrar_create(client, &desc, &s->registrar, &error) != SDC_OK) {
        FAIL("sdc_registrar_create: %s", error.message);
        return false;
    }
    return true;
}

static bool consul_keep(consul_stage *s, uint32_t ttl_ms)
{
    return consul_keep_by(s, s->client, ttl_ms, 0);
}

/* The instance "b", in one call. */
static void consul_put_b(consul_stage *s, const char *tag, uint16_t port)
{
    sdc_registration registration;
    sdc_error error;
    memset(&registration, 0, sizeof registration);
    registration.id = "b";
    registration.name = s->service;
    registration.address = "10.77.0.2";
    registration.port = port;
    registration.tags = &tag;
    registration.num_tags = 1;
    if (sdc_client_register(s->client, &registration, &error) != SDC_OK) {
        FAIL("sdc_client_register: %s", error.message);
    }
}

static void consul_remove_b(consul_stage *s)
{
    sdc_error error;
    if (sdc_client_deregister(s->client, "b", &error) != SDC_OK) {
        FAIL("sdc_client_deregister: %s", error.message);
    }
}

/* One turn of an ordinary poll loop, of at most most_ms. */
static void consul_turn(consul_stage *s, int most_ms)
{
    sdc_task *tasks[2] = { s->instancer != NULL ? sdc_instancer_task(s->instancer) : NULL,
                           s->registrar != NULL ? sdc_registrar_task(s->registrar) : NULL };
    struct pollfd fds[2];
    int timeout_ms = most_ms;
    nfds_t num = 0;
    for (size_t i = 0; i < 2; i++) {
        if (tasks[i] == NULL) {
            continue;
        }
        (void)sdc_step(tasks[i], 0);
        wants_add(sdc_task_wants(tasks[i]), fds, &num, &timeout_ms);
    }
    (void)poll(fds, num, timeout_ms);
    if (s->child > 0 && waitpid(s->child, NULL, WNOHANG) == s->child) {
        s->child = 0;
    }
}

static void consul_run(consul_stage *s, uint64_t ms)
{
    uint64_t until_us = consul_now_us() + ms * 1000;
    for (uint64_t now_us = consul_now_us(); now_us < until_us; now_us = consul_now_us()) {
        consul_turn(s, (int)((until_us - now_us) / 1000 + 1));
    }
}

/* Runs until the subscriber has this state and no error. */
static bool consul_reaches(consul_stage *s, const char *state)
{
    uint64_t until_us = consul_now_us() + CONSUL_PATIENCE_MS * 1000;
    while (consul_now_us() < until_us) {
        if (s->is_known && s->err == SDC_OK && strcmp(s->state, state) == 0) {
            return true;
        }
        consul_turn(s, 100);
    }
    FAIL("after %d ms the state is \"%s\" (%s), not \"%s\"", CONSUL_PATIENCE_MS, s->state,
         test_err_name((int)s->err), state);
    return false;
}

/* ---- changes and how long they take ---------------------------------------------------------- */

/* Lets the last change settle, so that the next one is not held back as one of a burst. */
static void consul_change(consul_stage *s)
{
    consul_run(s, CONSUL_SETTLE_MS);
    s->begin_us = consul_now_us();
}

static double consul_change_seen(consul_stage *s, const char *what, const char *state)
{
    if (!consul_reaches(s, state)) {
        return 1e9;
    }
    double ms = (double)(s->at_us - s->begin_us) / 1000.0;
    printf("%-4s %-28s %8.1f ms\n", s->version, what, ms);
    if (s->num_times < CONSUL_NUM(s->times_ms)) {
        s->times_ms[s->num_times++] = ms;
    }
    return ms;
}

static int consul_compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y ? 1 : 0;
}

/* The middle one is what is promised; a single one may have met a busy machine. */
static void consul_check_times(consul_stage *s)
{
    if (!CHECK(s->num_times > 0)) {
        return;
    }
    qsort(s->times_ms, s->num_times, sizeof s->times_ms[0], consul_compare);
    double median = s->times_ms[s->num_times / 2];
    printf("%-4s %-28s %8.1f ms\n", s->version, "median of the above", median);
    if (median >= 50.0) {
        FAIL("the median of %zu changes is %.1f ms", s->num_times, median);
    }
    CHECK(s->times_ms[s->num_times - 1] < 1000.0);
}

/* Begins CTL VERB without waiting for it. */
static void consul_start_command(consul_stage *s, const char *verb)
{
    char line[600];
    snprintf(line, sizeof line, "%s %s >/dev/null", s->command, verb);
    fflush(stdout);
    s->child = fork();
    if (s->child == 0) {
        execl("/bin/sh", "sh", "-c", line, (char *)NULL);
        _exit(127);
    }
    CHECK(s->child > 0);
}

static void consul_run_while_child(consul_stage *s)
{
    uint64_t until_us = consul_now_us() + 40u * 1000000u;
    while (s->child > 0 && consul_now_us() < until_us) {
        consul_turn(s, 20);
    }
    CHECK(s->child == 0);
}

static uint64_t consul_index(consul_stage *s)
{
    sdc_stats stats;
    sdc_task_stats(sdc_instancer_task(s->instancer), &stats);
    return stats.index;
}

/* Makes the agent's index grow, so that it is lower after a restart. */
static void consul_raise_index(consul_stage *s)
{
    static const char *const tags[] = { "1", "2", "3", "4", "5", "6", "7", "8", "9", "10" };
    for (size_t i = 0; i < CONSUL_NUM(tags); i++) {
        consul_put_b(s, tags[i], (uint16_t)(9000 + i));
    }
}

/* ---- the tests, each for one version --------------------------------------------------------- */

/* Register, discover, change, critical, maintenance, deregister. */
static void consul_life(const char *version)
{
    consul_stage s;
    sdc_error error;
    if (!consul_begin(&s, version, "", "life")) {
        SKIP("no such agent; tests/consul/run.sh starts them");
    }
    REQUIRE(consul_watch(&s) && consul_keep(&s, 30000));
    s.begin_us = consul_now_us();
    /* 27: a service that nobody has heard of is known to be empty, at once */
    sdc_registrar *later = s.registrar;
    s.registrar = NULL;
    CHECK(consul_change_seen(&s, "unknown service: empty", "") < 1000.0);
    CHECK_INT(s.num_empty, 1);
    consul_change(&s);
    consul_put_b(&s, "v1", 8002);
    consul_change_seen(&s, "register, one call", "b=passing[v1]");
    consul_change(&s);
    CHECK_ERR(sdc_registrar_register(later, &error), SDC_OK);
    s.registrar = later;
    consul_change_seen(&s, "register, registrar", "a=passing[];b=passing[v1]");
    consul_change(&s);
    consul_put_b(&s, "v2", 8002);
    consul_change_seen(&s, "other tags", "a=passing[];b=passing[v2]");
    consul_change(&s);
    CHECK_ERR(sdc_registrar_set_status(s.registrar, NULL, SDC_STATUS_CRITICAL, "disk"), SDC_OK);
    consul_change_seen(&s, "critical", "a=critical[];b=passing[v2]");
    consul_change(&s);
    CHECK_ERR(sdc_registrar_set_status(s.registrar, NULL, SDC_STATUS_WARNING, "hot"), SDC_OK);
    consul_change_seen(&s, "warning", "a=warning[];b=passing[v2]");
    consul_change(&s);
    CHECK_ERR(sdc_registrar_set_status(s.registrar, NULL, SDC_STATUS_PASSING, ""), SDC_OK);
    consul_change_seen(&s, "passing", "a=passing[];b=passing[v2]");
    consul_change(&s);
    CHECK_ERR(sdc_registrar_set_maintenance(s.registrar, true, "new & \"old\" disk"), SDC_OK);
    consul_change_seen(&s, "maintenance on", "a=maintenance[];b=passing[v2]");
    consul_change(&s);
    CHECK_ERR(sdc_registrar_set_maintenance(s.registrar, false, NULL), SDC_OK);
    consul_change_seen(&s, "maintenance off", "a=passing[];b=passing[v2]");
    consul_change(&s);
    consul_remove_b(&s);
    consul_change_seen(&s, "deregister, one call", "a=passing[]");
    CHECK_INT(s.num_empty, 1);
    consul_check_times(&s);
    consul_change(&s);
    sdc_stop(sdc_registrar_task(s.registrar));
    CHECK(consul_change_seen(&s, "deregister, stop: empty", "") < 1500.0);
    CHECK_INT(s.num_empty, 2);
    CHECK_ERR(sdc_step(sdc_registrar_task(s.registrar), 0), SDC_STOPPED);
    /* 83: what is not there is deregistered */
    consul_remove_b(&s);
    consul_end(&s);
}

/* 28: the last one leaves while the query blocks: published after a second look, and soon. */
static void consul_last_one_leaves(const char *version)
{
    consul_stage s;
    if (!consul_begin(&s, version, "", "last")) {
        SKIP("no such agent; tests/consul/run.sh starts them");
    }
    consul_put_b(&s, "v1", 8002);
    REQUIRE(consul_watch(&s));
    CHECK(consul_reaches(&s, "b=passing[v1]"));
    CHECK_INT(s.num_empty, 0);
    consul_change(&s);
    consul_remove_b(&s);
    CHECK(consul_change_seen(&s, "the last one leaves: empty", "") < 1500.0);
    CHECK_INT(s.num_empty, 1);
    consul_change(&s);
    CHECK_INT(s.num_empty, 1);
    consul_put_b(&s, "v2", 8002);
    CHECK(consul_change_seen(&s, "and one is there again", "b=passing[v2]") < 1000.0);
    consul_remove_b(&s);
    CHECK(consul_reaches(&s, ""));
    consul_end(&s);
}

/* 82, and the story that the whole library is for: the agent dies in the middle of a blocking query
   and comes back without memory. The registrar registers again, the instancer sees it. */
static void consul_restart(const char *version)
{
    consul_stage s;
    if (!consul_begin(&s, version, "", "restart")) {
        SKIP("no such agent; tests/consul/run.sh starts them");
    }
    if (s.command[0] == '\0') {
        consul_end(&s);
        SKIP("no command that restarts the agent");
    }
    REQUIRE(consul_watch(&s) && consul_keep(&s, 3000));
    CHECK(consul_reaches(&s, "a=passing[]"));
    consul_raise_index(&s);
    consul_remove_b(&s);
    consul_run(&s, 8000);
    CHECK_STR(s.state, "a=passing[]");
    uint64_t index = consul_index(&s);
    size_t num_events = s.num_events;
    s.begin_us = consul_now_us();
    consul_start_command(&s, "kill");
    consul_run_while_child(&s);
    for (int i = 0; i < 50 && s.err == SDC_OK; i++) {
        consul_turn(&s, 20);
    }
    CHECK(s.err != SDC_OK);
    /* the broken query, and then that nobody is there: an event for each code */
    CHECK_BETWEEN(s.num_events - num_events, 1, 2);
    CHECK_STR(s.state, "a=passing[]");          /* the last good ones stay */
    consul_start_command(&s, "up");
    consul_run_while_child(&s);
    s.begin_us = consul_now_us();
    sdc_stats stats;
    do {
        consul_turn(&s, 20);
        sdc_task_stats(sdc_registrar_task(s.registrar), &stats);
    } while (stats.registrations < 2 && consul_now_us() < s.begin_us + 10000000);
    CHECK_U64(stats.registrations, 2);
    CHECK(consul_reaches(&s, "a=passing[]"));
    double ms = (double)(consul_now_us() - s.begin_us) / 1000.0;
    printf("%-4s %-28s %8.1f ms, index %llu -> %llu\n", s.version, "agent back: all is well", ms,
           (unsigned long long)index, (unsigned long long)consul_index(&s));
    CHECK(ms < 6000.0);
    CHECK(consul_index(&s) < index);
    CHECK(sdc_registrar_is_registered(s.registrar));
    /* and later changes are seen as fast as ever */
    s.num_times = 0;
    consul_change(&s);
    CHECK_ERR(sdc_registrar_set_status(s.registrar, NULL, SDC_STATUS_CRITICAL, "x"), SDC_OK);
    CHECK(consul_change_seen(&s, "critical after that", "a=critical[]") < 1000.0);
    sdc_stop(sdc_registrar_task(s.registrar));
    CHECK(consul_reaches(&s, ""));
    consul_end(&s);
}

/* 21: lower indexes, and nobody registers until the agent is back. Not after a whole wait. */
static void consul_lower_index(const char *version)
{
    consul_stage s;
    if (!consul_begin(&s, version, "", "lower")) {
        SKIP("no such agent; tests/consul/run.sh starts them");
    }
    if (s.command[0] == '\0') {
        consul_end(&s);
        SKIP("no command that restarts the agent");
    }
    consul_raise_index(&s);
    REQUIRE(consul_watch(&s));
    CHECK(consul_reaches(&s, "b=passing[10]"));
    consul_run(&s, 2000);
    uint64_t index = consul_index(&s);
    consul_start_command(&s, "restart");
    consul_run_while_child(&s);
    s.begin_us = consul_now_us();
    consul_put_b(&s, "back", 8002);
    double ms = consul_change_seen(&s, "registered after a restart", "b=passing[back]");
    CHECK(ms < 4000.0);
    CHECK(consul_index(&s) < index);
    consul_remove_b(&s);
    CHECK(consul_reaches(&s, ""));
    consul_end(&s);
}

/* An agent that keeps its state: the outage is told, and never an empty list. */
static void consul_server_restart(const char *version)
{
    consul_stage s;
    if (!consul_begin(&s, version, "_SERVER", "server")) {
        SKIP("no such agent; tests/consul/run.sh starts them");
    }
    if (s.command[0] == '\0') {
        consul_end(&s);
        SKIP("no command that restarts the agent");
    }
    consul_put_b(&s, "v1", 8002);
    REQUIRE(consul_watch(&s));
    CHECK(consul_reaches(&s, "b=passing[v1]"));
    consul_run(&s, 1000);
    size_t num_empty = s.num_empty;
    consul_start_command(&s, "restart");
    consul_run_while_child(&s);
    s.begin_us = consul_now_us();
    uint64_t num_events = s.num_events;
    CHECK(consul_reaches(&s, "b=passing[v1]"));
    printf("%-4s %-28s %8.1f ms, %llu events before\n", s.version, "server back: all is well",
           (double)(consul_now_us() - s.begin_us) / 1000.0, (unsigned long long)num_events);
    CHECK_INT(s.num_empty, num_empty);
    consul_change(&s);
    consul_put_b(&s, "v2", 8002);
    CHECK(consul_change_seen(&s, "change after that", "b=passing[v2]") < 1000.0);
    consul_remove_b(&s);
    CHECK(consul_reaches(&s, ""));
    consul_end(&s);
}

/* 82: somebody deregisters the service behind the registrar's back; with and without a TTL. */
static void consul_lost(const char *version)
{
    static const uint32_t ttls[] = { 3000, 0 };
    for (size_t i = 0; i < CONSUL_NUM(ttls); i++) {
        consul_stage s;
        sdc_error error;
        if (!consul_begin(&s, version, "", i == 0 ? "lost" : "lost-plain")) {
            SKIP("no such agent; tests/consul/run.sh starts them");
        }
        REQUIRE(consul_watch(&s) && consul_keep(&s, ttls[i]));
        CHECK(consul_reaches(&s, "a=passing[]"));
        if (ttls[i] != 0) {
            CHECK_ERR(sdc_registrar_set_status(s.registrar, NULL, SDC_STATUS_WARNING, "w"), SDC_OK);
        }
        CHECK_ERR(sdc_registrar_set_maintenance(s.registrar, true, "m"), SDC_OK);
        CHECK(consul_reaches(&s, "a=maintenance[]"));
        consul_change(&s);
        CHECK_ERR(sdc_client_deregister(s.client, "a", &error), SDC_OK);
        sdc_stats stats;
        do {
            consul_turn(&s, 20);
            sdc_task_stats(sdc_registrar_task(s.registrar), &stats);
        } while (stats.registrations < 2 && consul_now_us() < s.begin_us + 5000000);
        CHECK_U64(stats.registrations, 2);
        printf("%-4s %-28s %8.1f ms\n", s.version, ttls[i] != 0 ? "lost, TTL 3 s: there again"
               : "lost, verified each 1 s", (double)(consul_now_us() - s.begin_us) / 1000.0);
        CHECK(consul_reaches(&s, "a=maintenance[]"));
        CHECK_ERR(sdc_registrar_set_maintenance(s.registrar, false, NULL), SDC_OK);
        CHECK(consul_reaches(&s, ttls[i] != 0 ? "a=warning[]" : "a=passing[]"));
        sdc_stop(sdc_registrar_task(s.registrar));
        CHECK(consul_reaches(&s, ""));
        consul_end(&s);
    }
}

/* Somebody else sets the instance "a" into maintenance: another registrar of the same, which then
   goes without a word. */
static void consul_operator_begins_maintenance(consul_stage *s, const sdc_registration *a)
{
    sdc_registrar_desc desc;
    sdc_registrar *other = NULL;
    sdc_error error;
    memset(&desc, 0, sizeof desc);
    desc.registration = *a;
    REQUIRE(sdc_registrar_create(s->client, &desc, &other, &error) == SDC_OK);
    CHECK_ERR(sdc_registrar_set_maintenance(other, true, "by hand"), SDC_OK);
    CHECK_ERR(sdc_registrar_register(other, &error), SDC_OK);
    CHECK_ERR(sdc_step(sdc_registrar_task(other), 1000), SDC_OK);
    sdc_registrar_destroy(other);
}

/* An update of tags leaves an operator's maintenance alone, one of checks does not. */
static void consul_maintained(const char *version)
{
    consul_stage s;
    sdc_check check;
    sdc_error error;
    static const char *const mine[] = { "v2" };
    if (!consul_begin(&s, version, "", "maintained")) {
        SKIP("no such agent; tests/consul/run.sh starts them");
    }
    REQUIRE(consul_watch(&s) && consul_keep(&s, 3000));
    CHECK(consul_reaches(&s, "a=passing[]"));
    sdc_registration a = consul_a(&s, &check, 3000);
    consul_operator_begins_maintenance(&s, &a);
    CHECK(consul_reaches(&s, "a=maintenance[]"));
    a.num_tags = 1;
    a.tags = mine;
    CHECK_ERR(sdc_registrar_update(s.registrar, &a, &error), SDC_OK);
    CHECK(consul_reaches(&s, "a=maintenance[v2]"));
    consul_run(&s, 3500);
    CHECK(consul_reaches(&s, "a=maintenance[v2]"));
    check.name = "renamed";
    CHECK_ERR(sdc_registrar_update(s.registrar, &a, &error), SDC_OK);
    CHECK(consul_reaches(&s, "a=passing[v2]"));
    sdc_stop(sdc_registrar_task(s.registrar));
    CHECK(consul_reaches(&s, ""));
    consul_end(&s);
}

/* New tags in place; somebody else's are replaced by ours; and a check whose program says nothing
   turns critical, until it speaks again. */
static void consul_changed(const char *version)
{
    consul_stage s;
    sdc_check check;
    sdc_error error;
    static const char *const mine[] = { "v2" };
    static const char *const other[] = { "other" };
    if (!consul_begin(&s, version, "", "changed")) {
        SKIP("no such agent; tests/consul/run.sh starts them");
    }
    REQUIRE(consul_watch(&s) && consul_keep(&s, 0));
    CHECK(consul_reaches(&s, "a=passing[]"));
    consul_change(&s);
    sdc_registration a = consul_a(&s, &check, 0);
    a.num_tags = 1;
    a.tags = mine;
    CHECK_ERR(sdc_registrar_update(s.registrar, &a, &error), SDC_OK);
    CHECK(consul_change_seen(&s, "updated", "a=passing[v2]") < 1000.0);
    consul_change(&s);
    a.tags = other;
    CHECK_ERR(sdc_client_register(s.client, &a, &error), SDC_OK);
    CHECK(consul_reaches(&s, "a=passing[other]"));
    CHECK(consul_change_seen(&s, "changed, verified each 1 s", "a=passing[v2]") < 2500.0);
    sdc_stats stats;
    consul_run(&s, 4000);
    sdc_task_stats(sdc_registrar_task(s.registrar), &stats);
    CHECK_U64(stats.registrations, 3);
    sdc_stop(sdc_registrar_task(s.registrar));
    CHECK(consul_reaches(&s, ""));
    sdc_registrar_destroy(s.registrar);
    REQUIRE(consul_keep_by(&s, s.client, 3000, 2000));
    CHECK(consul_reaches(&s, "a=passing[]"));
    s.begin_us = consul_now_us();
    CHECK(consul_change_seen(&s, "silent, TTL 3 s: critical", "a=critical[]") < 6000.0);
    consul_change(&s);
    CHECK_ERR(sdc_registrar_set_status(s.registrar, NULL, SDC_STATUS_PASSING, ""), SDC_OK);
    CHECK(consul_change_seen(&s, "and well again", "a=passing[]") < 1000.0);
    sdc_stop(sdc_registrar_task(s.registrar));
    CHECK(consul_reaches(&s, ""));
    consul_end(&s);
}

static void test_82_changed_on_1_8(void) { consul_changed("18"); }
static void test_82_changed_on_new(void) { consul_changed("NEW"); }
static void test_maintained_on_1_8(void) { consul_maintained("18"); }
static void test_maintained_on_new(void) { consul_maintained("NEW"); }

/* 87: registered at the one agent; it is killed, and the other has the service with its status. */
static void test_87_registration_moves(void)
{
    consul_stage from, to;
    sdc_client_desc desc;
    sdc_client *both = NULL;
    char addresses[520];
    memset(&to, 0, sizeof to);
    bool is_there = consul_begin(&from, "18", "", "moves") &&
                    consul_begin(&to, "NEW", "", "moves");
    if (!is_there || from.command[0] == '\0') {
        consul_end(&from);
        consul_end(&to);
        SKIP("needs both agents, and a command that restarts them");
    }
    memset(&desc, 0, sizeof desc);
    snprintf(addresses, sizeof addresses, "%s,%s", from.url, to.url);
    desc.address = addresses;
    desc.ignore_environment = true;
    REQUIRE(sdc_client_create(&desc, &both, NULL) == SDC_OK);
    REQUIRE(consul_watch(&from) && consul_watch(&to) && consul_keep_by(&to, both, 3000, 0));
    consul_run(&to, 1000);
    CHECK_ERR(sdc_registrar_set_status(to.registrar, NULL, SDC_STATUS_WARNING, "w"), SDC_OK);
    consul_run(&to, 1000);
    CHECK(consul_reaches(&from, "a=warning[]"));
    CHECK(consul_reaches(&to, ""));
    consul_start_command(&from, "kill");
    consul_run_while_child(&from);
    to.begin_us = consul_now_us();
    CHECK(consul_change_seen(&to, "moved to another agent", "a=warning[]") < 3000.0);
    consul_start_command(&from, "up");
    consul_run_while_child(&from);
    sdc_stop(sdc_registrar_task(to.registrar));
    CHECK(consul_reaches(&to, ""));
    CHECK(consul_reaches(&from, ""));
    consul_end(&to);
    consul_end(&from);
    sdc_client_destroy(both);
}

/* ---- 79: what an agent takes ----------------------------------------------------------------- */

typedef struct consul_body {
    const char *name;
    sdc_check   check;
    bool        is_new;             /* 1.8 does not know it                                   */
    bool        is_off;             /* scripts are, unless an agent is told otherwise         */
    bool        is_deadly;          /* to 1.8.7, which dies of an alias of a node unknown to it */
} consul_body;

static const char *const consul_args[] = { "/bin/true", "-a b" };
static const sdc_kv consul_headers[] = { { "X-A", "1" }, { "X-A", "\"2\"" }, { "Host", "h" } };

static const consul_body consul_bodies[] = {
    { "ttl", { .ttl_ms = 1500 }, false, false, false },
    { "ttl-all", { .ttl_ms = 60000, .name = "n \"q\"", .notes = "o\nw", .output_max_bytes = 512,
                   .deregister_critical_after_ms = 90000, .success_before_passing = 1,
                   .failures_before_critical = 3, .status = SDC_STATUS_WARNING },
      false, false, false },
    { "http", { .http = "http://127.0.0.1:9/?a=\"b\"", .method = "POST", .body = "{}",
                .headers = consul_headers, .num_headers = 3, .tls_skip_verify = true,
                .interval_ms = 3600000, .timeout_ms = 1001 }, false, false, false },
    { "http-new", { .http = "http://127.0.0.1:9/", .disable_redirects = true,
                    .tls_server_name = "h", .interval_ms = 3600000,
                    .failures_before_warning = 1, .failures_before_critical = 2 },
      true, false, false },
    { "h2ping", { .h2ping = "127.0.0.1:9", .interval_ms = 3600000 }, true, false, false },
    { "h2ping-plain", { .h2ping = "127.0.0.1:9", .h2ping_no_tls = true, .interval_ms = 3600000 },
      true, false, false },
    { "tcp", { .tcp = "127.0.0.1:9", .interval_ms = 3600000 }, false, false, false },
    { "tcp-tls", { .tcp = "127.0.0.1:9", .tcp_use_tls = true, .interval_ms = 3600000 }, true,
      false, false },
    { "udp", { .udp = "127.0.0.1:9", .interval_ms = 3600000 }, true, false, false },
    { "grpc", { .grpc = "127.0.0.1:9/s", .grpc_use_tls = true, .interval_ms = 3600000 }, false,
      false, false },
    { "os-service", { .os_service = "ssh", .interval_ms = 3600000 }, true, true, false },
    { "alias", { .alias_service = "ttl" }, false, false, false },
    { "alias-node", { .alias_node = "elsewhere", .alias_service = "x" }, false, false, true },
    { "args", { .args = consul_args, .num_args = 2 }, false, true, false },
    { "docker", { .args = consul_args, .num_args = 2, .docker_container_id = "c", .shell = "sh" },
      false, true, false },
};

static void consul_check_kinds(const char *version)
{
    consul_stage s;
    sdc_error error;
    if (!consul_begin(&s, version, "", "kinds")) {
        SKIP("no such agent; tests/consul/run.sh starts them");
    }
    for (size_t i = 0; i < CONSUL_NUM(consul_bodies); i++) {
        const consul_body *one = &consul_bodies[i];
        sdc_registration registration;
        test_note("%s", one->name);
        if (one->is_deadly && strcmp(version, "18") == 0) {
            continue;
        }
        memset(&registration, 0, sizeof registration);
        registration.id = one->name;
        registration.name = s.service;
        registration.port = 1;
        registration.checks = &one->check;
        registration.num_checks = 1;
        sdc_err err = sdc_client_register(s.client, &registration, &error);
        if (one->is_new && strcmp(version, "18") == 0) {
            CHECK_INT(error.http_status, 400);
            CHECK_HAS(error.message, "unknown field");
        } else if (one->is_off) {
            CHECK_ERR(err, SDC_ERR_STATUS);
            CHECK_HASNT(error.message, "unknown field");
        } else {
            CHECK_STR(error.message, "");
        }
        CHECK_ERR(sdc_client_deregister(s.client, one->name, &error), SDC_OK);
    }
    consul_end(&s);
}

/* A registration with all that both versions know, and what comes back of it. */
static void consul_round_trip(const char *version)
{
    static const char *const tags[] = { "b \"quoted\"", "a/\xc3\xa9" };
    static const sdc_kv metas[] = { { "key", "v\\1\n\xf0\x9f\x90\x88" }, { "other", "" } };
    static const sdc_address addresses[] = {
        { "lan", "10.77.0.9", 81 }, { "wan", "192.0.2.9", 82 }
    };
    consul_stage s;
    sdc_registration registration;
    sdc_error error;
    const sdc_event *event = NULL;
    if (!consul_begin(&s, version, "", "round a/b")) {
        SKIP("no such agent; tests/consul/run.sh starts them");
    }
    memset(&registration, 0, sizeof registration);
    registration.id = "id with/slash & \"q\" ? # %";
    registration.name = s.service;
    registration.tags = tags;
    registration.num_tags = 2;
    registration.address = "10.77.0.3";
    registration.port = 80;
    registration.meta = metas;
    registration.num_meta = 2;
    registration.tagged_addresses = addresses;
    registration.num_tagged_addresses = 2;
    registration.weight_passing = 7;
    registration.weight_warning = 3;
    registration.enable_tag_override = true;
    registration.raw_members = "\"Proxy\":{}";
    sdc_err err = sdc_client_register(s.client, &registration, &error);
    if (err != SDC_OK) {
        FAIL("sdc_client_register: %s", error.message);
    }
    sdc_query query;
    memset(&query, 0, sizeof query);
    query.service = s.service;
    query.tags = tags;
    query.num_tags = 2;
    query.passing_only = true;
    CHECK_ERR(sdc_client_service(s.client, &query, &event, &error), SDC_OK);
    if (CHECK(event != NULL) && CHECK_INT(event->num_instances, 1)) {
        const sdc_instance *one = &event->instances[0];
        CHECK_STR(one->id, registration.id);
        CHECK_STR(one->service, s.service);
        CHECK_STR(one->addr, "10.77.0.3:80");
        CHECK_STR(one->datacenter, "dc1");
        CHECK_INT(one->weight, 7);
        CHECK(one->num_tags == 2 && strcmp(one->tags[0], tags[1]) == 0);
        CHECK(one->num_meta == 2 && strcmp(one->meta[0].value, metas[0].value) == 0);
        CHECK(one->num_tagged_addresses >= 2);
    }
    sdc_event_release(event);
    CHECK_ERR(sdc_client_deregister(s.client, registration.id, &error), SDC_OK);
    query.passing_only = false;
    CHECK_ERR(sdc_client_service(s.client, &query, &event, &error), SDC_OK);
    CHECK(event != NULL && event->num_instances == 0);
    sdc_event_release(event);
    consul_end(&s);
}

/* ---- access control, and a unix socket ------------------------------------------------------- */

static void consul_acl(const char *version)
{
    consul_stage s;
    sdc_error error;
    const sdc_event *event = NULL;
    const char *token = getenv("SDC_CONSUL_TOKEN");
    if (!consul_begin(&s, version, "_ACL", "acl")) {
        SKIP("no such agent; tests/consul/run.sh starts them");
    }
    sdc_registration registration;
    memset(&registration, 0, sizeof registration);
    registration.id = "b";
    registration.name = s.service;
    registration.port = 1;
    CHECK_ERR(sdc_client_register(s.client, &registration, &error), SDC_ERR_DENIED);
    CHECK_INT(error.http_status, 403);
    CHECK_ERR(sdc_client_set_token(s.client, "99999999-2222-3333-4444-555555555555"), SDC_OK);
    CHECK_ERR(sdc_client_register(s.client, &registration, &error), SDC_ERR_DENIED);
    CHECK_HASNT(error.message, "99999999");
    sdc_query query;
    memset(&query, 0, sizeof query);
    query.service = s.service;
    CHECK_ERR(sdc_client_service(s.client, &query, &event, &error), SDC_ERR_DENIED);
    sdc_event_release(event);
    CHECK_ERR(sdc_client_set_token(s.client, token), SDC_OK);
    REQUIRE(consul_watch(&s) && consul_keep(&s, 30000));
    CHECK(consul_reaches(&s, "a=passing[]"));
    consul_put_b(&s, "v1", 8002);
    CHECK(consul_reaches(&s, "a=passing[];b=passing[v1]"));
    consul_remove_b(&s);
    /* 83: with access control on, versions have words of their own for an unknown ID */
    consul_remove_b(&s);
    sdc_stop(sdc_registrar_task(s.registrar));
    CHECK(consul_reaches(&s, ""));
    consul_end(&s);
}

static void consul_unix(const char *version)
{
    consul_stage s;
    if (!consul_begin(&s, version, "_UNIX", "unix")) {
        SKIP("no such agent; tests/consul/run.sh starts them");
    }
    REQUIRE(consul_watch(&s));
    CHECK(consul_reaches(&s, ""));
    consul_change(&s);
    consul_put_b(&s, "v1", 8002);
    CHECK(consul_change_seen(&s, "register, unix socket", "b=passing[v1]") < 1000.0);
    consul_remove_b(&s);
    CHECK(consul_reaches(&s, ""));
    consul_end(&s);
}

/* ---- table ----------------------------------------------------------------------------------- */

static void test_life_on_1_8(void)              { consul_life("18"); }
static void test_life_on_new(void)              { consul_life("NEW"); }
static void test_28_last_one_leaves_1_8(void)   { consul_last_one_leaves("18"); }
static void test_28_last_one_leaves_new(void)   { consul_last_one_leaves("NEW"); }
static void test_82_restart_of_1_8(void)        { consul_restart("18"); }
static void test_82_restart_of_new(void)        { consul_restart("NEW"); }
static void test_21_lower_index_of_1_8(void)    { consul_lower_index("18"); }
static void test_21_lower_index_of_new(void)    { consul_lower_index("NEW"); }
static void test_restart_of_a_1_8_server(void)  { consul_server_restart("18"); }
static void test_restart_of_a_new_server(void)  { consul_server_restart("NEW"); }
static void test_82_lost_on_1_8(void)           { consul_lost("18"); }
static void test_82_lost_on_new(void)           { consul_lost("NEW"); }
static void test_79_checks_on_1_8(void)         { consul_check_kinds("18"); }
static void test_79_checks_on_new(void)         { consul_check_kinds("NEW"); }
static void test_79_round_trip_on_1_8(void)     { consul_round_trip("18"); }
static void test_79_round_trip_on_new(void)     { consul_round_trip("NEW"); }
static void test_acl_on_1_8(void)               { consul_acl("18"); }
static void test_acl_on_new(void)               { consul_acl("NEW"); }
static void test_55_unix_socket_of_1_8(void)    { consul_unix("18"); }
static void test_55_unix_socket_of_new(void)    { consul_unix("NEW"); }

static const test_case cases_consul[] = {
    TEST(test_79_checks_on_1_8),
    TEST(test_79_checks_on_new),
    TEST(test_79_round_trip_on_1_8),
    TEST(test_79_round_trip_on_new),
    TEST(test_life_on_1_8),
    TEST(test_life_on_new),
    TEST(test_28_last_one_leaves_1_8),
    TEST(test_28_last_one_leaves_new),
    TEST(test_82_lost_on_1_8),
    TEST(test_82_lost_on_new),
    TEST(test_82_changed_on_1_8),
    TEST(test_82_changed_on_new),
    TEST(test_maintained_on_1_8),
    TEST(test_maintained_on_new),
    TEST(test_acl_on_1_8),
    TEST(test_acl_on_new),
    TEST(test_55_unix_socket_of_1_8),
    TEST(test_55_unix_socket_of_new),
    TEST(test_21_lower_index_of_1_8),
    TEST(test_21_lower_index_of_new),
    TEST(test_87_registration_moves),
    TEST(test_82_restart_of_1_8),
    TEST(test_82_restart_of_new),
    TEST(test_restart_of_a_1_8_server),
    TEST(test_restart_of_a_new_server),
};

TEST_MAIN(GROUP(cases_consul))
