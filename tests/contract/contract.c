/* The contract suite: the same cases against up to four agents, side by side.

       contract [-q] [--only PART] [embedded-1.8=URL] [embedded-1.22=URL]
                [real-1.8.7=URL] [real-1.22.7=URL] [acl-NAME=URL ...] [ctl-NAME=COMMAND ...]

   One row a case, one column an agent: ok, FAIL, or - where there is no such agent. acl-NAME is the
   same kind of agent with access control on: default deny, and the management token is
   SDC_CONSUL_TOKEN. ctl-NAME is a shell command that takes "restart" or "term" behind it; without
   one the cases that need it are left out. Embedded agents that get no URL run in this program.

       -q      prints only the rows that fail
       --only  only the cases whose name contains PART

   A case counts once: failed when any agent fails it, skipped when none could be asked. */
#include "backend.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { NUM_COLUMNS = 4, NUM_WORKERS = 16, MAX_CASES = 256 };

static const char default_token[] = "11111111-2222-3333-4444-555555555555";

typedef enum verdict { VERDICT_NONE, VERDICT_OK, VERDICT_FAIL } verdict;

typedef struct column {
    const char *name;
    bool        is_new, is_real;
    const char *url, *acl_url;
    backend     backend, acl_backend;
    char        own_urls[2][40];    /* of the agents in this program                          */
    verdict     verdicts[MAX_CASES];
    char       *why[MAX_CASES];
    size_t      next;               /* the case that the next free worker takes               */
    pthread_mutex_t lock;
} column;

static const contract_group *const groups[] = {
    &cases_register, &cases_check, &cases_health, &cases_blocking, &cases_http, &cases_acl,
    &cases_restart
};

static const contract_case *cases[MAX_CASES];
static size_t num_cases;
static const char *token = default_token;

static void run_case(column *c, size_t nth)
{
    const contract_case *k = cases[nth];
    bool is_acl = (k->flags & CASE_ACL) != 0;
    trial t = { .url = is_acl ? c->acl_url : c->url, .token = is_acl ? token : NULL,
                .is_new = c->is_new, .is_real = c->is_real,
                .backend = is_acl ? &c->acl_backend : &c->backend };
    if (t.url == NULL || ((k->flags & CASE_REAL) != 0 && !c->is_real) ||
        ((k->flags & CASE_RESTART) != 0 && !can_restart(&t)) ||
        ((k->flags & CASE_TOKENS) != 0 && !can_make_tokens(&t))) {
        return;
    }
    char name[64];
    snprintf(name, sizeof name, "ct-%lx-%zu", (unsigned long)getpid(), nth);
    trial_begin(&t, name);
    k->run(&t);
    trial_end(&t);
    c->verdicts[nth] = t.why[0] == '\0' ? VERDICT_OK : VERDICT_FAIL;
    c->why[nth] = strdup(t.why);
}

/* Cases that run one after the other, when no worker does. */
static const unsigned in_turn = CASE_ALONE | CASE_FIRST | CASE_RESTART;

static void *run_worker(void *of)
{
    column *c = (column *)of;
    for (;;) {
        pthread_mutex_lock(&c->lock);
        size_t nth = c->next;
        while (nth < num_cases && (cases[nth]->flags & in_turn) != 0) {
            nth++;
        }
        c->next = nth + 1;
        pthread_mutex_unlock(&c->lock);
        if (nth >= num_cases) {
            return NULL;
        }
        run_case(c, nth);
    }
}

static void run_flagged(column *c, unsigned flag)
{
    for (size_t i = 0; i < num_cases; i++) {
        if ((cases[i]->flags & flag) != 0) {
            run_case(c, i);
        }
    }
}

static void *run_column(void *of)
{
    column *c = (column *)of;
    pthread_t workers[NUM_WORKERS];
    size_t num_workers = 0;
    run_flagged(c, CASE_FIRST);
    while (num_workers < NUM_WORKERS &&
           pthread_create(&workers[num_workers], NULL, run_worker, c) == 0) {
        num_workers++;
    }
    if (num_workers == 0) {
        run_worker(c);
    }
    while (num_workers > 0) {
        pthread_join(workers[--num_workers], NULL);
    }
    run_flagged(c, CASE_ALONE);
    run_flagged(c, CASE_RESTART);
    return NULL;
}

/* ---- the report ----------------------------------------------------------- */

static int report_row(const column *columns, size_t nth, bool is_quiet)
{
    static const char *const words[] = { "-", "ok", "FAIL" };
    bool any[] = { false, false, false };
    for (size_t i = 0; i < NUM_COLUMNS; i++) {
        any[columns[i].verdicts[nth]] = true;
    }
    if (!is_quiet || any[VERDICT_FAIL]) {
        printf("%-56s", cases[nth]->name);
        for (size_t i = 0; i < NUM_COLUMNS; i++) {
            printf(" %-13s", words[columns[i].verdicts[nth]]);
        }
        printf("\n");
    }
    for (size_t i = 0; i < NUM_COLUMNS; i++) {
        if (columns[i].verdicts[nth] == VERDICT_FAIL) {
            printf("    %s: %s\n", columns[i].name, columns[i].why[nth]);
        }
    }
    return any[VERDICT_FAIL] ? VERDICT_FAIL : any[VERDICT_OK] ? VERDICT_OK : VERDICT_NONE;
}

static unsigned report(const column *columns, bool is_quiet)
{
    unsigned num[] = { 0, 0, 0 };
    if (!is_quiet) {
        printf("%-56s", "case");
        for (size_t i = 0; i < NUM_COLUMNS; i++) {
            printf(" %-13s", columns[i].name);
        }
        printf("\n");
    }
    for (size_t i = 0; i < num_cases; i++) {
        num[report_row(columns, i, is_quiet)]++;
    }
    printf("%u passed, %u failed, %u skipped\n", num[VERDICT_OK], num[VERDICT_FAIL],
           num[VERDICT_NONE]);
    return num[VERDICT_FAIL];
}

/* ---- set-up ---------------------------------------------------------------- */

static void take_cases(const char *only)
{
    for (size_t g = 0; g < sizeof groups / sizeof groups[0]; g++) {
        for (size_t i = 0; i < groups[g]->num_cases; i++) {
            const contract_case *k = &groups[g]->cases[i];
            if ((only == NULL || strstr(k->name, only) != NULL) && num_cases < MAX_CASES) {
                cases[num_cases++] = k;
            }
        }
    }
}

static bool take_argument(column *columns, const char *arg)
{
    bool is_acl = strncmp(arg, "acl-", 4) == 0, is_control = strncmp(arg, "ctl-", 4) == 0;
    const char *name = is_acl || is_control ? arg + 4 : arg;
    for (size_t i = 0; i < NUM_COLUMNS; i++) {
        column *c = &columns[i];
        size_t len = strlen(c->name);
        if (strncmp(name, c->name, len) == 0 && name[len] == '=') {
            *(is_control ? &c->backend.control : is_acl ? &c->acl_url : &c->url) = name + len + 1;
            return true;
        }
    }
    return false;
}

static const char *start_agent(backend *b, const agent_desc *desc, char *url, size_t max)
{
    uint16_t port = 0;
    b->core = agent_create(desc, agent_server_now());
    b->server = agent_server_start(b->core, "127.0.0.1", &port);
    if (b->server == NULL) {
        perror("contract: cannot start an embedded agent");
        return NULL;
    }
    snprintf(url, max, "http://127.0.0.1:%u", (unsigned)port);
    return url;
}

static void stop_agent(backend *b)
{
    if (b->server != NULL) {
        agent_server_stop(b->server);
    }
    if (b->core != NULL) {
        agent_destroy(b->core);
    }
}

static void start_embedded(column *c)
{
    agent_desc desc = { .profile = c->is_new ? AGENT_1_22 : AGENT_1_8 };
    if (c->url == NULL) {
        c->url = start_agent(&c->backend, &desc, c->own_urls[0], sizeof c->own_urls[0]);
    }
    desc.management_token = token;
    if (c->acl_url == NULL) {
        c->acl_url = start_agent(&c->acl_backend, &desc, c->own_urls[1], sizeof c->own_urls[1]);
    }
}

static void run_all(column *columns)
{
    pthread_t threads[NUM_COLUMNS];
    bool is_started[NUM_COLUMNS];
    for (size_t i = 0; i < NUM_COLUMNS; i++) {
        pthread_mutex_init(&columns[i].lock, NULL);
        is_started[i] = pthread_create(&threads[i], NULL, run_column, &columns[i]) == 0;
        if (!is_started[i]) {
            run_column(&columns[i]);
        }
    }
    for (size_t i = 0; i < NUM_COLUMNS; i++) {
        if (is_started[i]) {
            pthread_join(threads[i], NULL);
        }
    }
}

int main(int argc, char **argv)
{
    static column columns[NUM_COLUMNS] = {
        { .name = "embedded-1.8" }, { .name = "embedded-1.22", .is_new = true },
        { .name = "real-1.8.7", .is_real = true },
        { .name = "real-1.22.7", .is_real = true, .is_new = true }
    };
    const char *only = NULL;
    bool is_quiet = false;
    if (getenv("SDC_CONSUL_TOKEN") != NULL) {
        token = getenv("SDC_CONSUL_TOKEN");
    }
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "-q") == 0) {
            is_quiet = true;
        } else if (strcmp(argv[i], "--only") == 0 && i + 1 < argc) {
            only = argv[++i];
        } else if (!take_argument(columns, argv[i])) {
            fprintf(stderr, "contract: not understood: %s\n", argv[i]);
            return 2;
        }
    }
    take_cases(only);
    start_embedded(&columns[0]);
    start_embedded(&columns[1]);
    run_all(columns);
    unsigned num_failed = report(columns, is_quiet);
    for (size_t i = 0; i < NUM_COLUMNS; i++) {
        stop_agent(&columns[i].backend);
        stop_agent(&columns[i].acl_backend);
        for (size_t k = 0; k < num_cases; k++) {
            free(columns[i].why[k]);
        }
    }
    return num_failed > 0;
}
