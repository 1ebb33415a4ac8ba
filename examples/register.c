/* register: keeps a service registered until Ctrl-C, then deregisters it.

     cc -I. -o register examples/register.c examples/sdconsul.c
     ./register --port 8080 --tag v2 web

   Without --http it keeps a TTL check alive, so the service turns critical when
   this program dies. A second Ctrl-C ends it at once, without deregistering. */
#include "sdconsul.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX_TAGS = 16, MAX_META = 16 };

typedef struct options {
    sdc_client_desc where;
    sdc_registrar_desc keep;
    sdc_check check;
    const char *tags[MAX_TAGS];
    sdc_kv meta[MAX_META];
    bool is_verbose;
} options;

static sdc_task *task;

static const char help[] =
    "usage: register [OPTION]... NAME\n"
    "  --agent ADDRESS    of Consul, or several by comma (CONSUL_HTTP_ADDR, 127.0.0.1:8500)\n"
    "  --id ID            unique on its agent     (name-address-port)\n"
    "  --address HOST     of the service          (the node's)\n"
    "  --port PORT\n"
    "  --tag TAG          up to 16 times\n"
    "  --meta KEY=VALUE   up to 16 times\n"
    "  --ttl SECONDS      of the TTL check        (15)\n"
    "  --http URL         is asked by the agent; no TTL check then\n"
    "  --interval SECONDS how often it asks       (10)\n"
    "  --keep             leaves the service registered at the end\n"
    "  --verbose          says when a heartbeat was sent\n";

static void say(const char *what, const char *detail)
{
    char clock[16];
    time_t now = time(NULL);

    (void)strftime(clock, sizeof clock, "%H:%M:%S", localtime(&now));
    printf("%s  %s%s%s\n", clock, what, detail[0] != '\0' ? ": " : "", detail);
    fflush(stdout);
}

/* ---- options ---- */

/* False: not a number from 1 to `max`. */
static bool number(const char *text, unsigned long max, unsigned long *out)
{
    char *end = NULL;

    *out = strtoul(text, &end, 10);
    return text[0] >= '0' && text[0] <= '9' && *end == '\0' && *out >= 1 && *out <= max;
}

static bool take_meta(sdc_registration *r, sdc_kv *meta, char *text)
{
    char *equals = strchr(text, '=');

    if (equals == NULL || r->num_meta == MAX_META) {
        return false;
    }
    *equals = '\0';
    meta[r->num_meta].key = text;
    meta[r->num_meta].value = equals + 1;
    r->num_meta++;
    return true;
}

/* An option with a value. False: there is no such option, or the value is wrong. */
static bool take(options *o, const char *name, char *value)
{
    sdc_registration *r = &o->keep.registration;
    unsigned long n = 0;
    bool is_good = true;

    if (strcmp(name, "--agent") == 0) {
        o->where.address = value;
    } else if (strcmp(name, "--id") == 0) {
        r->id = value;
    } else if (strcmp(name, "--address") == 0) {
        r->address = value;
    } else if (strcmp(name, "--port") == 0) {
        is_good = number(value, 65535, &n);
        r->port = (uint16_t)n;
    } else if (strcmp(name, "--tag") == 0 && r->num_tags < MAX_TAGS) {
        o->tags[r->num_tags++] = value;
    } else if (strcmp(name, "--meta") == 0) {
        is_good = take_meta(r, o->meta, value);
    } else if (strcmp(name, "--ttl") == 0) {
        is_good = number(value, 86400, &n);
        o->check.ttl_ms = (uint32_t)n * 1000;
    } else if (strcmp(name, "--http") == 0) {
        o->check.http = value;
    } else if (strcmp(name, "--interval") == 0) {
        is_good = number(value, 86400, &n);
        o->check.interval_ms = (uint32_t)n * 1000;
    } else {
        is_good = false;
    }
    return is_good;
}

static bool parse(int argc, char **argv, options *o)
{
    sdc_registration *r = &o->keep.registration;

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--keep") == 0) {
            o->keep.keep_on_stop = true;
        } else if (strcmp(argv[i], "--verbose") == 0) {
            o->is_verbose = true;
        } else if (argv[i][0] != '-' && r->name == NULL) {
            r->name = argv[i];
        } else if (i + 1 < argc && take(o, argv[i], argv[i + 1])) {
            i++;
        } else {
            return false;
        }
    }
    if (o->check.http == NULL && o->check.ttl_ms == 0) {
        o->check.ttl_ms = 15000;
    }
    r->tags = o->tags;
    r->meta = o->meta;
    r->checks = &o->check;
    r->num_checks = 1;
    return r->name != NULL;
}

/* ---- the program ---- */

/* Only once: the second signal ends the program, since the handler is taken off. */
static void on_signal(int number_of_signal)
{
    (void)number_of_signal;
    sdc_stop(task);
}

static void catch_signals(void)
{
    struct sigaction action;

    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    action.sa_flags = (int)SA_RESETHAND;
    (void)sigaction(SIGINT, &action, NULL);
    (void)sigaction(SIGTERM, &action, NULL);
}

/* Says what the step did. An error is said once, however often it is tried again. */
static void report(const options *o, sdc_err err, const sdc_stats *before, const sdc_stats *now)
{
    static char last[256];
    char text[64];
    sdc_error error;

    sdc_task_error(task, &error);
    if (now->registrations > before->registrations) {
        say(before->registrations == 0 ? "registered"
            : "registered again: an agent had lost it, or it moved to another one",
            o->keep.registration.name);
    } else if (now->heartbeats > before->heartbeats && (o->is_verbose || last[0] != '\0')) {
        (void)snprintf(text, sizeof text, "%llu", (unsigned long long)now->heartbeats);
        say("heartbeat", text);
    }
    if (err >= SDC_ERR_ARG && strcmp(last, error.message) != 0) {
        say("it fails, and is tried again", error.message);
    }
    (void)snprintf(last, sizeof last, "%s", error.message);
}

static void keep_registered(const options *o)
{
    sdc_stats before, now;
    sdc_err err = SDC_OK;

    memset(&before, 0, sizeof before);
    while (err != SDC_STOPPED) {
        err = sdc_step(task, -1);
        sdc_task_stats(task, &now);
        report(o, err, &before, &now);
        before = now;
    }
}

int main(int argc, char **argv)
{
    static options o;
    sdc_client *client = NULL;
    sdc_registrar *registrar = NULL;
    sdc_error error;

    if (!parse(argc, argv, &o)) {
        fputs(help, stderr);
        return 2;
    }
    if (sdc_client_create(&o.where, &client, &error) != SDC_OK ||
        sdc_registrar_create(client, &o.keep, &registrar, &error) != SDC_OK) {
        fprintf(stderr, "register: %s\n", error.message);
        sdc_client_destroy(client);
        return 2;
    }
    task = sdc_registrar_task(registrar);
    catch_signals();
    keep_registered(&o);
    sdc_task_error(task, &error);
    if (error.code != SDC_OK) {
        say("not deregistered", error.message);
    } else {
        say(o.keep.keep_on_stop ? "left registered" : "deregistered", o.keep.registration.name);
    }
    sdc_registrar_destroy(registrar);
    sdc_client_destroy(client);
    return error.code == SDC_OK ? 0 : 1;
}
