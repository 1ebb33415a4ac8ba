/* The library's side of the fault test and of the soak: watches and registrars that are made by
   commands on stdin, stepped by an ordinary poll loop on one thread, and say on stdout what they
   publish. faults.py starts it behind its fault proxy, changes what is registered, and judges.

   faults URL          of the agent, or of what stands before it

   Commands, one a line, words parted by spaces; names are the caller's own:
     watch NAME SERVICE [passing]                  register NAME SERVICE ID ADDRESS PORT TTL_MS
     unwatch NAME                                  leave NAME (deregisters, then is gone)
     status NAME passing|warning|critical TEXT     maintenance NAME on|off
     states            an event line for each watch, as sdc_instancer_state has it
     stats             memory, descriptors and counters; see faults_say_stats
     quit              destroys all; so does the end of stdin
   Each command is answered by a line "done" after what it says; "done COMMAND: why" if it failed.
   An event is "event NAME ERR KNOWN" and then for each instance "ID ADDR STATUS TAG,TAG", with tabs
   before each; one that answers `states` begins with "state". "left NAME" follows a leave. */
#include "../../sdconsul.h"
#include "wants.h"

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FAULTS_TASKS_MAX = 32, FAULTS_WORDS_MAX = 8, FAULTS_LINE_MAX = 1024 };

/* Short, so that hundreds of rounds take minutes: what is tried is that each of them ends. */
enum {
    FAULTS_WAIT_MS = 2000, FAULTS_REQUEST_MS = 2000, FAULTS_CONNECT_MS = 1000,
    FAULTS_BACKOFF_MS = 1000, FAULTS_VERIFY_MS = 1000
};

/* ---- memory, counted ------------------------------------------------------------------------- */

typedef struct faults_memory {
    size_t   live_bytes, live_blocks;
    uint64_t num_calls;             /* allocations and resizes                                */
} faults_memory;

/* One thread steps everything: no lock. */
static void *faults_resize(void *user, void *ptr, size_t old_size, size_t new_size)
{
    faults_memory *memory = (faults_memory *)user;
    if (new_size == 0) {
        free(ptr);
        memory->live_bytes -= old_size;
        memory->live_blocks -= ptr != NULL ? 1 : 0;
        return NULL;
    }
    void *result = realloc(ptr, new_size);
    if (result != NULL) {
        memory->num_calls++;
        memory->live_bytes += new_size - old_size;
        memory->live_blocks += ptr == NULL ? 1 : 0;
    }
    return result;
}

/* ---- the tasks ------------------------------------------------------------------------------- */

typedef struct faults_one {
    char           name[32];        /* "" is a free place                                     */
    sdc_instancer *instancer;       /* either this                                            */
    sdc_registrar *registrar;       /* or that                                                */
} faults_one;

typedef struct faults_world {
    faults_memory memory;
    sdc_client   *client;
    faults_one    ones[FAULTS_TASKS_MAX];
    sdc_stats     gone;             /* counters of the tasks that are no more                 */
    char          line[FAULTS_LINE_MAX];
    size_t        line_len;
    bool          is_over;
} faults_world;

static sdc_task *faults_task(const faults_one *one)
{
    return one->instancer != NULL ? sdc_instancer_task(one->instancer)
                                  : sdc_registrar_task(one->registrar);
}

static void faults_add_stats(sdc_stats *sum, sdc_task *task)
{
    sdc_stats stats;
    sdc_task_stats(task, &stats);
    sum->requests += stats.requests;
    sum->answers += stats.answers;
    sum->failures += stats.failures;
    sum->changes += stats.changes;
    sum->connects += stats.connects;
    sum->registrations += stats.registrations;
    sum->heartbeats += stats.heartbeats;
}

static void faults_remove(faults_world *w, faults_one *one)
{
    faults_add_stats(&w->gone, faults_task(one));
    sdc_instancer_destroy(one->instancer);
    sdc_registrar_destroy(one->registrar);
    memset(one, 0, sizeof *one);
}

/* The name "" finds a free place. NULL: none. */
static faults_one *faults_find(faults_world *w, const char *name)
{
    for (size_t i = 0; i < FAULTS_TASKS_MAX; i++) {
        if (strcmp(w->ones[i].name, name) == 0) {
            return &w->ones[i];
        }
    }
    return NULL;
}

/* ---- what is said ---------------------------------------------------------------------------- */

static void faults_say_event(const char *word, const char *name, const sdc_event *event)
{
    printf("%s\t%s\t%d\t%d", word, name, (int)event->err, event->is_known ? 1 : 0);
    for (size_t i = 0; i < event->num_instances; i++) {
        const sdc_instance *one = &event->instances[i];
        printf("\t%s %s %s ", one->id, one->addr, sdc_status_str(one->status));
        for (size_t k = 0; k < one->num_tags; k++) {
            printf("%s%s", k > 0 ? "," : "", one->tags[k]);
        }
    }
    printf("\n");
}

static void faults_on_event(void *user, const sdc_event *event, const sdc_change *change)
{
    (void)change;
    faults_say_event("event", ((faults_one *)user)->name, event);
}

static void faults_say_states(faults_world *w)
{
    for (size_t i = 0; i < FAULTS_TASKS_MAX; i++) {
        if (w->ones[i].instancer != NULL) {
            const sdc_event *event = sdc_instancer_state(w->ones[i].instancer);
            faults_say_event("state", w->ones[i].name, event);
            sdc_event_release(event);
        }
    }
}

/* `name` of /proc/self/status, in KiB. 0 where the system has no such thing. */
static unsigned long faults_proc_kib(const char *name)
{
    char line[256];
    size_t len = strlen(name);
    unsigned long kib = 0;
    FILE *file = fopen("/proc/self/status", "r");
    while (file != NULL && kib == 0 && fgets(line, sizeof line, file) != NULL) {
        if (strncmp(line, name, len) == 0 && line[len] == ':') {
            kib = strtoul(line + len + 1, NULL, 10);
        }
    }
    if (file != NULL) {
        fclose(file);
    }
    return kib;
}

/* Without the one that counts them. */
static size_t faults_num_descriptors(void)
{
    size_t num = 0;
    DIR *dir = opendir("/proc/self/fd");
    while (dir != NULL && readdir(dir) != NULL) {
        num++;
    }
    if (dir != NULL) {
        closedir(dir);
    }
    return num > 3 ? num - 3 : 0;
}

typedef struct faults_sums {
    sdc_stats stats;
    size_t    num_tasks, num_connected, num_registered;
} faults_sums;

static void faults_sum_up(const faults_world *w, faults_sums *sums)
{
    memset(sums, 0, sizeof *sums);
    sums->stats = w->gone;
    for (size_t i = 0; i < FAULTS_TASKS_MAX; i++) {
        const faults_one *one = &w->ones[i];
        if (one->name[0] == '\0') {
            continue;
        }
        faults_add_stats(&sums->stats, faults_task(one));
        sums->num_tasks++;
        sums->num_connected += sdc_task_wants(faults_task(one)).fd >= 0 ? 1 : 0;
        if (one->registrar != NULL && sdc_registrar_is_registered(one->registrar)) {
            sums->num_registered++;
        }
    }
}

static void faults_say_number(const char *name, uint64_t number)
{
    printf("\t%s=%llu", name, (unsigned long long)number);
}

static void faults_say_stats(const faults_world *w)
{
    faults_sums sums;
    faults_sum_up(w, &sums);
    printf("stats");
    faults_say_number("rss_kib", faults_proc_kib("VmRSS"));
    faults_say_number("anon_kib", faults_proc_kib("RssAnon"));
    faults_say_number("descriptors", faults_num_descriptors());
    faults_say_number("live_bytes", w->memory.live_bytes);
    faults_say_number("live_blocks", w->memory.live_blocks);
    faults_say_number("allocations", w->memory.num_calls);
    faults_say_number("requests", sums.stats.requests);
    faults_say_number("failures", sums.stats.failures);
    faults_say_number("changes", sums.stats.changes);
    faults_say_number("connects", sums.stats.connects);
    faults_say_number("registrations", sums.stats.registrations);
    faults_say_number("heartbeats", sums.stats.heartbeats);
    faults_say_number("tasks", sums.num_tasks);
    faults_say_number("connected", sums.num_connected);
    faults_say_number("registered", sums.num_registered);
    printf("\n");
}

/* ---- commands -------------------------------------------------------------------------------- */

static sdc_err faults_watch(faults_world *w, char **words, size_t num, sdc_error *error)
{
    sdc_instancer_desc desc;
    faults_one *one = faults_find(w, "");
    if (one == NULL || num < 3) {
        return SDC_ERR_ARG;
    }
    memset(&desc, 0, sizeof desc);
    desc.query.service = words[2];
    desc.query.passing_only = num > 3;
    desc.query.wait_ms = FAULTS_WAIT_MS;
    desc.backoff_max_ms = FAULTS_BACKOFF_MS;
    sdc_err err = sdc_instancer_create(w->client, &desc, &one->instancer, error);
    if (err != SDC_OK) {
        return err;
    }
    snprintf(one->name, sizeof one->name, "%s", words[1]);
    return sdc_instancer_subscribe(one->instancer, faults_on_event, one);
}

static sdc_err faults_register(faults_world *w, char **words, size_t num, sdc_error *error)
{
    sdc_check check;
    sdc_registrar_desc desc;
    faults_one *one = faults_find(w, "");
    if (one == NULL || num < 7) {
        return SDC_ERR_ARG;
    }
    memset(&check, 0, sizeof check);
    memset(&desc, 0, sizeof desc);
    check.ttl_ms = (uint32_t)strtoul(words[6], NULL, 10);
    desc.registration.name = words[2];
    desc.registration.id = words[3];
    desc.registration.address = words[4];
    desc.registration.port = (uint16_t)strtoul(words[5], NULL, 10);
    desc.registration.checks = &check;
    desc.registration.num_checks = check.ttl_ms != 0 ? 1 : 0;
    desc.verify_ms = FAULTS_VERIFY_MS;
    sdc_err err = sdc_registrar_create(w->client, &desc, &one->registrar, error);
    if (err == SDC_OK) {
        snprintf(one->name, sizeof one->name, "%s", words[1]);
    }
    return err;
}

static sdc_status faults_status(const char *word)
{
    return strcmp(word, "passing") == 0 ? SDC_STATUS_PASSING
         : strcmp(word, "warning") == 0 ? SDC_STATUS_WARNING : SDC_STATUS_CRITICAL;
}

/* Commands about one task that is there. */
static sdc_err faults_obey_one(faults_world *w, faults_one *one, char **words, size_t num)
{
    if (strcmp(words[0], "unwatch") == 0 && one->instancer != NULL) {
        faults_remove(w, one);
        return SDC_OK;
    }
    if (one->registrar == NULL) {
        return SDC_ERR_ARG;
    }
    if (strcmp(words[0], "leave") == 0) {
        sdc_stop(sdc_registrar_task(one->registrar));
        return SDC_OK;
    }
    if (strcmp(words[0], "status") == 0 && num > 3) {
        return sdc_registrar_set_status(one->registrar, NULL, faults_status(words[2]), words[3]);
    }
    if (strcmp(words[0], "maintenance") == 0 && num > 2) {
        return sdc_registrar_set_maintenance(one->registrar, strcmp(words[2], "on") == 0, "test");
    }
    return SDC_ERR_ARG;
}

static sdc_err faults_obey(faults_world *w, char **words, size_t num, sdc_error *error)
{
    if (strcmp(words[0], "watch") == 0) {
        return faults_watch(w, words, num, error);
    }
    if (strcmp(words[0], "register") == 0) {
        return faults_register(w, words, num, error);
    }
    if (strcmp(words[0], "states") == 0) {
        faults_say_states(w);
        return SDC_OK;
    }
    if (strcmp(words[0], "stats") == 0) {
        faults_say_stats(w);
        return SDC_OK;
    }
    if (strcmp(words[0], "quit") == 0) {
        w->is_over = true;
        return SDC_OK;
    }
    faults_one *one = num > 1 ? faults_find(w, words[1]) : NULL;
    return one != NULL ? faults_obey_one(w, one, words, num) : SDC_ERR_ARG;
}

static void faults_obey_line(faults_world *w, char *line)
{
    char *words[FAULTS_WORDS_MAX];
    size_t num = 0;
    sdc_error error;
    memset(&error, 0, sizeof error);
    for (char *at = strtok(line, " "); at != NULL && num < FAULTS_WORDS_MAX;
         at = strtok(NULL, " ")) {
        words[num++] = at;
    }
    if (num == 0) {
        return;
    }
    sdc_err err = faults_obey(w, words, num, &error);
    if (err == SDC_OK) {
        printf("done\n");
    } else {
        printf("done\t%s: %s %s\n", words[0], sdc_err_str(err), error.message);
    }
}

static void faults_read_commands(faults_world *w)
{
    ssize_t num = read(STDIN_FILENO, w->line + w->line_len, sizeof w->line - 1 - w->line_len);
    if (num < 0 && errno == EINTR) {
        return;
    }
    w->is_over = w->is_over || num <= 0;
    w->line_len += num > 0 ? (size_t)num : 0;
    w->line[w->line_len] = '\0';
    for (char *end = strchr(w->line, '\n'); end != NULL; end = strchr(w->line, '\n')) {
        *end = '\0';
        faults_obey_line(w, w->line);
        w->line_len -= (size_t)(end + 1 - w->line);
        memmove(w->line, end + 1, w->line_len + 1);
    }
}

/* ---- the loop -------------------------------------------------------------------------------- */

static void faults_step(faults_world *w, faults_one *one)
{
    sdc_err err = sdc_step(faults_task(one), 0);
    if (err == SDC_STOPPED) {
        printf("left\t%s\n", one->name);
        faults_remove(w, one);
    }
}

static void faults_turn(faults_world *w)
{
    struct pollfd fds[FAULTS_TASKS_MAX + 1] = { { STDIN_FILENO, POLLIN, 0 } };
    nfds_t num = 1;
    int timeout_ms = 1000;
    for (size_t i = 0; i < FAULTS_TASKS_MAX; i++) {
        if (w->ones[i].name[0] != '\0') {
            faults_step(w, &w->ones[i]);
        }
        if (w->ones[i].name[0] == '\0') {
            continue;
        }
        wants_add(sdc_task_wants(faults_task(&w->ones[i])), fds, &num, &timeout_ms);
    }
    fflush(stdout);
    if (poll(fds, num, timeout_ms) > 0 && fds[0].revents != 0) {
        faults_read_commands(w);
    }
}

int main(int argc, char **argv)
{
    static faults_world w;
    sdc_allocator allocator = { &w.memory, faults_resize };
    sdc_client_desc desc;
    sdc_error error;
    if (argc != 2) {
        fprintf(stderr, "usage: faults URL\n");
        return 2;
    }
    memset(&desc, 0, sizeof desc);
    desc.address = argv[1];
    desc.ignore_environment = true;
    desc.connect_timeout_ms = FAULTS_CONNECT_MS;
    desc.request_timeout_ms = FAULTS_REQUEST_MS;
    desc.allocator = &allocator;
    if (sdc_client_create(&desc, &w.client, &error) != SDC_OK) {
        fprintf(stderr, "faults: %s\n", error.message);
        return 2;
    }
    while (!w.is_over) {
        faults_turn(&w);
    }
    for (size_t i = 0; i < FAULTS_TASKS_MAX; i++) {
        if (w.ones[i].name[0] != '\0') {
            faults_remove(&w, &w.ones[i]);
        }
    }
    sdc_client_destroy(w.client);
    if (w.memory.live_blocks != 0 || w.memory.live_bytes != 0) {
        fprintf(stderr, "faults: %zu blocks with %zu bytes are left\n", w.memory.live_blocks,
                w.memory.live_bytes);
        return 1;
    }
    return 0;
}
