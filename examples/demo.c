/* demo: the main job from end to end, in five seconds.

     make demo               with the agent of the tests, in a thread of this program
     make demo CONSUL=path   with the consul at that path, which is stopped afterwards

   Registers three instances of a service and watches it from the outside, over
   HTTP like any other program. Then the instances and the agent change, and
   each event that the watch hears is one line: when, what is there, what
   differs, and why. All on one thread. Ends with 0 if each change was heard. */
#include "sdconsul.h"

#include "../tests/agent/server.h"

#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { NUM_WEBS = 3, WATCH = NUM_WEBS, NUM_TASKS, SCENE_MS = 450, LIMIT_MS = 9000 };

typedef enum verb {
    LOOK, REGISTER, FAIL_CHECK, PASS_CHECK, MAINTENANCE_ON, MAINTENANCE_OFF, AGENT_DIES,
    AGENT_RETURNS, LEAVE
} verb;

/* What happens, and how the watch has to see it: instances, how many of them pass, and whether the
   agent answers. */
typedef struct scene {
    verb verb;
    int  who;
    const char *why;
    size_t num_instances, num_passing;
    bool is_answering;
} scene;

static const scene scenes[] = {
    { LOOK,            0, "nobody there yet",       0, 0, true },
    { REGISTER,        0, "web-1 registers",        1, 1, true },
    { REGISTER,        1, "web-2 registers",        2, 2, true },
    { REGISTER,        2, "web-3 registers",        3, 3, true },
    { FAIL_CHECK,      1, "web-2: disk full",       3, 2, true },
    { PASS_CHECK,      1, "web-2 is well again",    3, 3, true },
    { MAINTENANCE_ON,  2, "web-3: maintenance",     3, 2, true },
    { MAINTENANCE_OFF, 2, "web-3: maintenance off", 3, 3, true },
    { LEAVE,           0, "web-1 deregisters",      2, 2, true },
    { AGENT_DIES,      0, "the agent dies",         2, 2, false },
    { AGENT_RETURNS,   0, "the agent is back",      2, 2, true },
};
enum { NUM_SCENES = sizeof scenes / sizeof scenes[0] };

static const char *const status_names[] = { "?", "passing", "warning", "critical", "maintenance" };

static struct {
    sdc_client *client;
    sdc_instancer *watch;
    sdc_registrar *webs[NUM_WEBS];
    sdc_task *tasks[NUM_TASKS];
    bool is_running[NUM_TASKS];
    agent *agent;                   /* NULL: a real one */
    agent_server *server;
    double begin_s, scene_s;        /* of the whole, of the current scene */
    const scene *scene;
    bool is_heard;                  /* the watch has seen the scene */
    size_t num_events, num_changes[3];
    double slowest_s;
} demo;

static double now_s(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* ---- what is printed ---- */

static const char *colour(const char *code)
{
    static int is_terminal = -1;

    if (is_terminal < 0) {
        is_terminal = isatty(STDOUT_FILENO) && getenv("NO_COLOR") == NULL;
    }
    return is_terminal ? code : "";
}

typedef struct line { char text[256]; size_t len; } line;

static void add(line *l, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    int n = vsnprintf(l->text + l->len, sizeof l->text - l->len, format, args);
    va_end(args);
    l->len += n > 0 ? (size_t)n : 0;
    l->len = l->len < sizeof l->text ? l->len : sizeof l->text - 1;
}

static void add_instances(line *l, char mark, const sdc_instance *const *list, size_t num)
{
    for (size_t i = 0; i < num; i++) {
        const char *status = mark == '~' ? status_names[list[i]->status] : "";
        add(l, "%s%c %s%s%s", l->len > 0 ? ", " : "", mark, list[i]->addr, status[0] ? " " : "",
            status);
    }
}

static void print_event(const sdc_event *event, const sdc_change *change, const char *why)
{
    line what = { "", 0 }, count = { "", 0 };
    const char *tint = change->num_removed > 0 ? "\033[31m" : change->num_added > 0 ? "\033[32m"
                     : change->num_updated > 0 ? "\033[33m" : "\033[36m";

    add_instances(&what, '+', change->added, change->num_added);
    add_instances(&what, '-', change->removed, change->num_removed);
    add_instances(&what, '~', change->updated, change->num_updated);
    if (event->err != SDC_OK) {
        add(&what, "! %s", sdc_err_str(event->err));
        tint = "\033[31m";
    } else if (what.len == 0) {
        add(&what, event->num_instances > 0 ? "= all as before" : "none");
    }
    add(&count, "%zu instance%s", event->num_instances, event->num_instances == 1 ? "" : "s");
    printf("%s+%.2f s%s  web: %-11s  %s[%s]%s%*s  %s\n", colour("\033[2m"), now_s() - demo.begin_s,
           colour("\033[m"), count.text, colour(tint), what.text, colour("\033[m"),
           why[0] != '\0' && what.len < 28 ? (int)(28 - what.len) : 0, "", why);
    fflush(stdout);
}

/* ---- the story ---- */

static bool is_as_expected(const sdc_event *event)
{
    size_t num_passing = 0;

    for (size_t i = 0; i < event->num_instances; i++) {
        num_passing += event->instances[i].status == SDC_STATUS_PASSING;
    }
    return event->num_instances == demo.scene->num_instances &&
           num_passing == demo.scene->num_passing && event->is_known &&
           (event->err == SDC_OK) == demo.scene->is_answering;
}

static void on_event(void *user, const sdc_event *event, const sdc_change *change)
{
    double took_s = now_s() - demo.scene_s;

    (void)user;
    if (event->err == SDC_AGAIN) {
        return;                     /* the state before the first answer */
    }
    bool is_news = !demo.is_heard && is_as_expected(event);
    print_event(event, change, is_news ? demo.scene->why : "");
    demo.is_heard = demo.is_heard || is_news;
    demo.num_events++;
    demo.num_changes[0] += change->num_added;
    demo.num_changes[1] += change->num_removed;
    demo.num_changes[2] += change->num_updated;
    if (is_news && demo.scene->verb != AGENT_RETURNS && took_s > demo.slowest_s) {
        demo.slowest_s = took_s;    /* a return is noticed by trying again, which takes its time */
    }
}

static void set_status(sdc_registrar *web, sdc_status status, const char *output)
{
    (void)sdc_registrar_set_status(web, NULL, status, output);
}

static void act(const scene *now)
{
    sdc_registrar *web = demo.webs[now->who];

    switch (now->verb) {
    case LOOK:            demo.is_running[WATCH] = true;                                     break;
    case REGISTER:        demo.is_running[now->who] = true;                                break;
    case FAIL_CHECK:      set_status(web, SDC_STATUS_CRITICAL, "disk full");                 break;
    case PASS_CHECK:      set_status(web, SDC_STATUS_PASSING, "fine");                       break;
    case MAINTENANCE_ON:  sdc_registrar_set_maintenance(web, true, "update");                break;
    case MAINTENANCE_OFF: sdc_registrar_set_maintenance(web, false, NULL);                   break;
    case AGENT_DIES:      agent_server_pause(demo.server);                                   break;
    case AGENT_RETURNS:   agent_server_resume(demo.server);                                  break;
    case LEAVE:           sdc_stop(sdc_registrar_task(web));                                 break;
    }
}

static void begin_scene(const scene *now)
{
    demo.scene = now;
    demo.scene_s = now_s();
    demo.is_heard = false;
    act(now);
}

/* Steps all tasks, then waits until one of them has something to do, at most `max_ms`. */
static void turn(int max_ms)
{
    struct pollfd fds[NUM_TASKS];
    nfds_t num = 0;

    for (int i = 0; i < NUM_TASKS; i++) {
        if (!demo.is_running[i]) {
            continue;
        }
        demo.is_running[i] = sdc_step(demo.tasks[i], 0) != SDC_STOPPED;
        sdc_wants wants = sdc_task_wants(demo.tasks[i]);
        fds[num].fd = wants.fd;
        fds[num++].events = (short)((wants.readable ? POLLIN : 0) | (wants.writable ? POLLOUT : 0));
        max_ms = wants.timeout_ms >= 0 && wants.timeout_ms < max_ms ? wants.timeout_ms : max_ms;
    }
    (void)poll(fds, num, max_ms);
}

/* False: a change was not heard. */
static bool play(void)
{
    for (const scene *next = scenes; next < scenes + NUM_SCENES; next++) {
        bool is_for_server = next->verb == AGENT_DIES || next->verb == AGENT_RETURNS;
        if (is_for_server && demo.server == NULL) {
            continue;
        }
        begin_scene(next);
        while (!demo.is_heard || (now_s() - demo.scene_s) * 1000 < SCENE_MS) {
            if (next->verb == LOOK && demo.num_events > 0 && !demo.is_heard) {
                printf("This agent has instances of web already.\n");
                return false;
            }
            if ((now_s() - demo.begin_s) * 1000 > LIMIT_MS) {
                printf("Not heard in time: %s.\n", next->why);
                return false;
            }
            turn(20);
        }
    }
    return true;
}

/* The rest deregisters, and the watch ends. */
static void end_all(void)
{
    bool is_any = true;

    sdc_instancer_unsubscribe(demo.watch, on_event, NULL);
    for (int i = 0; i < NUM_TASKS; i++) {
        sdc_stop(demo.tasks[i]);
    }
    while (is_any) {
        turn(20);
        is_any = false;
        for (int i = 0; i < NUM_TASKS; i++) {
            is_any = is_any || demo.is_running[i];
        }
    }
}

static void print_summary(void)
{
    sdc_stats stats;

    sdc_task_stats(demo.tasks[WATCH], &stats);
    printf("%zu events in %.1f s: %zu added, %zu removed, %zu updated. From the cause to the line "
           "%.1f ms at most.\nThe watch sent %llu requests.\n", demo.num_events,
           now_s() - demo.begin_s, demo.num_changes[0], demo.num_changes[1], demo.num_changes[2],
           demo.slowest_s * 1000, (unsigned long long)stats.requests);
}

/* ---- setting up ---- */

static bool create(const char *address, sdc_error *error)
{
    sdc_client_desc where = { 0 };
    sdc_instancer_desc watch = { 0 };
    sdc_registrar_desc keep = { 0 };
    sdc_check check = { 0 };
    char id[32], host[32];

    where.address = address;
    where.ignore_environment = true;
    watch.query.service = "web";
    check.ttl_ms = 3000;
    keep.registration.name = "web";
    keep.registration.id = id;
    keep.registration.address = host;
    keep.registration.port = 80;
    keep.registration.checks = &check;
    keep.registration.num_checks = 1;
    if (sdc_client_create(&where, &demo.client, error) != SDC_OK ||
        sdc_instancer_create(demo.client, &watch, &demo.watch, error) != SDC_OK ||
        sdc_instancer_subscribe(demo.watch, on_event, NULL) != SDC_OK) {
        return false;
    }
    demo.tasks[WATCH] = sdc_instancer_task(demo.watch);
    for (int i = 0; i < NUM_WEBS; i++) {
        (void)snprintf(id, sizeof id, "web-%d", i + 1);
        (void)snprintf(host, sizeof host, "10.0.0.%d", i + 1);
        if (sdc_registrar_create(demo.client, &keep, &demo.webs[i], error) != SDC_OK) {
            return false;
        }
        demo.tasks[i] = sdc_registrar_task(demo.webs[i]);
    }
    return true;
}

static void destroy(void)
{
    for (int i = 0; i < NUM_WEBS; i++) {
        sdc_registrar_destroy(demo.webs[i]);
    }
    sdc_instancer_destroy(demo.watch);
    sdc_client_destroy(demo.client);
    if (demo.server != NULL) {
        agent_server_stop(demo.server);
    }
    agent_destroy(demo.agent);
}

/* A real agent has just been started: it is ready when it lists itself. */
static bool wait_for_agent(sdc_error *error)
{
    sdc_instancer_desc desc = { 0 };
    sdc_instancer *instancer = NULL;

    desc.query.service = "consul";
    desc.query.passing_only = true;
    sdc_err err = sdc_instancer_create(demo.client, &desc, &instancer, error);
    if (err == SDC_OK) {
        err = sdc_instancer_wait(instancer, 1, 15000, error);
    }
    sdc_instancer_destroy(instancer);
    return err == SDC_OK;
}

int main(int argc, char **argv)
{
    char address[64];
    uint16_t port = 0;
    sdc_error error = { .message = "the embedded agent does not start" };
    bool is_good = true;

    if (argc < 2) {
        demo.agent = agent_create(&(agent_desc){ .profile = AGENT_1_22 }, agent_server_now());
        demo.server = agent_server_start(demo.agent, NULL, &port);
        (void)snprintf(address, sizeof address, "127.0.0.1:%u", (unsigned)port);
        is_good = demo.server != NULL;
    }
    is_good = is_good && create(argc < 2 ? address : argv[1], &error) &&
              (demo.server != NULL || wait_for_agent(&error));
    if (!is_good) {
        fprintf(stderr, "demo: %s\n", error.message);
        destroy();
        return 1;
    }
    printf("The agent is %s%s.\n", argc < 2 ? "embedded, at " : argv[1], argc < 2 ? address : "");
    demo.begin_s = now_s();
    bool is_whole = play();
    end_all();
    print_summary();
    destroy();
    return is_whole ? 0 : 1;
}
