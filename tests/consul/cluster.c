/* A real cluster on loopback, three servers and a client agent, while its parts die, are cut off
   and forget: eight watches and four registrations live through that, by way of each agent and of
   all, on both of Consul's ways to answer a watch.

   consul/cluster.py starts the cluster, and does to it what this program asks for on
   SDC_CLUSTER_FD; what the truth is, it asks of the leader, with a decoder that is not the one
   under test. Each test has a service of its own, begins with a whole cluster and leaves one:

     anchor-a, anchor-b   on nodes without agents, so nothing that happens to an agent touches
                          them. A change tags both vN in one transaction: a list in which they
                          differ, or in which one is missing, was never true
     keeper-AGENT         four registrars, each at one agent, with a TTL check but for that at s2
     guest                registered, degraded and deregistered by HTTP at the client agent
     late, early          on nodes without agents, added and removed around a snapshot

   Six watches ask for all instances: those must hold the anchors and the keepers in every event.
   When a node dies its instances turn critical, truly; so the two watches that ask for passing ones
   lose them, truly, and may do so. What these always hold are the anchors, which no dead node takes
   along. An older true state is no lie: it is counted, not refused.

   What is printed as the time from the end of a fault ends with the last change of a list, so that
   Consul's own time to find together again is in it. */
#include "../../sdconsul.h"

#include "../support/test.h"
#include "wants.h"

#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define CLUSTER_NUM(array) (sizeof(array) / sizeof((array)[0]))

enum {
    CLUSTER_SPACING_MS = 1000,      /* between changes: a watch may read each 500 ms          */
    CLUSTER_BOUND_MS = 90000,       /* from the end of a fault until all lists are the truth  */
    CLUSTER_HEARD_MS = 10000,       /* of a change, by those whom no fault concerns: an election
                                       and a machine that is busy are in it                   */
    CLUSTER_MAX_CHANGES = 64,
    CLUSTER_BIT_PASSING = 1 << SDC_STATUS_PASSING,
    CLUSTER_BIT_WARNING = 1 << SDC_STATUS_WARNING,
    CLUSTER_BIT_CRITICAL = 1 << SDC_STATUS_CRITICAL,
    CLUSTER_BIT_MAINTENANCE = 1 << SDC_STATUS_MAINTENANCE
};

/* ---- what there is --------------------------------------------------------------------------- */

typedef struct cluster cluster;

/* What may stand in a list. */
typedef struct cluster_thing {
    const char *id, *agent;         /* "": on a node without one, SERVICE-ID                  */
    uint16_t    port;
    bool        is_permanent;       /* in each list                                           */
    bool        may_hide;           /* but not in each of those of passing ones               */
    unsigned    statuses;           /* that it may have: bits                                 */
    const char *wanted;             /* its status when all is well; NULL: no matter           */
} cluster_thing;

enum { CLUSTER_ANCHOR_A, CLUSTER_ANCHOR_B, CLUSTER_KEEPER, CLUSTER_GUEST = CLUSTER_KEEPER + 4,
       CLUSTER_LATE, CLUSTER_EARLY, CLUSTER_NUM_THINGS };

static const cluster_thing cluster_things[CLUSTER_NUM_THINGS] = {
    { "anchor-a", "", 8001, true, false, CLUSTER_BIT_PASSING, "passing" },
    { "anchor-b", "", 8002, true, false, CLUSTER_BIT_PASSING, "passing" },
    { "keeper-s1", "s1", 8101, true, false, CLUSTER_BIT_PASSING, "passing" },
    { "keeper-s2", "s2", 8102, true, false, CLUSTER_BIT_PASSING, "passing" },
    { "keeper-s3", "s3", 8103, true, false, CLUSTER_BIT_PASSING, "passing" },
    { "keeper-client", "client", 8104, true, false, CLUSTER_BIT_PASSING, "passing" },
    { "guest", "client", 8201, false, true,
      CLUSTER_BIT_PASSING | CLUSTER_BIT_WARNING | CLUSTER_BIT_CRITICAL, NULL },
    { "late", "", 8301, false, true, CLUSTER_BIT_PASSING, NULL },
    { "early", "", 8302, false, true, CLUSTER_BIT_PASSING, NULL }
};

typedef struct cluster_watch_desc {
    const char     *name, *agents;  /* by comma; "*": all four, the leader first              */
    bool            passing_only;
    bool            is_near;        /* near an agent: Consul answers those by its older means,
                                       a query that waits, and not from a streamed view       */
    sdc_consistency consistency;
} cluster_watch_desc;

static const cluster_watch_desc cluster_watch_descs[] = {
    { "client", "client", false, false, SDC_CONSISTENCY_DEFAULT },
    { "client, passing", "client", true, false, SDC_CONSISTENCY_DEFAULT },
    { "s1", "s1", false, false, SDC_CONSISTENCY_DEFAULT },
    { "s2, stale", "s2", false, false, SDC_CONSISTENCY_STALE },
    { "s3", "s3", false, false, SDC_CONSISTENCY_DEFAULT },
    { "s3, near, passing", "s3", true, true, SDC_CONSISTENCY_DEFAULT },
    { "client, near", "client", false, true, SDC_CONSISTENCY_DEFAULT },
    { "all four", "*", false, false, SDC_CONSISTENCY_DEFAULT }
};

enum { CLUSTER_NUM_WATCHES = CLUSTER_NUM(cluster_watch_descs), CLUSTER_NUM_KEEPERS = 4,
       CLUSTER_NUM_TASKS = CLUSTER_NUM_WATCHES + CLUSTER_NUM_KEEPERS };

typedef struct cluster_watch {
    const cluster_watch_desc *desc;
    cluster       *cluster;
    sdc_client    *client;
    sdc_instancer *instancer;
    char           list[2000];      /* of the last event, as cluster.py writes the truth      */
    sdc_err        err;
    bool           is_known;
    unsigned       version;         /* of the anchors in it                                   */
    uint64_t       at_us;           /* when the list or the error was last another            */
    uint64_t       back_us;         /* from the end of the fault until it was the truth       */
    size_t         num_older, num_outages;
    uint64_t       seen_us[CLUSTER_MAX_CHANGES];
} cluster_watch;

struct cluster {
    char           service[32];
    int            fd;
    char           reply[8000];
    size_t         reply_len;
    cluster_thing  things[CLUSTER_NUM_THINGS];
    cluster_watch  watches[CLUSTER_NUM_WATCHES];
    sdc_client    *keeper_clients[CLUSTER_NUM_KEEPERS];
    sdc_registrar *keepers[CLUSTER_NUM_KEEPERS];    /* as the things are ordered              */
    bool           is_set_up;       /* from here on all that is permanent is in each list     */
    unsigned       version;         /* the newest that may be anywhere                        */
    unsigned       wanted_version;  /* that the truth has when all is well                    */
    uint64_t       change_us[CLUSTER_MAX_CHANGES];  /* of version i + 1                       */
    unsigned       first_change;    /* that is reported                                       */
    uint64_t       begin_us, fault_us, end_us;
};

static uint64_t cluster_now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

/* ---- lists: never lost, emptied or invented -------------------------------------------------- */

static void cluster_write_list(const sdc_event *event, char *out, size_t size)
{
    size_t len = 0;
    snprintf(out, size, "-");
    for (size_t i = 0; i < event->num_instances && len < size; i++) {
        const sdc_instance *one = &event->instances[i];
        len += (size_t)snprintf(out + len, size - len, "%s%s@%s=%s[", i > 0 ? ";" : "", one->id,
                                one->node, sdc_status_str(one->status));
        for (size_t k = 0; k < one->num_tags && len < size; k++) {
            len += (size_t)snprintf(out + len, size - len, "%s%s", k > 0 ? "," : "", one->tags[k]);
        }
        len += len < size ? (size_t)snprintf(out + len, size - len, "]") : 0;
    }
}

static const sdc_instance *cluster_find(const sdc_event *event, const char *id)
{
    for (size_t i = 0; i < event->num_instances; i++) {
        if (strcmp(event->instances[i].id, id) == 0) {
            return &event->instances[i];
        }
    }
    return NULL;
}

/* The N of a tag vN; 0 when it is something else. */
static unsigned cluster_version_of(const sdc_instance *one)
{
    if (one->num_tags != 1 || one->tags[0][0] != 'v') {
        return 0;
    }
    return (unsigned)strtoul(one->tags[0] + 1, NULL, 10);
}

/* Whether the instance has been like this at any time; else why not. */
static const char *cluster_why_invented(const cluster *c, const sdc_instance *one)
{
    const cluster_thing *thing = NULL;
    char node[64];
    for (size_t i = 0; i < CLUSTER_NUM_THINGS; i++) {
        thing = strcmp(c->things[i].id, one->id) == 0 ? &c->things[i] : thing;
    }
    if (thing == NULL) {
        return "nobody has registered it";
    }
    const char *last = strncmp(thing->id, "anchor-", 7) == 0 ? thing->id + 7 : thing->id;
    snprintf(node, sizeof node, "%s-%s", c->service, last);
    if (strcmp(one->node, thing->agent[0] != '\0' ? thing->agent : node) != 0) {
        return "it is not on that node";
    }
    const char *colon = strrchr(one->addr, ':');
    if (colon == NULL || strtoul(colon + 1, NULL, 10) != thing->port) {
        return "that is not its port";
    }
    if ((thing->statuses & 1u << one->status) == 0) {
        return "nothing has given it that status";
    }
    unsigned version = cluster_version_of(one);
    unsigned newest = thing->id[0] == 'a' ? c->version : 1;
    return version < 1 || version > newest ? "it never had that tag" : NULL;
}

static void cluster_check_list(cluster_watch *w, const sdc_event *event)
{
    const cluster *c = w->cluster;
    for (size_t i = 0; i < event->num_instances; i++) {
        const char *why = cluster_why_invented(c, &event->instances[i]);
        if (why != NULL) {
            FAIL("%s: invented: %s: %s in %s", w->desc->name, event->instances[i].id, why, w->list);
        }
    }
    for (size_t i = 0; c->is_set_up && i < CLUSTER_NUM_THINGS; i++) {
        const cluster_thing *thing = &c->things[i];
        if (thing->is_permanent && !(w->desc->passing_only && thing->may_hide) &&
            cluster_find(event, thing->id) == NULL) {
            FAIL("%s: lost: %s from %s (%s)", w->desc->name, thing->id, w->list, event->message);
        }
    }
    const sdc_instance *a = cluster_find(event, "anchor-a");
    const sdc_instance *b = cluster_find(event, "anchor-b");
    if ((a != NULL) != (b != NULL) ||
        (a != NULL && cluster_version_of(a) != cluster_version_of(b))) {
        FAIL("%s: invented: half of a transaction: %s", w->desc->name, w->list);
    }
}

static void cluster_on_event(void *user, const sdc_event *event, const sdc_change *change)
{
    cluster_watch *w = (cluster_watch *)user;
    cluster *c = w->cluster;
    (void)change;
    w->at_us = cluster_now_us();
    w->num_outages += w->is_known && event->err != SDC_OK && w->err == SDC_OK ? 1 : 0;
    w->err = event->err;
    w->is_known = event->is_known;
    cluster_write_list(event, w->list, sizeof w->list);
    cluster_check_list(w, event);
    const sdc_instance *anchor = cluster_find(event, "anchor-a");
    unsigned version = anchor != NULL ? cluster_version_of(anchor) : 0;
    w->num_older += version < w->version ? 1 : 0;
    w->version = version;
    for (unsigned i = 0; i < version && i < c->version; i++) {
        w->seen_us[i] = w->seen_us[i] == 0 ? w->at_us : w->seen_us[i];
    }
    if (test_is_verbose()) {
        printf("%8.3f %-17s %s %s %s\n", (double)(w->at_us - c->begin_us) / 1e6, w->desc->name,
               test_err_name((int)w->err), w->list, event->message);
    }
}

/* ---- the loop -------------------------------------------------------------------------------- */

static sdc_task *cluster_task(const cluster *c, size_t i)
{
    if (i < CLUSTER_NUM_WATCHES) {
        sdc_instancer *instancer = c->watches[i].instancer;
        return instancer != NULL ? sdc_instancer_task(instancer) : NULL;
    }
    sdc_registrar *keeper = c->keepers[i - CLUSTER_NUM_WATCHES];
    return keeper != NULL ? sdc_registrar_task(keeper) : NULL;
}

static void cluster_read_reply(cluster *c)
{
    ssize_t num = read(c->fd, c->reply + c->reply_len, sizeof c->reply - 1 - c->reply_len);
    if (num <= 0) {
        fprintf(stderr, "cluster.py is gone\n");
        exit(1);
    }
    c->reply_len += (size_t)num;
    c->reply[c->reply_len] = '\0';
}

/* One turn of an ordinary poll loop, of at most most_ms. */
static void cluster_turn(cluster *c, int most_ms)
{
    struct pollfd fds[CLUSTER_NUM_TASKS + 1];
    nfds_t num = 1;
    int timeout_ms = most_ms;
    fds[0].fd = c->fd;
    fds[0].events = POLLIN;
    for (size_t i = 0; i < CLUSTER_NUM_TASKS; i++) {
        sdc_task *task = cluster_task(c, i);
        if (task == NULL) {
            continue;
        }
        (void)sdc_step(task, 0);
        wants_add(sdc_task_wants(task), fds, &num, &timeout_ms);
    }
    if (poll(fds, num, timeout_ms) > 0 && fds[0].revents != 0) {
        cluster_read_reply(c);
    }
}

static void cluster_run(cluster *c, uint64_t ms)
{
    uint64_t until_us = cluster_now_us() + ms * 1000;
    for (uint64_t now_us = cluster_now_us(); now_us < until_us; now_us = cluster_now_us()) {
        cluster_turn(c, (int)((until_us - now_us) / 1000 + 1));
    }
}

/* Has cluster.py do something, and runs meanwhile. What stands behind "ok"; NULL: it could not. */
static const char *cluster_try(cluster *c, const char *line)
{
    char command[256];
    int len = snprintf(command, sizeof command, "%s\n", line);
    c->reply_len = 0;
    if (write(c->fd, command, (size_t)len) != len) {
        fprintf(stderr, "cluster.py is gone\n");
        exit(1);
    }
    while (c->reply_len == 0 || c->reply[c->reply_len - 1] != '\n') {
        cluster_turn(c, 1000);
    }
    c->reply[c->reply_len - 1] = '\0';
    return strncmp(c->reply, "ok ", 3) == 0 ? c->reply + 3 : NULL;
}

#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
static const char *cluster_do(cluster *c, const char *format, ...)
{
    char line[200];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    const char *answer = cluster_try(c, line);
    if (answer == NULL) {
        FAIL("%s: %s", line, c->reply);
        return "";
    }
    return answer;
}

/* ---- changes, faults and the truth ----------------------------------------------------------- */

/* The anchors' next version; then a pause, so that no change is held back as one of a burst. */
static void cluster_change(cluster *c)
{
    if (c->version >= CLUSTER_MAX_CHANGES) {
        FAIL("more changes than there is room for");
        return;
    }
    c->wanted_version = ++c->version;
    const char *at_us = cluster_do(c, "put %s %u", c->service, c->version);
    c->change_us[c->version - 1] = (uint64_t)strtoull(at_us, NULL, 10);
    cluster_run(c, CLUSTER_SPACING_MS);
}

static void cluster_changes(cluster *c, unsigned num)
{
    for (unsigned i = 0; i < num; i++) {
        cluster_change(c);
    }
}

/* From now on the instances of an agent may be critical, truly. */
static void cluster_begin_fault(cluster *c, const char *agent)
{
    for (size_t i = 0; i < CLUSTER_NUM_THINGS; i++) {
        if (strcmp(c->things[i].agent, agent) == 0) {
            c->things[i].statuses |= CLUSTER_BIT_CRITICAL;
            c->things[i].may_hide = true;
        }
    }
    c->fault_us = cluster_now_us();
}

/* Something that the program says while the agent of its registration is away, and that has to
   arrive when it is back. Without a TTL check there is only maintenance. */
static void cluster_say_meanwhile(cluster *c, const char *agent)
{
    for (size_t i = 0; i < CLUSTER_NUM_KEEPERS; i++) {
        cluster_thing *thing = &c->things[CLUSTER_KEEPER + i];
        if (strcmp(thing->agent, agent) != 0) {
            continue;
        }
        thing->statuses |= CLUSTER_BIT_WARNING | CLUSTER_BIT_MAINTENANCE;
        thing->may_hide = true;
        if (strcmp(agent, "s2") == 0) {
            thing->wanted = "maintenance";
            CHECK_ERR(sdc_registrar_set_maintenance(c->keepers[i], true, "meanwhile"), SDC_OK);
        } else {
            thing->wanted = "warning";
            CHECK_ERR(sdc_registrar_set_status(c->keepers[i], NULL, SDC_STATUS_WARNING, "slow"),
                      SDC_OK);
        }
    }
}

/* Whether the truth has all that is permanent, as it is wanted. */
static bool cluster_is_wanted(const cluster *c, const char *truth)
{
    for (size_t i = 0; i < CLUSTER_NUM_THINGS; i++) {
        char part[64];
        snprintf(part, sizeof part, "%s@", c->things[i].id);
        const char *at = strstr(truth, part);
        if (!c->things[i].is_permanent || c->things[i].wanted == NULL) {
            continue;
        }
        snprintf(part, sizeof part, "=%s[v%u]", c->things[i].wanted,
                 c->things[i].id[0] == 'a' ? c->wanted_version : 1);
        size_t len = at != NULL ? strcspn(at, "; ") : 0;
        if (len < strlen(part) || strncmp(at + len - strlen(part), part, strlen(part)) != 0) {
            return false;
        }
    }
    return true;
}

/* The watch whose list is not the truth (all of it, and the part that passes); NULL: none. */
static const cluster_watch *cluster_differs(const cluster *c, const char *all, const char *passing)
{
    for (size_t i = 0; i < CLUSTER_NUM_WATCHES; i++) {
        const cluster_watch *w = &c->watches[i];
        if (!w->is_known || w->err != SDC_OK ||
            strcmp(w->list, w->desc->passing_only ? passing : all) != 0) {
            return w;
        }
    }
    return NULL;
}

/* Until the registrations are what they should be and all eight lists are what the leader says. */
static bool cluster_converges(cluster *c)
{
    uint64_t begin_us = cluster_now_us();
    char truth[4000] = "";
    const cluster_watch *differs = NULL;
    while (cluster_now_us() < begin_us + CLUSTER_BOUND_MS * 1000u && test_num_failures() == 0) {
        char line[64];
        snprintf(line, sizeof line, "truth %s", c->service);
        const char *answer = cluster_try(c, line);
        if (answer != NULL) {
            snprintf(truth, sizeof truth, "%s", answer);
            char *passing = strchr(truth, ' ');
            *passing++ = '\0';
            bool is_wanted = cluster_is_wanted(c, truth);
            differs = cluster_differs(c, truth, passing);
            if (is_wanted && differs == NULL) {
                return true;
            }
        }
        cluster_run(c, 50);
    }
    if (test_num_failures() > 0) {
        return false;               /* said already; a wait for more would only hide it       */
    }
    FAIL("no end after %.1f s: the truth is %s; %s has %s (%s)",
         (double)(cluster_now_us() - begin_us) / 1e6, truth,
         differs != NULL ? differs->desc->name : "the last", differs != NULL ? differs->list : "it",
         differs != NULL ? test_err_name((int)differs->err) : "");
    return false;
}

/* The fault ended at end_us: how long each watch takes until it has the truth for good. */
static bool cluster_recovers(cluster *c, uint64_t end_us)
{
    c->end_us = end_us;
    bool is_well = cluster_converges(c);
    for (size_t i = 0; i < CLUSTER_NUM_WATCHES; i++) {
        cluster_watch *w = &c->watches[i];
        w->back_us = w->at_us > end_us ? w->at_us - end_us : 0;
    }
    return is_well;
}

/* ---- times ----------------------------------------------------------------------------------- */

typedef struct cluster_times {
    double ms[CLUSTER_NUM_WATCHES * CLUSTER_MAX_CHANGES];
    size_t num;
} cluster_times;

static int cluster_compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y ? 1 : 0;
}

/* A list may be there before the change was answered, never before it was asked for. */
static void cluster_add_times(const cluster *c, const cluster_watch *w, bool in_fault,
                              cluster_times *times)
{
    for (unsigned i = c->first_change; i < c->version; i++) {
        bool is_later = c->end_us != 0 && c->change_us[i] >= c->end_us;
        if (w->seen_us[i] != 0 && c->change_us[i] != 0 && is_later != in_fault) {
            double us = (double)w->seen_us[i] - (double)c->change_us[i];
            times->ms[times->num++] = us > 0 ? us / 1000.0 : 0;
        }
    }
}

static void cluster_print_times(cluster_times *times)
{
    if (times->num == 0) {
        printf(" %21s", "-");
        return;
    }
    qsort(times->ms, times->num, sizeof times->ms[0], cluster_compare);
    printf(" %3zu %8.1f %8.1f", times->num, times->ms[times->num / 2], times->ms[times->num - 1]);
}

/* A row of the table: one watch, or all of them (NULL). */
static void cluster_print_row(const cluster *c, const cluster_watch *of)
{
    cluster_times back = { { 0 }, 0 };
    cluster_times during = { { 0 }, 0 };
    cluster_times after = { { 0 }, 0 };
    size_t num_older = 0, num_outages = 0;
    uint64_t num_requests = 0;
    for (size_t i = 0; i < CLUSTER_NUM_WATCHES; i++) {
        const cluster_watch *w = &c->watches[i];
        sdc_stats stats;
        if (of != NULL && of != w) {
            continue;
        }
        sdc_task_stats(sdc_instancer_task(w->instancer), &stats);
        num_older += w->num_older;
        num_outages += w->num_outages;
        num_requests += stats.requests;
        back.ms[back.num++] = (double)w->back_us / 1000.0;
        cluster_add_times(c, w, true, &during);
        cluster_add_times(c, w, false, &after);
    }
    qsort(back.ms, back.num, sizeof back.ms[0], cluster_compare);
    printf("  %-17s", of != NULL ? of->desc->name : "all: p50, max");
    if (of != NULL) {
        printf(" %7s %8.0f", "", back.ms[0]);
    } else {
        printf(" %7.0f %8.0f", back.ms[back.num / 2], back.ms[back.num - 1]);
    }
    cluster_print_times(&during);
    cluster_print_times(&after);
    printf(" %5zu %5zu %5llu\n", num_older, num_outages, (unsigned long long)num_requests);
}

static void cluster_report(const cluster *c, const char *what)
{
    printf("%s; %.1f s until that was over; times in ms\n", what,
           (double)(c->end_us - c->fault_us) / 1e6);
    printf("  %-17s %16s %21s %21s %5s %5s %5s\n", "", "from its end", "changes in it: p50 max",
           "after it: p50 max", "older", "fails", "reads");
    for (size_t i = 0; i < CLUSTER_NUM_WATCHES; i++) {
        cluster_print_row(c, &c->watches[i]);
    }
    cluster_print_row(c, NULL);
    fflush(stdout);
}

/* ---- the stage ------------------------------------------------------------------------------- */

/* The URL of an agent among "s1=http://... s2=...". */
static bool cluster_url(const char *agent, char *out, size_t size)
{
    char part[16];
    const char *urls = getenv("SDC_CLUSTER_URLS");
    snprintf(part, sizeof part, "%s=", agent);
    const char *at = urls != NULL ? strstr(urls, part) : NULL;
    if (at == NULL) {
        FAIL("no agent %s in \"%s\"", agent, urls != NULL ? urls : "");
        return false;
    }
    at += strlen(part);
    snprintf(out, size, "%.*s", (int)strcspn(at, " "), at);
    return true;
}

static sdc_client *cluster_client(const char *address)
{
    sdc_client *client = NULL;
    sdc_client_desc desc;
    sdc_error error;
    memset(&desc, 0, sizeof desc);
    desc.address = address;
    desc.ignore_environment = true;
    if (sdc_client_create(&desc, &client, &error) != SDC_OK) {
        FAIL("sdc_client_create: %s", error.message);
    }
    return client;
}

/* All four, the leader first: so that its death makes the watch go on to the next. */
static void cluster_all_urls(const char *leader, char *out, size_t size)
{
    static const char *const names[] = { "s1", "s2", "s3", "client" };
    char url[64];
    size_t len = 0;
    if (cluster_url(leader, url, sizeof url)) {
        len += (size_t)snprintf(out, size, "%s", url);
    }
    for (size_t i = 0; i < CLUSTER_NUM(names); i++) {
        if (strcmp(names[i], leader) != 0 && cluster_url(names[i], url, sizeof url)) {
            len += (size_t)snprintf(out + len, size - len, ",%s", url);
        }
    }
}

static bool cluster_watch_begin(cluster *c, size_t nth, const char *leader)
{
    cluster_watch *w = &c->watches[nth];
    char address[400];
    sdc_instancer_desc desc;
    sdc_error error;
    w->desc = &cluster_watch_descs[nth];
    w->cluster = c;
    if (strcmp(w->desc->agents, "*") == 0) {
        cluster_all_urls(leader, address, sizeof address);
    } else if (!cluster_url(w->desc->agents, address, sizeof address)) {
        return false;
    }
    w->client = cluster_client(address);
    memset(&desc, 0, sizeof desc);
    desc.query.service = c->service;
    desc.query.passing_only = w->desc->passing_only;
    desc.query.consistency = w->desc->consistency;
    desc.query.near_node = w->desc->is_near ? "_agent" : NULL;
    if (w->client == NULL ||
        sdc_instancer_create(w->client, &desc, &w->instancer, &error) != SDC_OK) {
        FAIL("watch %s: %s", w->desc->name, w->client != NULL ? error.message : "no client");
        return false;
    }
    return CHECK_ERR(sdc_instancer_subscribe(w->instancer, cluster_on_event, w), SDC_OK);
}

static bool cluster_keeper_begin(cluster *c, size_t nth)
{
    static const char *const tag = "v1";
    const cluster_thing *thing = &c->things[CLUSTER_KEEPER + nth];
    char url[64];
    sdc_check check;
    sdc_registrar_desc desc;
    sdc_error error;
    if (!cluster_url(thing->agent, url, sizeof url)) {
        return false;
    }
    memset(&check, 0, sizeof check);
    memset(&desc, 0, sizeof desc);
    check.ttl_ms = 15000;
    desc.verify_ms = 2000;
    desc.registration.id = thing->id;
    desc.registration.name = c->service;
    desc.registration.tags = &tag;
    desc.registration.num_tags = 1;
    desc.registration.address = "10.88.3.1";
    desc.registration.port = thing->port;
    desc.registration.checks = &check;
    desc.registration.num_checks = strcmp(thing->agent, "s2") != 0 ? 1 : 0;
    c->keeper_clients[nth] = cluster_client(url);
    if (c->keeper_clients[nth] == NULL ||
        sdc_registrar_create(c->keeper_clients[nth], &desc, &c->keepers[nth], &error) != SDC_OK) {
        FAIL("%s: %s", thing->id, c->keeper_clients[nth] != NULL ? error.message : "no client");
        return false;
    }
    return true;
}

/* Everything up, and each list the truth. False: failed, or there is no cluster. */
static bool cluster_begin(cluster *c, const char *service)
{
    char leader[16];
    const char *fd = getenv("SDC_CLUSTER_FD");
    memset(c, 0, sizeof *c);
    if (fd == NULL) {
        test_skip("no cluster; tests/consul/cluster.py starts one");
        return false;
    }
    c->fd = atoi(fd);
    c->begin_us = cluster_now_us();
    snprintf(c->service, sizeof c->service, "%s", service);
    memcpy(c->things, cluster_things, sizeof c->things);
    snprintf(leader, sizeof leader, "%s", cluster_do(c, "whole"));
    cluster_change(c);
    bool is_well = leader[0] != '\0';
    for (size_t i = 0; is_well && i < CLUSTER_NUM_WATCHES; i++) {
        is_well = cluster_watch_begin(c, i, leader);
    }
    for (size_t i = 0; is_well && i < CLUSTER_NUM_KEEPERS; i++) {
        is_well = cluster_keeper_begin(c, i);
    }
    is_well = is_well && cluster_converges(c);
    c->is_set_up = true;
    c->first_change = c->version;
    return is_well;
}

/* What a watch may ask for: the bucket's three, and then one each 500 ms. */
static void cluster_check_requests(const cluster *c)
{
    uint64_t ms = (cluster_now_us() - c->begin_us) / 1000;
    for (size_t i = 0; i < CLUSTER_NUM_WATCHES; i++) {
        sdc_stats stats;
        sdc_task_stats(sdc_instancer_task(c->watches[i].instancer), &stats);
        if (stats.requests > 3 + ms / 500) {
            FAIL("%s: %llu requests in %llu ms", c->watches[i].desc->name,
                 (unsigned long long)stats.requests, (unsigned long long)ms);
        }
    }
}

/* A change is heard of soon, by all that do not depend on the agent that is away; `agent` NULL is
   none. After the fault it is heard of by all. */
static void cluster_check_heard(const cluster *c, const char *agent)
{
    for (size_t i = 0; i < CLUSTER_NUM_WATCHES; i++) {
        const cluster_watch *w = &c->watches[i];
        for (unsigned k = c->first_change; k < c->version; k++) {
            bool is_away = agent != NULL && strcmp(w->desc->agents, agent) == 0 &&
                           c->change_us[k] < c->end_us;
            if (!is_away && (w->seen_us[k] == 0 ||
                             w->seen_us[k] > c->change_us[k] + CLUSTER_HEARD_MS * 1000u)) {
                FAIL("%s: v%u was heard of after %.1f s", w->desc->name, k + 1,
                     ((double)w->seen_us[k] - (double)c->change_us[k]) / 1e6);
            }
        }
    }
}

/* The registrars stop, and what they kept is gone from the truth and all lists. */
static void cluster_stop_keepers(cluster *c)
{
    uint64_t until_us = cluster_now_us() + 5000000;
    c->is_set_up = false;
    for (size_t i = 0; i < CLUSTER_NUM_KEEPERS; i++) {
        c->things[CLUSTER_KEEPER + i].is_permanent = false;
        CHECK(sdc_registrar_is_registered(c->keepers[i]));
        sdc_stop(sdc_registrar_task(c->keepers[i]));
    }
    size_t num_stopped = 0;
    while (num_stopped < CLUSTER_NUM_KEEPERS && cluster_now_us() < until_us) {
        cluster_turn(c, 50);
        num_stopped = 0;
        for (size_t i = 0; i < CLUSTER_NUM_KEEPERS; i++) {
            num_stopped += sdc_step(sdc_registrar_task(c->keepers[i]), 0) == SDC_STOPPED ? 1 : 0;
        }
    }
    CHECK_INT(num_stopped, CLUSTER_NUM_KEEPERS);
    for (size_t i = 0; i < CLUSTER_NUM_KEEPERS; i++) {
        char id[32];
        snprintf(id, sizeof id, "%s@", c->things[CLUSTER_KEEPER + i].id);
        CHECK_HASNT(cluster_do(c, "truth %s", c->service), id);
    }
    CHECK(cluster_converges(c));
}

static void cluster_end(cluster *c, const char *what, const char *agent)
{
    if (test_num_failures() == 0) {
        cluster_report(c, what);
        cluster_check_heard(c, agent);
        cluster_check_requests(c);
        cluster_stop_keepers(c);
    }
    for (size_t i = 0; i < CLUSTER_NUM_KEEPERS; i++) {
        sdc_registrar_destroy(c->keepers[i]);
        sdc_client_destroy(c->keeper_clients[i]);
    }
    for (size_t i = 0; i < CLUSTER_NUM_WATCHES; i++) {
        sdc_instancer_destroy(c->watches[i].instancer);
        sdc_client_destroy(c->watches[i].client);
    }
}

/* ---- the tests ------------------------------------------------------------------------------- */

static void cluster_guest_comes(cluster *c)
{
    cluster_do(c, "register client %s guest 8201", c->service);
    cluster_run(c, CLUSTER_SPACING_MS);
}

static void cluster_guest_is(cluster *c, const char *status)
{
    cluster_do(c, "status client guest %s", status);
    cluster_run(c, CLUSTER_SPACING_MS);
}

static void cluster_guest_goes(cluster *c)
{
    cluster_do(c, "deregister client guest");
    cluster_run(c, CLUSTER_SPACING_MS);
}

static void cluster_calm(void)
{
    cluster c;
    if (cluster_begin(&c, "calm")) {
        c.fault_us = cluster_now_us();
        CHECK(cluster_recovers(&c, c.fault_us));
        cluster_guest_comes(&c);
        cluster_changes(&c, 3);
        cluster_guest_is(&c, "warning");
        cluster_changes(&c, 3);
        cluster_guest_goes(&c);
        CHECK(cluster_converges(&c));
        cluster_end(&c, "nothing", NULL);
    }
}

/* An agent dies by SIGKILL, and is started again with its data after some changes. */
static void cluster_lose(cluster *c, const char *agent, const char *what)
{
    cluster_guest_comes(c);
    cluster_change(c);
    cluster_begin_fault(c, agent);
    cluster_do(c, "kill %s", agent);
    cluster_say_meanwhile(c, agent);
    cluster_changes(c, 3);
    cluster_guest_is(c, "critical");
    cluster_changes(c, 3);
    cluster_guest_is(c, "passing");
    cluster_changes(c, 2);
    cluster_do(c, "up %s", agent);
    CHECK(cluster_recovers(c, cluster_now_us()));
    cluster_changes(c, 2);
    cluster_guest_goes(c);
    cluster_changes(c, 2);
    CHECK(cluster_converges(c));
    cluster_end(c, what, agent);
}

static void cluster_leader_killed(void)
{
    cluster c;
    if (cluster_begin(&c, "leader-killed")) {
        char what[64], leader[16];
        snprintf(leader, sizeof leader, "%s", cluster_do(&c, "leader"));
        snprintf(what, sizeof what, "the leader (%s) killed", leader);
        cluster_lose(&c, leader, what);
    }
}

static void cluster_follower_killed(void)
{
    cluster c;
    if (cluster_begin(&c, "follower-killed")) {
        char what[64];
        const char *follower = strcmp(cluster_do(&c, "leader"), "s2") == 0 ? "s1" : "s2";
        snprintf(what, sizeof what, "a follower (%s) killed", follower);
        cluster_lose(&c, follower, what);
    }
}

/* The client agent is alive and alone: its node turns critical for the others, and it knows nothing
   of what they do. */
static void cluster_client_cut_off(void)
{
    cluster c;
    const char *can_cut = getenv("SDC_CLUSTER_CUT");
    if (can_cut == NULL || can_cut[0] == '\0') {
        SKIP("no network namespace of its own here, so no cut");
    }
    if (cluster_begin(&c, "client-cut-off")) {
        cluster_guest_comes(&c);
        cluster_change(&c);
        cluster_begin_fault(&c, "client");
        cluster_do(&c, "cut");
        cluster_changes(&c, 4);
        cluster_guest_is(&c, "warning");
        cluster_say_meanwhile(&c, "client");
        cluster_changes(&c, 10);
        CHECK_HAS(cluster_do(&c, "truth %s", c.service), "guest@client=critical[v1]");
        cluster_do(&c, "join");
        CHECK(cluster_recovers(&c, cluster_now_us()));
        cluster_changes(&c, 2);
        cluster_guest_goes(&c);
        cluster_changes(&c, 2);
        CHECK(cluster_converges(&c));
        cluster_end(&c, "the client agent cut off", "client");
    }
}

/* Consul ends a query that waits when its store is replaced, with the old list and the old index:
   the watches that are answered so look again at once. */
static void cluster_check_near(const cluster *c)
{
    for (size_t i = 0; i < CLUSTER_NUM_WATCHES; i++) {
        if (c->watches[i].desc->is_near) {
            CHECK_BETWEEN(c->watches[i].back_us / 1000, 0, CLUSTER_HEARD_MS);
        }
    }
}

/* The servers forget what was changed after the snapshot: the index goes back, with the anchors. A
   streamed view hides that: a query with the old index is held until its wait is over, and nobody
   can know. That is the minute that is printed for those watches. */
static void cluster_snapshot_restored(void)
{
    cluster c;
    if (cluster_begin(&c, "snapshot-restored")) {
        cluster_guest_comes(&c);
        cluster_do(&c, "entry %s early 8302", c.service);
        cluster_change(&c);
        CHECK(cluster_converges(&c));
        c.fault_us = cluster_now_us();
        cluster_do(&c, "save");
        unsigned saved = c.version;
        cluster_do(&c, "entry %s late 8301", c.service);
        cluster_changes(&c, 4);
        cluster_do(&c, "forget %s early", c.service);
        cluster_changes(&c, 4);
        /* full reads that nobody has ordered come 10 s after the last one */
        cluster_run(&c, 2000);
        CHECK(cluster_converges(&c));
        cluster_do(&c, "restore");
        uint64_t end_us = cluster_now_us();
        const char *truth = cluster_do(&c, "truth %s", c.service);
        CHECK_HAS(truth, "early@");
        CHECK_HASNT(truth, "late@");
        c.wanted_version = saved;
        CHECK(cluster_recovers(&c, end_us));
        cluster_check_near(&c);
        cluster_changes(&c, 2);
        cluster_guest_goes(&c);
        cluster_do(&c, "forget %s early", c.service);
        cluster_changes(&c, 2);
        CHECK(cluster_converges(&c));
        cluster_end(&c, "a snapshot restored", NULL);
    }
}

static const test_case cases_cluster[] = {
    TEST(cluster_calm),
    TEST(cluster_leader_killed),
    TEST(cluster_follower_killed),
    TEST(cluster_client_cut_off),
    TEST(cluster_snapshot_restored)
};

TEST_MAIN(GROUP(cases_cluster))
