/* watch: a live view of the instances of a service.

     cc -I. -o watch examples/watch.c examples/sdconsul.c
     ./watch web

   On a terminal a table that redraws in place, else a line for each change.
   Ctrl-C ends it. Names of services and the like are cleaned of what could
   steer a terminal, since they come from the network. */
#include "sdconsul.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { NUM_NEWS = 8, FRESH_MS = 4000, REDRAW_MS = 500, MAX_TAGS = 16 };

/* A change that was heard: '+' came, '-' left, '~' differs, '!' an outage, '=' its end. */
typedef struct news { char mark, clock[16], text[256]; uint64_t at_ms; } news;

static const char *const status_names[] = { "unset", "passing", "warning", "critical",
                                            "maintenance" };
static const char *const status_colours[] = { "", "32", "33", "31;1", "35" };

static const char *service;
static sdc_client *client;
static sdc_instancer *instancer;
static sdc_task *task;
static bool is_table, is_once, has_colour;
static int columns, left, lines;    /* of the screen; what the line and the screen still have */
static news all_news[NUM_NEWS];     /* a ring */
static size_t num_news;             /* that ever were */

/* ---- the table ---- */

/* Prints a text without control characters, cut and padded to `width` columns (0: as it is). */
static void cell(const char *colour, int width, const char *format, ...)
{
    char text[400];
    int used = 0, max = width > 0 && width - 1 < left ? width - 1 : left;
    va_list args;

    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    printf("%s%s%s", has_colour ? "\033[" : "", has_colour ? colour : "", has_colour ? "m" : "");
    for (const unsigned char *p = (const unsigned char *)text; *p != '\0'; p++) {
        bool is_control = *p < 0x20 || *p == 0x7F || (*p == 0xC2 && p[1] < 0xA0);
        bool is_first_byte = (*p & 0xC0) != 0x80;
        if (is_first_byte && used == max) {
            break;
        }
        used += is_first_byte;
        p += is_control && *p == 0xC2 && p[1] != '\0';
        putchar(is_control ? '?' : *p);
    }
    printf("%s", has_colour ? "\033[m" : "");
    for (; used < width && used < left; used++) {
        putchar(' ');
    }
    left -= used;
}

static void end_line(void)
{
    printf("\033[K\n");
    left = columns;
    lines--;
}

static void draw_head(const sdc_event *event, uint64_t now_ms)
{
    sdc_stats stats;
    size_t num[5] = { 0 };

    sdc_task_stats(task, &stats);
    double age_s = (double)(now_ms - stats.last_good_at_ms) / 1000;
    double failing_s = (double)(now_ms - event->failing_since_ms) / 1000;
    for (size_t i = 0; i < event->num_instances; i++) {
        num[event->instances[i].status]++;
    }
    cell("1", 0, "%s", service);
    cell("", 0, "  %zu instance%s", event->num_instances, event->num_instances == 1 ? "" : "s");
    for (int s = SDC_STATUS_PASSING; s <= SDC_STATUS_MAINTENANCE; s++) {
        if (num[s] > 0) {
            cell(status_colours[s], 0, "  %zu %s", num[s], status_names[s]);
        }
    }
    end_line();
    if (event->is_known) {
        cell(event->err != SDC_OK ? "31" : "2", 0, "last answer %.1f s ago", age_s);
    }
    end_line();
    if (event->failing_since_ms != 0) {
        cell("31;1", 0, "no good answer for %.1f s: ", failing_s);
        cell("31", 0, "%s", event->message);
    }
    end_line();
}

static char fresh_mark(const char *addr, uint64_t now_ms)
{
    for (size_t i = 0; i < num_news && i < NUM_NEWS; i++) {
        const news *n = &all_news[(num_news - 1 - i) % NUM_NEWS];
        size_t len = strlen(addr);
        bool is_it = strncmp(n->text, addr, len) == 0 && n->text[len] == ' ';
        if (is_it && now_ms - n->at_ms < FRESH_MS) {
            return n->mark;
        }
    }
    return ' ';
}

static void draw_instances(const sdc_event *event, uint64_t now_ms)
{
    cell("4", 0, "  %-26s%-13s%-8s%-20s%-18sTAGS", "ADDRESS", "STATUS", "WEIGHT", "ID", "NODE");
    end_line();
    for (size_t i = 0; i < event->num_instances; i++) {
        const sdc_instance *instance = &event->instances[i];
        if (lines < 3 && i + 1 < event->num_instances) {
            cell("2", 0, "  and %zu more", event->num_instances - i);
            end_line();
            break;
        }
        cell("36;1", 0, "%c ", fresh_mark(instance->addr, now_ms));
        cell("", 26, "%s", instance->addr);
        cell(status_colours[instance->status], 13, "%s", status_names[instance->status]);
        cell("", 8, "%6u", (unsigned)instance->weight);
        cell("", 20, "%s", instance->id);
        cell("", 18, "%s", instance->node);
        for (size_t k = 0; k < instance->num_tags; k++) {
            cell("2", 0, k == 0 ? "%s" : ",%s", instance->tags[k]);
        }
        end_line();
    }
}

static void draw(void)
{
    const sdc_event *event = sdc_instancer_state(instancer);
    uint64_t now_ms = sdc_client_now_ms(client);
    struct winsize size;
    bool has_size = ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;

    columns = left = has_size ? size.ws_col - 1 : 79;
    lines = has_size ? size.ws_row : 24;
    printf("\033[H");
    draw_head(event, now_ms);
    draw_instances(event, now_ms);
    if (lines > 2) {
        end_line();
    }
    for (size_t i = 0; i < num_news && i < NUM_NEWS && lines > 1; i++) {
        const news *n = &all_news[(num_news - 1 - i) % NUM_NEWS];
        cell("2", 10, "%s", n->clock);
        cell(n->mark == '!' ? "31" : "", 0, "%c %s", n->mark, n->text);
        end_line();
    }
    printf("\033[J");
    fflush(stdout);
    sdc_event_release(event);
}

/* ---- what is heard ---- */

static void add_news(char mark, const char *format, ...)
{
    news *n = &all_news[num_news++ % NUM_NEWS];
    time_t now = time(NULL);
    va_list args;

    n->mark = mark;
    n->at_ms = sdc_client_now_ms(client);
    (void)strftime(n->clock, sizeof n->clock, "%H:%M:%S", localtime(&now));
    va_start(args, format);
    (void)vsnprintf(n->text, sizeof n->text, format, args);
    va_end(args);
    if (!is_table) {
        left = 400;
        cell("", 0, "%s %s %c %s", n->clock, service, mark, n->text);
        printf("\n");
    }
}

static void add_instance_news(char mark, const sdc_instance *instance, const sdc_event *before)
{
    const char *was = "";

    for (size_t i = 0; mark == '~' && i < before->num_instances; i++) {
        const sdc_instance *old = &before->instances[i];
        bool is_same = strcmp(old->id, instance->id) == 0 && strcmp(old->node, instance->node) == 0;
        was = is_same && old->status != instance->status ? status_names[old->status] : was;
    }
    add_news(mark, "%s %s%s%s  %s on %s", instance->addr, was, was[0] != '\0' ? " -> " : "",
             mark == '-' ? "gone" : status_names[instance->status], instance->id, instance->node);
}

static void on_event(void *user, const sdc_event *event, const sdc_change *change)
{
    const sdc_event *before = change->before;

    (void)user;
    if (event->err == SDC_AGAIN) {
        return;                     /* what a subscriber hears at once: nothing is known yet */
    }
    if (event->err != SDC_OK) {
        add_news('!', "%s", event->message);
    } else if (before != NULL && before->failing_since_ms != 0) {
        add_news('=', "the agent answers again");
    }
    for (size_t i = 0; i < change->num_removed; i++) {
        add_instance_news('-', change->removed[i], before);
    }
    for (size_t i = 0; i < change->num_added; i++) {
        add_instance_news('+', change->added[i], before);
    }
    for (size_t i = 0; i < change->num_updated; i++) {
        add_instance_news('~', change->updated[i], before);
    }
    if (event->is_known && event->num_instances == 0) {
        add_news(' ', "there are no instances");
    }
    fflush(stdout);
    if (is_once) {
        sdc_stop(task);
    }
}

/* ---- the program ---- */

static void on_signal(int number)
{
    (void)number;
    sdc_stop(task);
}

static bool parse(int argc, char **argv, sdc_client_desc *where, sdc_query *query)
{
    static const char *tags[MAX_TAGS];

    query->tags = tags;
    for (int i = 1; i < argc; i++) {
        bool has_value = i + 1 < argc;
        if (strcmp(argv[i], "--address") == 0 && has_value) {
            where->address = argv[++i];
        } else if (strcmp(argv[i], "--tag") == 0 && has_value && query->num_tags < MAX_TAGS) {
            tags[query->num_tags++] = argv[++i];
        } else if (strcmp(argv[i], "--passing") == 0) {
            query->passing_only = true;
        } else if (strcmp(argv[i], "--once") == 0) {
            is_once = true;
        } else if (argv[i][0] == '-' || query->service != NULL) {
            return false;
        } else {
            query->service = argv[i];
        }
    }
    service = query->service;
    is_table = isatty(STDOUT_FILENO) && !is_once;
    has_colour = is_table && getenv("NO_COLOR") == NULL;
    return service != NULL;
}

int main(int argc, char **argv)
{
    sdc_client_desc where = { 0 };
    sdc_instancer_desc desc = { 0 };
    sdc_error error;

    if (!parse(argc, argv, &where, &desc.query)) {
        fprintf(stderr, "usage: watch [--address A] [--tag T]... [--passing] [--once] SERVICE\n");
        return 2;
    }
    if (sdc_client_create(&where, &client, &error) != SDC_OK ||
        sdc_instancer_create(client, &desc, &instancer, &error) != SDC_OK ||
        sdc_instancer_subscribe(instancer, on_event, NULL) != SDC_OK) {
        fprintf(stderr, "watch: %s\n", error.message);
        return 2;
    }
    task = sdc_instancer_task(instancer);
    (void)signal(SIGINT, on_signal);
    (void)signal(SIGTERM, on_signal);
    printf("%s", is_table ? "\033[?1049h\033[?25l" : "");
    do {
        if (is_table) {
            draw();
        }
    } while (sdc_step(task, is_table ? REDRAW_MS : -1) != SDC_STOPPED);
    printf("%s", is_table ? "\033[?25h\033[?1049l" : "");
    sdc_task_error(task, &error);
    sdc_instancer_destroy(instancer);
    sdc_client_destroy(client);
    return error.code == SDC_OK ? 0 : 1;
}
