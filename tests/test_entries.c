/* The entries decoder: from the body of a health answer to instances. */
#ifndef SDCONSUL_IMPLEMENTATION
#define SDCONSUL_IMPLEMENTATION
#endif
#include "../sdconsul.h"
#include "support/alloc.h"
#include "support/test.h"
#include "../fuzz/feed.h"
#include "../fuzz/files.h"

/* A body in the making; its end is always a NUL. */
typedef struct entries_text {
    char   text[16384];
    size_t len;
} entries_text;

static void entries_put(entries_text *t, const char *format, ...) TEST_PRINTF(2, 3);

static void entries_put(entries_text *t, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    int len = vsnprintf(t->text + t->len, sizeof t->text - t->len, format, args);
    va_end(args);
    if (len < 0 || (size_t)len >= sizeof t->text - t->len) {
        FAIL("the body is too long for the test");
        return;
    }
    t->len += (size_t)len;
}

/* The log of a body after all ways to cut it were tried. Valid until the next call. */
static const char *entries_log(const char *body)
{
    static char log[16384];
    feed f;

    feed_init(&f, FEED_ENTRIES, NULL);
    snprintf(log, sizeof log, "%s", feed_check(&f, body, strlen(body)));
    feed_deinit(&f);
    return log;
}

/* The log of one entry whose Service has these members beside ID, and nothing else. */
static const char *entries_of_service(const char *members)
{
    entries_text t;

    t.len = 0;
    entries_put(&t, "[{\"Service\":{\"ID\":\"s\"%s%s}}]", members[0] != '\0' ? "," : "", members);
    return entries_log(t.text);
}

/* -- Line 61: each wanted member, in every way it can be wrong -- */

/* Where a member stands: `@` is its place in a list of two entries. What the first one becomes is
   each row's; the second one is never touched. */
#define ENTRIES_SECOND ",{\"Service\":{\"Address\":\"2.2.2.2\",\"Port\":2}}]"
#define ENTRIES_SECOND_LOG "2.2.2.2:2 passing weight=1\n"

static const char entries_in_entry[] = "[{@\"z\":0}" ENTRIES_SECOND;
static const char entries_beside_service[] =
    "[{@\"Service\":{\"ID\":\"s\",\"Port\":1}}" ENTRIES_SECOND;
static const char entries_beside_usable[] =
    "[{@\"Service\":{\"Address\":\"1.1.1.1\",\"Port\":1}}" ENTRIES_SECOND;
static const char entries_beside_node[] =
    "[{@\"Node\":{\"Address\":\"1.1.1.1\"}}" ENTRIES_SECOND;
static const char entries_in_node[] =
    "[{\"Node\":{@\"z\":0},\"Service\":{\"Address\":\"1.1.1.1\",\"Port\":1}}" ENTRIES_SECOND;
static const char entries_in_node_alone[] =
    "[{\"Node\":{@\"z\":0},\"Service\":{\"Port\":1}}" ENTRIES_SECOND;
static const char entries_in_node_locality[] =
    "[{\"Node\":{\"Locality\":{@\"z\":0}},\"Service\":{\"Address\":\"1.1.1.1\",\"Port\":1}}"
    ENTRIES_SECOND;
static const char entries_in_service[] =
    "[{\"Service\":{\"Address\":\"1.1.1.1\",@\"Port\":1}}" ENTRIES_SECOND;
static const char entries_in_service_no_address[] =
    "[{\"Node\":{\"Address\":\"9.9.9.9\"},\"Service\":{@\"Port\":1}}" ENTRIES_SECOND;
static const char entries_in_service_no_port[] =
    "[{\"Service\":{@\"Address\":\"1.1.1.1\"}}" ENTRIES_SECOND;
static const char entries_in_tagged[] =
    "[{\"Service\":{\"Address\":\"1.1.1.1\",\"Port\":1,\"TaggedAddresses\":{\"lan\":{@\"z\":0}}}}"
    ENTRIES_SECOND;
static const char entries_in_port[] =
    "[{\"Service\":{\"Address\":\"1.1.1.1\",\"Port\":1,\"Ports\":[{@\"z\":0}]}}" ENTRIES_SECOND;
static const char entries_in_weights[] =
    "[{\"Service\":{\"Address\":\"1.1.1.1\",\"Port\":1,\"Weights\":{@\"z\":0}}}" ENTRIES_SECOND;
static const char entries_in_warning_weights[] =
    "[{\"Service\":{\"Address\":\"1.1.1.1\",\"Port\":1,\"Weights\":{@\"z\":0}},"
    "\"Checks\":[{\"Status\":\"warning\"}]}" ENTRIES_SECOND;
static const char entries_in_locality[] =
    "[{\"Service\":{\"Address\":\"1.1.1.1\",\"Port\":1,\"Locality\":{@\"z\":0}}}" ENTRIES_SECOND;
static const char entries_in_check[] =
    "[{\"Service\":{\"Address\":\"1.1.1.1\",\"Port\":1},\"Checks\":[{@\"z\":0}]}" ENTRIES_SECOND;

typedef struct entries_member {
    const char *where;
    const char *name;
    char        type;           /* s(tring) n(umber) b(ool) o(bject) a(rray)                  */
    const char *value, *log;    /* a good value, and what the first entry becomes             */
    const char *other, *other_log;
    const char *absent_log;     /* without the member, or with null; NULL: it is left out     */
} entries_member;

#define ENTRIES_PLAIN "1.1.1.1:1 passing weight=1"

static const entries_member entries_members[] = {
    { entries_beside_service, "Node", 'o', "{\"Address\":\"1.1.1.1\"}",
      "1.1.1.1:1 id=s passing weight=1", "{\"Address\":\"3.3.3.3\",\"Node\":\"n\"}",
      "3.3.3.3:1 id=s node=n passing weight=1", NULL },
    { entries_beside_node, "Service", 'o', "{\"Port\":1}", ENTRIES_PLAIN,
      "{\"Address\":\"3.3.3.3\",\"Port\":3}", "3.3.3.3:3 passing weight=1", NULL },
    { entries_in_entry, "Service", 'o', "{\"Port\":1,\"Address\":\"1.1.1.1\"}", ENTRIES_PLAIN,
      "{\"SocketPath\":\"/s\",\"Tags\":[\"t\"],\"Meta\":{\"k\":\"v\"},\"Weights\":{\"Passing\":7}}",
      "unix:/s tags=t meta.k=v passing weight=7", NULL },
    { entries_beside_usable, "Checks", 'a', "[{\"Status\":\"critical\"}]",
      "1.1.1.1:1 critical weight=0", "[{\"Status\":\"warning\"}]", "1.1.1.1:1 warning weight=1",
      ENTRIES_PLAIN },

    { entries_in_node, "Node", 's', "\"n1\"", "1.1.1.1:1 node=n1 passing weight=1", "\"n2\"",
      "1.1.1.1:1 node=n2 passing weight=1", ENTRIES_PLAIN },
    { entries_in_node_alone, "Address", 's', "\"1.1.1.1\"", ENTRIES_PLAIN, "\"3.3.3.3\"",
      "3.3.3.3:1 passing weight=1", NULL },
    { entries_in_node, "Datacenter", 's', "\"dc1\"", "1.1.1.1:1 dc=dc1 passing weight=1",
      "\"dc2\"", "1.1.1.1:1 dc=dc2 passing weight=1", ENTRIES_PLAIN },
    { entries_in_node, "Partition", 's', "\"p1\"", "1.1.1.1:1 partition=p1 passing weight=1",
      "\"p2\"", "1.1.1.1:1 partition=p2 passing weight=1", ENTRIES_PLAIN },
    { entries_in_node, "PeerName", 's', "\"q1\"", "1.1.1.1:1 peer=q1 passing weight=1",
      "\"q2\"", "1.1.1.1:1 peer=q2 passing weight=1", ENTRIES_PLAIN },
    { entries_in_node, "Locality", 'o', "{\"Region\":\"r\"}",
      "1.1.1.1:1 region=r passing weight=1", "{\"Zone\":\"z\"}",
      "1.1.1.1:1 zone=z passing weight=1", ENTRIES_PLAIN },
    { entries_in_node_locality, "Region", 's', "\"r1\"", "1.1.1.1:1 region=r1 passing weight=1",
      "\"r2\"", "1.1.1.1:1 region=r2 passing weight=1", ENTRIES_PLAIN },
    { entries_in_node_locality, "Zone", 's', "\"z1\"", "1.1.1.1:1 zone=z1 passing weight=1",
      "\"z2\"", "1.1.1.1:1 zone=z2 passing weight=1", ENTRIES_PLAIN },

    { entries_in_service, "ID", 's', "\"a\"", "1.1.1.1:1 id=a passing weight=1", "\"b\"",
      "1.1.1.1:1 id=b passing weight=1", ENTRIES_PLAIN },
    { entries_in_service, "Service", 's', "\"a\"", "1.1.1.1:1 service=a passing weight=1",
      "\"b\"", "1.1.1.1:1 service=b passing weight=1", ENTRIES_PLAIN },
    { entries_in_service, "Tags", 'a', "[\"b\",\"a\"]", "1.1.1.1:1 tags=a,b passing weight=1",
      "[\"c\"]", "1.1.1.1:1 tags=c passing weight=1", ENTRIES_PLAIN },
    { entries_in_service_no_address, "Address", 's', "\"1.1.1.1\"", ENTRIES_PLAIN, "\"3.3.3.3\"",
      "3.3.3.3:1 passing weight=1", "9.9.9.9:1 passing weight=1" },
    { entries_in_service, "TaggedAddresses", 'o',
      "{\"wan\":{\"Address\":\"4.4.4.4\",\"Port\":4},\"lan\":{}}",
      "1.1.1.1:1 at.lan=:0 at.wan=4.4.4.4:4 passing weight=1", "{\"v\":{\"Port\":5}}",
      "1.1.1.1:1 at.v=:5 passing weight=1", ENTRIES_PLAIN },
    { entries_in_service, "Meta", 'o', "{\"b\":\"2\",\"a\":\"1\"}",
      "1.1.1.1:1 meta.a=1 meta.b=2 passing weight=1", "{\"c\":\"\"}",
      "1.1.1.1:1 meta.c= passing weight=1", ENTRIES_PLAIN },
    { entries_in_service_no_port, "Port", 'n', "1", ENTRIES_PLAIN, "65535",
      "1.1.1.1:65535 passing weight=1", NULL },
    { entries_in_service, "Ports", 'a', "[{\"Name\":\"a\",\"Port\":5}]",
      "1.1.1.1:1 port.a=5 passing weight=1", "[{\"Default\":true,\"Port\":6,\"Name\":\"b\"},{}]",
      "1.1.1.1:1 port.b=6* port.=0 passing weight=1", ENTRIES_PLAIN },
    { entries_in_service_no_port, "Ports", 'a', "[{\"Name\":\"a\",\"Port\":5}]",
      "1.1.1.1:5 port.a=5 passing weight=1", "[{\"Port\":7},{\"Default\":true,\"Port\":6}]",
      "1.1.1.1:6 port.=7 port.=6* passing weight=1", NULL },
    { entries_in_service_no_port, "SocketPath", 's', "\"/a\"", "unix:/a passing weight=1",
      "\"/b\"", "unix:/b passing weight=1", NULL },
    { entries_in_service, "Weights", 'o', "{\"Passing\":5,\"Warning\":2}",
      "1.1.1.1:1 passing weight=5", "{\"Passing\":9}", "1.1.1.1:1 passing weight=9",
      ENTRIES_PLAIN },
    { entries_in_service, "Locality", 'o', "{\"Zone\":\"z\"}",
      "1.1.1.1:1 zone=z passing weight=1", "{\"Region\":\"r\"}",
      "1.1.1.1:1 region=r passing weight=1", ENTRIES_PLAIN },
    { entries_in_service, "PeerName", 's', "\"q\"", "1.1.1.1:1 peer=q passing weight=1", "\"p\"",
      "1.1.1.1:1 peer=p passing weight=1", ENTRIES_PLAIN },
    { entries_in_service, "Namespace", 's', "\"a\"", "1.1.1.1:1 ns=a passing weight=1", "\"b\"",
      "1.1.1.1:1 ns=b passing weight=1", ENTRIES_PLAIN },
    { entries_in_service, "Partition", 's', "\"a\"", "1.1.1.1:1 partition=a passing weight=1",
      "\"b\"", "1.1.1.1:1 partition=b passing weight=1", ENTRIES_PLAIN },

    { entries_in_tagged, "Address", 's', "\"5.5.5.5\"",
      "1.1.1.1:1 at.lan=5.5.5.5:0 passing weight=1", "\"6.6.6.6\"",
      "1.1.1.1:1 at.lan=6.6.6.6:0 passing weight=1", "1.1.1.1:1 at.lan=:0 passing weight=1" },
    { entries_in_tagged, "Port", 'n', "5", "1.1.1.1:1 at.lan=:5 passing weight=1", "6",
      "1.1.1.1:1 at.lan=:6 passing weight=1", "1.1.1.1:1 at.lan=:0 passing weight=1" },
    { entries_in_port, "Name", 's', "\"a\"", "1.1.1.1:1 port.a=0 passing weight=1", "\"b\"",
      "1.1.1.1:1 port.b=0 passing weight=1", "1.1.1.1:1 port.=0 passing weight=1" },
    { entries_in_port, "Port", 'n', "5", "1.1.1.1:1 port.=5 passing weight=1", "6",
      "1.1.1.1:1 port.=6 passing weight=1", "1.1.1.1:1 port.=0 passing weight=1" },
    { entries_in_port, "Default", 'b', "true", "1.1.1.1:1 port.=0* passing weight=1", "false",
      "1.1.1.1:1 port.=0 passing weight=1", "1.1.1.1:1 port.=0 passing weight=1" },
    { entries_in_weights, "Passing", 'n', "5", "1.1.1.1:1 passing weight=5", "0",
      "1.1.1.1:1 passing weight=0", ENTRIES_PLAIN },
    { entries_in_warning_weights, "Warning", 'n', "5", "1.1.1.1:1 warning weight=5", "65535",
      "1.1.1.1:1 warning weight=65535", "1.1.1.1:1 warning weight=0" },
    { entries_in_locality, "Region", 's', "\"a\"", "1.1.1.1:1 region=a passing weight=1",
      "\"b\"", "1.1.1.1:1 region=b passing weight=1", ENTRIES_PLAIN },
    { entries_in_locality, "Zone", 's', "\"a\"", "1.1.1.1:1 zone=a passing weight=1", "\"b\"",
      "1.1.1.1:1 zone=b passing weight=1", ENTRIES_PLAIN },
    { entries_in_check, "CheckID", 's', "\"_node_maintenance\"",
      "1.1.1.1:1 maintenance weight=0", "\"c\"", "1.1.1.1:1 critical weight=0",
      "1.1.1.1:1 critical weight=0" },
    { entries_in_check, "Status", 's', "\"passing\"", ENTRIES_PLAIN, "\"warning\"",
      "1.1.1.1:1 warning weight=1", "1.1.1.1:1 critical weight=0" }
};

enum { ENTRIES_NUM_MEMBERS = sizeof entries_members / sizeof entries_members[0] };

/* Puts `slot` where the row's member stands and compares; want NULL: the entry is left out. */
static void entries_try(const entries_member *m, const char *slot, const char *want)
{
    entries_text body;
    entries_text log;
    const char *at = strchr(m->where, '@');

    body.len = 0;
    log.len = 0;
    entries_put(&body, "%.*s%s%s", (int)(at - m->where), m->where, slot, at + 1);
    const char *got = entries_log(body.text);
    if (want != NULL) {
        entries_put(&log, "%s\n" ENTRIES_SECOND_LOG "ok, 0 skipped", want);
        CHECK_STR(got, log.text);
        return;
    }
    const char *end = strchr(got, '\n');
    if (strncmp(got, "skip 0: ", 8) != 0 || end == NULL ||
        strcmp(end + 1, ENTRIES_SECOND_LOG "ok, 1 skipped") != 0) {
        FAIL("%s is not left out alone: %s", slot, got);
    }
}

static void entries_try_values(const entries_member *m, const char *first, const char *second,
                               const char *want)
{
    entries_text slot;

    slot.len = 0;
    entries_put(&slot, "\"%s\":%s,", m->name, first);
    if (second != NULL) {
        entries_put(&slot, "\"%s\":%s,", m->name, second);
    }
    entries_try(m, slot.text, want);
}

static void test_61_each_member_present(void)
{
    for (size_t i = 0; i < ENTRIES_NUM_MEMBERS; i++) {
        const entries_member *m = &entries_members[i];
        test_note("member %zu, %s", i, m->name);
        entries_try_values(m, m->value, NULL, m->log);
        entries_try_values(m, m->other, NULL, m->other_log);
    }
}

static void test_61_each_member_absent_or_null(void)
{
    for (size_t i = 0; i < ENTRIES_NUM_MEMBERS; i++) {
        const entries_member *m = &entries_members[i];
        test_note("member %zu, %s", i, m->name);
        entries_try(m, "", m->absent_log);
        entries_try_values(m, "null", NULL, m->absent_log);
        entries_try_values(m, "null", "null", m->absent_log);
    }
}

/* The last one wins, null included. */
static void test_61_each_member_twice(void)
{
    for (size_t i = 0; i < ENTRIES_NUM_MEMBERS; i++) {
        const entries_member *m = &entries_members[i];
        test_note("member %zu, %s", i, m->name);
        entries_try_values(m, m->other, m->value, m->log);
        entries_try_values(m, m->value, m->other, m->other_log);
        entries_try_values(m, m->value, m->value, m->log);
        entries_try_values(m, "null", m->value, m->log);
        entries_try_values(m, m->value, "null", m->absent_log);
    }
}

/* What is no value of that member, whatever stands beside it. */
static void test_61_each_member_of_a_wrong_type(void)
{
    static const struct { char type; const char *value; } values[] = {
        { 's', "\"x\"" }, { 's', "\"\"" }, { 's', "\"80\"" }, { 'n', "1" }, { 'n', "0" },
        { 'x', "-1" }, { 'x', "1.0" }, { 'x', "1e1" }, { 'x', "65536" },
        { 'x', "18446744073709551617" }, { 'b', "true" }, { 'b', "false" }, { 'o', "{}" },
        { 'o', "{\"a\":[{}]}" }, { 'a', "[]" }, { 'a', "[[[1]],{\"a\":null}]" }
    };

    for (size_t i = 0; i < ENTRIES_NUM_MEMBERS; i++) {
        const entries_member *m = &entries_members[i];
        for (size_t k = 0; k < sizeof values / sizeof values[0]; k++) {
            if (values[k].type == m->type) {
                continue;
            }
            test_note("member %zu, %s: %s", i, m->name, values[k].value);
            entries_try_values(m, values[k].value, NULL, NULL);
            entries_try_values(m, m->value, values[k].value, NULL);
            entries_try_values(m, values[k].value, m->value, NULL);
        }
    }
}

/* Names are compared as they are: what only looks like the member is skipped, whatever it holds. */
static void test_61_names_are_exact(void)
{
    static const char *const formats[] = { "\"%s \":[1],", "\" %s\":1,", "\"x%s\":{\"Port\":3},",
                                           "\"%sX\":\"y\",", "\"%s\\u0000\":true," };

    for (size_t i = 0; i < ENTRIES_NUM_MEMBERS; i++) {
        const entries_member *m = &entries_members[i];
        entries_text slot;
        test_note("member %zu, %s", i, m->name);
        for (size_t k = 0; k < sizeof formats / sizeof formats[0]; k++) {
            const char *percent = strchr(formats[k], '%');
            slot.len = 0;
            entries_put(&slot, "%.*s%s%s", (int)(percent - formats[k]), formats[k], m->name,
                        percent + 2);
            entries_try(m, slot.text, m->absent_log);
        }
        slot.len = 0;
        entries_put(&slot, "\"%s\":false,", m->name);
        for (size_t k = 1; slot.text[k] != '"'; k++) {
            slot.text[k] = sdci_lower(slot.text[k]);
        }
        entries_try(m, slot.text, m->absent_log);
    }
}

/* An escape in a name is that character. */
static void test_61_names_may_be_escaped(void)
{
    CHECK_STR(entries_of_service("\"\\u0041ddress\":\"1.1.1.1\",\"P\\u006frt\":80"),
              "1.1.1.1:80 id=s passing weight=1\nok, 0 skipped");
}

/* The items of lists and maps have no null and no other type either. */
static void test_61_items_of_a_wrong_type(void)
{
    static const char *const lists[] = { "\"Tags\":[\"a\",%s]", "\"Meta\":{\"a\":\"1\",\"b\":%s}",
                                         "\"TaggedAddresses\":{\"a\":{},\"b\":%s}",
                                         "\"Ports\":[{},%s]" };
    static const char *const values[] = { "null", "true", "1", "[]", "[\"a\"]", "\"x\"", "{}" };
    static const char fits[] = { 's', 's', 'o', 'o' };

    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
        for (size_t k = 0; k < sizeof values / sizeof values[0]; k++) {
            entries_text members;
            const char *percent = strchr(lists[i], '%');
            char type = values[k][0] == '"' ? 's' : values[k][0] == '{' ? 'o' : 'x';
            members.len = 0;
            entries_put(&members, "\"Address\":\"1.1.1.1\",\"Port\":1,%.*s%s%s",
                        (int)(percent - lists[i]), lists[i], values[k], percent + 2);
            const char *log = entries_of_service(members.text);
            test_note("%s", members.text);
            CHECK_HAS(log, type == fits[i] ? "ok, 0 skipped" : "ok, 1 skipped");
            CHECK(strncmp(log, "skip 0: ", 8) == 0 || type == fits[i]);
        }
    }
}

static void test_61_entries_of_a_wrong_type(void)
{
    CHECK_STR(entries_log("[null,1,\"a\",true,[],[{\"Service\":{}}],{}" ENTRIES_SECOND),
              "skip 0: not an object\nskip 1: not an object\nskip 2: not an object\n"
              "skip 3: not an object\nskip 4: not an object\nskip 5: not an object\n"
              "skip 6: no address\n" ENTRIES_SECOND_LOG "ok, 7 skipped");
    CHECK_STR(entries_log("[{\"Service\":{\"Address\":\"1.1.1.1\",\"Port\":1},\"Checks\":[null]}]"),
              "skip 0: a value is not an object\nok, 1 skipped");
    CHECK_STR(entries_log("[{\"Service\":{\"Address\":\"1.1.1.1\",\"Port\":1},\"Checks\":[[]]}]"),
              "skip 0: a value is not an object\nok, 1 skipped");
}

static void test_61_a_top_that_is_no_array_is_a_wrong_shape(void)
{
    static const char *const tops[] = { "{}", "{\"Node\":{}}", "null", "true", "0", "12.5",
                                        "\"no\"", "\"\"", "\"a\\nb\"", " {\"errors\":[]} " };

    for (size_t i = 0; i < sizeof tops / sizeof tops[0]; i++) {
        test_note("%s", tops[i]);
        CHECK_HAS(entries_log(tops[i]), "SHAPE: ");
        CHECK_HAS(entries_log(tops[i]), "the answer is not an array, 0 skipped");
    }
    CHECK_STR(entries_log("[]"), "ok, 0 skipped");
    CHECK_STR(entries_log(" [ ] "), "ok, 0 skipped");
    CHECK_HAS(entries_log("[] {}"), "JSON: JSON, byte 3: ");
}

/* -- Lines 62 to 66 -- */

static void test_62_null_where_go_writes_null(void)
{
    CHECK_STR(entries_log("[{\"Node\":{\"Node\":\"n\",\"Address\":\"10.0.0.1\",\"Datacenter\":"
                          "\"d\","
                          "\"TaggedAddresses\":null,\"Meta\":null,\"Locality\":null},"
                          "\"Service\":{\"Kind\":null,\"ID\":\"s\",\"Service\":\"web\",\"Tags\":"
                          "null,"
                          "\"Address\":\"\",\"TaggedAddresses\":null,\"Meta\":null,\"Port\":80,"
                          "\"Ports\":null,\"Weights\":null,\"Locality\":null,\"Proxy\":null,"
                          "\"Connect\":null},\"Checks\":null}]"),
              "10.0.0.1:80 id=s service=web node=n dc=d passing weight=1\nok, 0 skipped");
    CHECK_STR(entries_log("[{\"Node\":null,\"Service\":{\"Address\":\"10.0.0.1\",\"Port\":80}}]"),
              "10.0.0.1:80 passing weight=1\nok, 0 skipped");
    CHECK_STR(entries_log("[{\"Node\":{\"Address\":\"10.0.0.1\"},\"Service\":null}]"),
              "skip 0: no port\nok, 1 skipped");
}

static void test_63_ports_are_integers_from_0_to_65535(void)
{
    static const struct { const char *port; const char *log; } table[] = {
        { "1", "1.1.1.1:1 id=s passing weight=1\nok, 0 skipped" },
        { "80", "1.1.1.1:80 id=s passing weight=1\nok, 0 skipped" },
        { "65535", "1.1.1.1:65535 id=s passing weight=1\nok, 0 skipped" },
        { "0", "skip 0: no port\nok, 1 skipped" },
        { "null", "skip 0: no port\nok, 1 skipped" }
    };
    static const char *const wrong[] = { "65536", "99999", "4294967376", "18446744073709551696",
                                         "-1", "-80", "8080.0", "80.5", "1e3", "8E1", "0.8e2",
                                         "\"80\"", "\"\"", "true", "[80]", "{\"Port\":80}" };
    entries_text members;

    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        members.len = 0;
        entries_put(&members, "\"Address\":\"1.1.1.1\",\"Port\":%s", table[i].port);
        CHECK_STR(entries_of_service(members.text), table[i].log);
    }
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        members.len = 0;
        entries_put(&members, "\"Address\":\"1.1.1.1\",\"Port\":%s", wrong[i]);
        CHECK_STR(entries_of_service(members.text),
                  "skip 0: a port or weight is not an integer from 0 to 65535\nok, 1 skipped");
    }
    CHECK_STR(entries_of_service("\"Address\":\"1.1.1.1\""), "skip 0: no port\nok, 1 skipped");
}

static void test_64_named_ports(void)
{
    static const struct { const char *members; const char *log; } table[] = {
        { "\"Ports\":[{\"Name\":\"a\",\"Port\":1},{\"Name\":\"b\",\"Port\":2,\"Default\":true}]",
          "1.1.1.1:2 id=s port.a=1 port.b=2* passing weight=1\nok, 0 skipped" },
        { "\"Port\":0,\"Ports\":[{\"Name\":\"a\",\"Port\":1},{\"Name\":\"b\",\"Port\":2}]",
          "1.1.1.1:1 id=s port.a=1 port.b=2 passing weight=1\nok, 0 skipped" },
        { "\"Ports\":[{\"Name\":\"b\",\"Port\":2,\"Default\":true}],\"Port\":7",
          "1.1.1.1:7 id=s port.b=2* passing weight=1\nok, 0 skipped" },
        { "\"Port\":null,\"Ports\":[{\"Port\":3,\"Default\":true},{\"Port\":4,\"Default\":true}]",
          "1.1.1.1:3 id=s port.=3* port.=4* passing weight=1\nok, 0 skipped" },
        { "\"Port\":0,\"Ports\":[]", "skip 0: no port\nok, 1 skipped" },
        { "\"Port\":0,\"Ports\":[{\"Name\":\"a\",\"Port\":0,\"Default\":true}]",
          "skip 0: no port\nok, 1 skipped" },
        { "\"Ports\":[{\"Name\":\"a\",\"Default\":true},{\"Name\":\"b\",\"Port\":2}]",
          "skip 0: no port\nok, 1 skipped" }
    };
    entries_text members;

    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        members.len = 0;
        entries_put(&members, "\"Address\":\"1.1.1.1\",%s", table[i].members);
        CHECK_STR(entries_of_service(members.text), table[i].log);
    }
}

static void test_65_no_service_address_means_the_nodes(void)
{
    static const struct { const char *body; const char *log; } table[] = {
        { "[{\"Node\":{\"Address\":\"9.9.9.9\"},\"Service\":{\"Address\":\"\",\"Port\":80}}]",
          "9.9.9.9:80 passing weight=1\nok, 0 skipped" },
        { "[{\"Node\":{\"Address\":\"9.9.9.9\"},\"Service\":{\"Port\":80}}]",
          "9.9.9.9:80 passing weight=1\nok, 0 skipped" },
        { "[{\"Service\":{\"Port\":80},\"Node\":{\"Address\":\"9.9.9.9\"}}]",
          "9.9.9.9:80 passing weight=1\nok, 0 skipped" },
        { "[{\"Node\":{\"Address\":\"9.9.9.9\"},\"Service\":{\"Address\":\"host.x\",\"Port\":80}}]",
          "host.x:80 passing weight=1\nok, 0 skipped" },
        { "[{\"Node\":{\"Address\":\"\"},\"Service\":{\"Address\":\"\",\"Port\":80}}]",
          "skip 0: no address\nok, 1 skipped" },
        { "[{\"Node\":{},\"Service\":{\"Port\":80}}]", "skip 0: no address\nok, 1 skipped" },
        { "[{\"Service\":{\"Address\":\"a b\",\"Port\":80}}]",
          "skip 0: a space or control character in the address\nok, 1 skipped" },
        { "[{\"Service\":{\"Address\":\"a\\nb\",\"Port\":80}}]",
          "skip 0: a space or control character in the address\nok, 1 skipped" }
    };

    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        CHECK_STR(entries_log(table[i].body), table[i].log);
    }
}

static sdc_err entries_keep_host(void *user, const sdc_instance *in)
{
    snprintf((char *)user, 100, "%s %s %u", in->addr, in->host, (unsigned)in->port);
    return SDC_OK;
}

static void test_66_ipv6_gets_brackets_in_addr(void)
{
    static const struct { const char *address; const char *want; } table[] = {
        { "::1", "[::1]:80 ::1 80" },
        { "2001:db8::1", "[2001:db8::1]:80 2001:db8::1 80" },
        { "fe80::1%eth0", "[fe80::1%eth0]:80 fe80::1%eth0 80" },
        { "::ffff:10.0.0.1", "[::ffff:10.0.0.1]:80 ::ffff:10.0.0.1 80" },
        { "[::1]", "[::1]:80 [::1] 80" },
        { "10.0.0.1", "10.0.0.1:80 10.0.0.1 80" },
        { "web.internal", "web.internal:80 web.internal 80" }
    };
    sdc_entries *entries = NULL;
    char got[100] = "";
    entries_text body;

    REQUIRE(sdc_entries_create(NULL, entries_keep_host, got, &entries) == SDC_OK);
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        body.len = 0;
        entries_put(&body, "[{\"Node\":{\"Address\":\"%s\"},\"Service\":{\"Port\":80}}]",
                    table[i].address);
        sdc_entries_reset(entries);
        CHECK_ERR(sdc_entries_feed(entries, body.text, body.len), SDC_OK);
        CHECK_ERR(sdc_entries_finish(entries), SDC_OK);
        CHECK_STR(got, table[i].want);
    }
    sdc_entries_destroy(entries);
}

/* -- Lines 67 to 69: text, numbers and everything that is not wanted -- */

static void test_67_text_is_decoded(void)
{
    CHECK_STR(entries_of_service("\"Address\":\"1.1.1.1\",\"Port\":1,"
                                 "\"Tags\":[\"\\u003c\\u0026\\u003e\",\"\\ud83d\\ude00\","
                                 "\"\xc3\xa9\"],\"Meta\":{\"\\u0061\":\"\\u00e9\\n\"}"),
              "1.1.1.1:1 id=s tags=<&>,\\xC3\\xA9,\\xF0\\x9F\\x98\\x80 meta.a=\\xC3\\xA9\\x0A "
              "passing weight=1\nok, 0 skipped");
}

/* To show less than was said would be worse than nothing; where nothing shows, nothing is lost. */
static void test_67_a_nul_that_would_show_skips_the_instance(void)
{
    static const char *const shown[] = {
        "\"Service\":\"a\\u0000\"", "\"Tags\":[\"x\",\"\\u0000\"]",
        "\"Meta\":{\"a\\u0000b\":\"v\"}", "\"Meta\":{\"a\":\"\\u0000\"}",
        "\"TaggedAddresses\":{\"\\u0000\":{}}",
        "\"TaggedAddresses\":{\"a\":{\"Address\":\"1\\u0000\"}}",
        "\"Ports\":[{\"Name\":\"\\u0000\"}]", "\"Namespace\":\"\\u0000\"",
        "\"Locality\":{\"Zone\":\"z\\u0000z\"}"
    };
    static const char *const hidden[] = {
        "\"Kind\":\"\\u0000\"", "\"Proxy\":{\"\\u0000\":\"\\u0000\"}", "\"\\u0000\":1"
    };
    entries_text members;

    for (size_t i = 0; i < sizeof shown / sizeof shown[0]; i++) {
        members.len = 0;
        entries_put(&members, "\"Address\":\"1.1.1.1\",\"Port\":1,%s", shown[i]);
        CHECK_STR(entries_of_service(members.text),
                  "skip 0: a NUL character in a string\nok, 1 skipped");
    }
    for (size_t i = 0; i < sizeof hidden / sizeof hidden[0]; i++) {
        members.len = 0;
        entries_put(&members, "\"Address\":\"1.1.1.1\",\"Port\":1,%s", hidden[i]);
        CHECK_STR(entries_of_service(members.text),
                  "1.1.1.1:1 id=s passing weight=1\nok, 0 skipped");
    }
}

/* A check's ID and status decide, but no instance shows them. */
static void test_67_a_nul_in_a_check_is_part_of_its_name(void)
{
    CHECK_STR(entries_log("[{\"Service\":{\"Address\":\"1.1.1.1\",\"Port\":1},\"Checks\":[{"
                          "\"CheckID\":\"_node_maintenance\\u0000\",\"Status\":\"passing\"}]}]"),
              "1.1.1.1:1 passing weight=1\nok, 0 skipped");
    CHECK_STR(entries_log("[{\"Service\":{\"Address\":\"1.1.1.1\",\"Port\":1},\"Checks\":[{"
                          "\"CheckID\":\"c\",\"Status\":\"passing\\u0000\"}]}]"),
              "1.1.1.1:1 critical weight=0\nok, 0 skipped");
}

/* What is no JSON ends the answer, also inside of what is skipped. */
static void test_67_bad_text_is_no_json_anywhere(void)
{
    static const char *const bad[] = { "\"ID\":\"\\ud800\"", "\"Kind\":\"\\udc00x\"",
                                       "\"x\":{\"y\":[\"\xff\"]}", "\"Proxy\":{\"a\":\"\xc0\x80\"}",
                                       "\"Meta\":{\"\xe9\":\"\"}", "\"x\":01", "\"x\":tru}",
                                       "\"x\":[1,]", "\"x\":\"\t\"" };

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        CHECK_HAS(entries_of_service(bad[i]), "JSON: JSON, byte ");
    }
}

static void test_68_indexes_of_any_size_are_skipped(void)
{
    CHECK_STR(entries_of_service("\"Address\":\"1.1.1.1\",\"CreateIndex\":18446744073709551615,"
                                 "\"ModifyIndex\":9007199254740993,\"Port\":1,"
                                 "\"x\":-184467440737095516150000.5e+900"),
              "1.1.1.1:1 id=s passing weight=1\nok, 0 skipped");
}

static void test_69_unknown_members_are_skipped_at_any_depth(void)
{
    CHECK_STR(entries_log("[{\"x\":[{\"Node\":{\"Address\":\"8.8.8.8\"}},[[]]],\"Service\":{"
                          "\"Proxy\":{\"Config\":{\"Port\":99,\"Address\":\"8.8.8.8\",\"a\":[[{"
                          "\"Tags\":[1]}]],\"Service\":{\"ID\":\"no\"}}},\"Address\":\"1.1.1.1\","
                          "\"Connect\":{\"Native\":true},\"Port\":80,\"ID\":\"s\"},\"Checks\":[{"
                          "\"Definition\":{\"Status\":\"critical\",\"Header\":{\"a\":[\"b\"]}},"
                          "\"ServiceTags\":[\"t\"],\"Status\":\"passing\",\"CheckID\":\"c\"}],"
                          "\"y\":{\"Checks\":[{\"Status\":\"critical\"}]}}]"),
              "1.1.1.1:80 id=s passing weight=1\nok, 0 skipped");
}

/* The 64 levels are those of the JSON: 61 are left inside a member of Service. */
static void test_69_depth_of_a_skipped_member(void)
{
    entries_text members;

    for (int depth = 61; depth <= 62; depth++) {
        members.len = 0;
        entries_put(&members, "\"Address\":\"1.1.1.1\",\"Port\":1,\"Proxy\":");
        for (int i = 0; i < depth; i++) {
            entries_put(&members, i % 2 == 0 ? "[" : "{\"a\":");
        }
        entries_put(&members, "0");
        for (int i = depth - 1; i >= 0; i--) {
            entries_put(&members, i % 2 == 0 ? "]" : "}");
        }
        if (depth == 61) {
            CHECK_STR(entries_of_service(members.text),
                      "1.1.1.1:1 id=s passing weight=1\nok, 0 skipped");
        } else {
            CHECK_HAS(entries_of_service(members.text), "LIMIT: JSON, byte ");
        }
    }
}

static void test_69_of_duplicates_the_last_wins(void)
{
    CHECK_STR(entries_of_service("\"Address\":\"8.8.8.8\",\"Port\":99,\"Tags\":[\"no\"],"
                                 "\"Meta\":{\"no\":\"\"},\"Weights\":{\"Passing\":9},"
                                 "\"Address\":\"1.1.1.1\",\"Port\":80,\"Tags\":[\"a\"],"
                                 "\"Meta\":{\"k\":\"1\",\"k\":\"2\",\"b\":\"\",\"k\":\"3\"},"
                                 "\"Weights\":{\"Passing\":1,\"Passing\":4}"),
              "1.1.1.1:80 id=s tags=a meta.b= meta.k=3 passing weight=4\nok, 0 skipped");
    CHECK_STR(entries_log("[{\"Node\":{\"Node\":\"no\",\"Address\":\"8.8.8.8\",\"Datacenter\":"
                          "\"no\"},"
                          "\"Node\":{\"Node\":\"n\"},\"Service\":{\"ID\":\"no\",\"Port\":1},"
                          "\"Service\":{\"Address\":\"1.1.1.1\",\"Port\":2},\"Checks\":[{"
                          "\"Status\":\"critical\"}],\"Checks\":[{\"Status\":\"warning\"},{"
                          "\"Status\":\"critical\",\"Status\":\"passing\"}]}]"),
              "1.1.1.1:2 node=n warning weight=1\nok, 0 skipped");
    CHECK_STR(entries_of_service("\"Address\":\"1.1.1.1\",\"Port\":1,\"TaggedAddresses\":{"
                                 "\"b\":{\"Port\":1},\"a\":{\"Address\":\"x\"},"
                                 "\"b\":{\"Port\":2}}"),
              "1.1.1.1:1 id=s at.a=x:0 at.b=:2 passing weight=1\nok, 0 skipped");
}

static void test_69_tags_and_meta_are_sorted_by_byte(void)
{
    CHECK_STR(entries_of_service("\"Address\":\"1.1.1.1\",\"Port\":1,"
                                 "\"Tags\":[\"b\",\"a\",\"\",\"B\",\"a\",\"\xc3\xa9\",\"ab\"],"
                                 "\"Meta\":{\"b\":\"1\",\"\xc3\xa9\":\"2\",\"B\":\"3\","
                                 "\"\":\"4\"}"),
              "1.1.1.1:1 id=s tags=,B,a,a,ab,b,\\xC3\\xA9 meta.=4 meta.B=3 meta.b=1 "
              "meta.\\xC3\\xA9=2 passing weight=1\nok, 0 skipped");
}

static void entries_try_golden(void *user, const char *path, const unsigned char *bytes, size_t len)
{
    size_t *num = (size_t *)user;
    size_t name_len = strlen(path);
    char other[1024];
    size_t want_len = 0;
    feed f;

    if (name_len < 5 || strcmp(path + name_len - 5, ".json") != 0) {
        return;
    }
    test_note("%s", files_name(path));
    snprintf(other, sizeof other, "%.*s.txt", (int)(name_len - 5), path);
    char *want = (char *)files_read(other, &want_len);
    if (!CHECK(want != NULL)) {
        return;
    }
    feed_init(&f, FEED_ENTRIES, NULL);
    const char *got = feed_check(&f, bytes, len);
    CHECK_MEM(got, strlen(got), want, want_len);
    feed_deinit(&f);
    free(want);
    (*num)++;
}

/* Answers of agents, compact and pretty printed, and what they mean. */
static void test_69_answers_of_agents(void)
{
    char folder[512];
    size_t num = 0;

    files_beside(__FILE__, "data/entries", folder, sizeof folder);
    (void)files_each(folder, entries_try_golden, &num);
    test_note("%s", folder);
    CHECK_INT(num, 4);
}

/* -- Lines 70 to 73 -- */

static void test_70_one_id_on_two_nodes_is_two_instances(void)
{
    CHECK_STR(entries_log("[{\"Node\":{\"Node\":\"n1\",\"Address\":\"10.0.0.1\"},\"Service\":{"
                          "\"ID\":\"web\",\"Port\":80}},{\"Node\":{\"Node\":\"n2\",\"Address\":"
                          "\"10.0.0.2\"},\"Service\":{\"ID\":\"web\",\"Port\":80}}]"),
              "10.0.0.1:80 id=web node=n1 passing weight=1\n"
              "10.0.0.2:80 id=web node=n2 passing weight=1\nok, 0 skipped");
}

static void test_71_peer_partition_and_namespace(void)
{
    CHECK_STR(entries_log("[{\"Node\":{\"Node\":\"n\",\"Partition\":\"np\",\"PeerName\":\"nq\"},"
                          "\"Service\":{\"ID\":\"a\",\"Address\":\"1.1.1.1\",\"Port\":1,"
                          "\"Namespace\":\"team\",\"Partition\":\"sp\",\"PeerName\":\"sq\"}}]"),
              "1.1.1.1:1 id=a node=n ns=team partition=sp peer=sq passing weight=1\n"
              "ok, 0 skipped");
    CHECK_STR(entries_log("[{\"Node\":{\"Node\":\"n\",\"Partition\":\"np\",\"PeerName\":\"nq\"},"
                          "\"Service\":{\"ID\":\"a\",\"Address\":\"1.1.1.1\",\"Port\":1,"
                          "\"PeerName\":\"\"}}]"),
              "1.1.1.1:1 id=a node=n partition=np peer=nq passing weight=1\nok, 0 skipped");
}

/* Same addr, node and id, and another peer, partition or namespace: another instance. */
static void test_71_they_are_part_of_the_identity(void)
{
    static const struct { const char *ns, *partition, *peer; } scopes[] = {
        { NULL, NULL, NULL }, { "a", NULL, NULL }, { NULL, "a", NULL }, { NULL, NULL, "a" },
        { NULL, NULL, "b" }
    };
    enum { NUM = sizeof scopes / sizeof scopes[0] };
    sdc_instance list[NUM];
    sdc_cache *cache = NULL;

    REQUIRE(sdc_cache_create(NULL, &cache) == SDC_OK);
    memset(list, 0, sizeof list);
    for (size_t i = 0; i < NUM; i++) {
        list[i].addr = "1.1.1.1:1";
        list[i].node = "n";
        list[i].id = "web";
        list[i].ns = scopes[i].ns;
        list[i].partition = scopes[i].partition;
        list[i].peer = scopes[i].peer;
    }
    CHECK_ERR(sdc_cache_update(cache, list, NUM, 1, 1), SDC_OK);
    const sdc_event *event = sdc_cache_state(cache);
    CHECK_INT(event->num_instances, NUM);
    sdc_event_release(event);
    sdc_cache_destroy(cache);
}

static void test_72_weights_by_status(void)
{
    static const struct { const char *weights, *status; unsigned weight; } table[] = {
        { "", "passing", 1 }, { "", "warning", 1 }, { "", "critical", 0 },
        { "\"Weights\":null,", "passing", 1 }, { "\"Weights\":null,", "warning", 1 },
        { "\"Weights\":{},", "warning", 0 },
        { "\"Weights\":{\"Passing\":10,\"Warning\":3},", "passing", 10 },
        { "\"Weights\":{\"Passing\":10,\"Warning\":3},", "warning", 3 },
        { "\"Weights\":{\"Passing\":10,\"Warning\":3},", "critical", 0 },
        { "\"Weights\":{\"Passing\":10},", "passing", 10 },
        { "\"Weights\":{\"Passing\":10},", "warning", 0 },
        { "\"Weights\":{\"Warning\":3},", "warning", 3 },
        { "\"Weights\":{\"Passing\":0,\"Warning\":0},", "passing", 0 },
        { "\"Weights\":{\"Passing\":65535,\"Warning\":65535},", "passing", 65535 },
        { "\"Weights\":{\"Passing\":10},\"Weights\":null,", "warning", 1 },
        { "\"Weights\":null,\"Weights\":{\"Passing\":10},", "warning", 0 }
    };

    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        entries_text body;
        entries_text want;
        body.len = 0;
        want.len = 0;
        entries_put(&body, "[{\"Service\":{%s\"Address\":\"1.1.1.1\",\"Port\":1},\"Checks\":[{"
                    "\"CheckID\":\"c\",\"Status\":\"%s\"}]}]", table[i].weights, table[i].status);
        entries_put(&want, "1.1.1.1:1 %s weight=%u\nok, 0 skipped", table[i].status,
                    table[i].weight);
        CHECK_STR(entries_log(body.text), want.text);
    }
    CHECK_STR(entries_log("[{\"Service\":{\"Weights\":{\"Passing\":10},\"Address\":\"1.1.1.1\","
                          "\"Port\":1},\"Checks\":[{\"CheckID\":\"_node_maintenance\"}]}]"),
              "1.1.1.1:1 maintenance weight=0\nok, 0 skipped");
}

static void test_73_status_of_all_checks(void)
{
    static const struct { const char *checks; const char *status; } table[] = {
        { "", "passing" },
        { "{\"CheckID\":\"a\",\"Status\":\"passing\"}", "passing" },
        { "{\"CheckID\":\"a\",\"Status\":\"warning\"}", "warning" },
        { "{\"CheckID\":\"a\",\"Status\":\"critical\"}", "critical" },
        { "{\"CheckID\":\"a\",\"Status\":\"unknown\"}", "critical" },
        { "{\"CheckID\":\"a\",\"Status\":\"\"}", "critical" },
        { "{\"CheckID\":\"a\",\"Status\":\"PASSING\"}", "critical" },
        { "{\"CheckID\":\"a\",\"Status\":\"passing \"}", "critical" },
        { "{\"CheckID\":\"a\",\"Status\":\"maintenance\"}", "critical" },
        { "{\"CheckID\":\"a\"}", "critical" },
        { "{}", "critical" },
        { "{\"CheckID\":\"_node_maintenance\",\"Status\":\"critical\"}", "maintenance" },
        { "{\"CheckID\":\"_node_maintenance\",\"Status\":\"passing\"}", "maintenance" },
        { "{\"CheckID\":\"_service_maintenance:web-1\",\"Status\":\"critical\"}", "maintenance" },
        { "{\"CheckID\":\"_service_maintenance:\",\"Status\":\"critical\"}", "maintenance" },
        { "{\"CheckID\":\"_service_maintenance\",\"Status\":\"passing\"}", "passing" },
        { "{\"CheckID\":\"_node_maintenance2\",\"Status\":\"passing\"}", "passing" },
        { "{\"CheckID\":\"x_node_maintenance\",\"Status\":\"passing\"}", "passing" },
        { "{\"Status\":\"passing\"},{\"Status\":\"warning\"},{\"Status\":\"passing\"}", "warning" },
        { "{\"Status\":\"warning\"},{\"Status\":\"critical\"}", "critical" },
        { "{\"Status\":\"critical\"},{\"Status\":\"warning\"}", "critical" },
        { "{\"Status\":\"critical\"},{\"CheckID\":\"_node_maintenance\"},{\"Status\":\"passing\"}",
          "maintenance" },
        { "{\"CheckID\":\"_node_maintenance\",\"Status\":\"critical\"},{\"Status\":\"critical\"}",
          "maintenance" }
    };

    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        entries_text body;
        entries_text want;
        body.len = 0;
        want.len = 0;
        entries_put(&body, "[{\"Checks\":[%s],\"Service\":{\"Address\":\"1.1.1.1\",\"Port\":1}}]",
                    table[i].checks);
        entries_put(&want, "1.1.1.1:1 %s weight=%d\nok, 0 skipped", table[i].status,
                    strcmp(table[i].status, "passing") == 0 ||
                    strcmp(table[i].status, "warning") == 0);
        CHECK_STR(entries_log(body.text), want.text);
    }
}

/* What one entry says does not leak into the next one that says less. */
static void test_73_entries_are_forgotten(void)
{
    CHECK_STR(entries_log("[{\"Node\":{\"Node\":\"n\",\"Address\":\"9.9.9.9\",\"Datacenter\":\"d\","
                          "\"Partition\":\"p\",\"PeerName\":\"q\",\"Locality\":{\"Region\":\"r\","
                          "\"Zone\":\"z\"}},\"Service\":{\"ID\":\"a\",\"Service\":\"web\","
                          "\"Tags\":["
                          "\"t\"],\"Meta\":{\"k\":\"v\"},\"TaggedAddresses\":{\"lan\":{\"Address\":"
                          "\"1\",\"Port\":1}},\"Ports\":[{\"Name\":\"x\",\"Port\":5,\"Default\":"
                          "true}"
                          "],\"SocketPath\":\"/s\",\"Weights\":{\"Passing\":5},\"Namespace\":"
                          "\"ns\","
                          "\"Locality\":{\"Region\":\"r\"}},\"Checks\":[{\"CheckID\":"
                          "\"_node_maintenance\"}]},{\"Service\":{\"Address\":\"2.2.2.2\","
                          "\"Port\":2},\"Checks\":[{}]},{\"Service\":{\"Address\":\"3.3.3.3\"}},{"
                          "\"Service\":{\"Port\":4}},{\"Service\":{\"Tags\":[1]}}" ENTRIES_SECOND),
              "unix:/s id=a service=web node=n dc=d ns=ns partition=p peer=q region=r tags=t "
              "meta.k=v at.lan=1:1 port.x=5* maintenance weight=0\n"
              "2.2.2.2:2 critical weight=0\nskip 2: no port\nskip 3: no address\n"
              "skip 4: a tag is not a string\n" ENTRIES_SECOND_LOG "ok, 3 skipped");
}

static void test_entries_own_locality_before_the_nodes(void)
{
    CHECK_STR(entries_log("[{\"Node\":{\"Locality\":{\"Region\":\"nr\",\"Zone\":\"nz\"}},"
                          "\"Service\":{\"Address\":\"1.1.1.1\",\"Port\":1,\"Locality\":{"
                          "\"Region\":\"sr\"}}}]"),
              "1.1.1.1:1 region=sr passing weight=1\nok, 0 skipped");
    CHECK_STR(entries_log("[{\"Node\":{\"Locality\":{\"Region\":\"nr\",\"Zone\":\"nz\"}},"
                          "\"Service\":{\"Address\":\"1.1.1.1\",\"Port\":1,\"Locality\":{}}}]"),
              "1.1.1.1:1 region=nr zone=nz passing weight=1\nok, 0 skipped");
}

/* -- Line 42, and limits -- */

static void test_42_html_is_no_answer(void)
{
    CHECK_STR(entries_log("<!DOCTYPE html>\n<html><body>Sign in</body></html>\n"),
              "JSON: JSON, byte 0: a value is missing, 0 skipped");
    CHECK_STR(entries_log("rpc error making call: EOF"),
              "JSON: JSON, byte 0: a value is missing, 0 skipped");
    CHECK_STR(entries_log(""), "JSON: JSON, byte 0: the text ends too early, 0 skipped");
}

/* Feeds long text whole and in pieces, with one odd cut: answers the log. */
static const char *entries_long_log(const char *body, size_t len)
{
    static char log[4096];
    feed f;

    feed_init(&f, FEED_ENTRIES, NULL);
    feed_put(&f.first, "", 0);
    feed_puts(&f.first, feed_whole(&f, body, len));
    (void)feed_in_pieces(&f, body, len, 7, 65536);
    if (!feed_same(&f, "pieces of 65536 from", 7)) {
        FAIL("%s", f.why);
    }
    snprintf(log, sizeof log, "%s", f.first.text);
    feed_deinit(&f);
    return log;
}

/* An entry with one long member: `count` times `item` between `before` and `after`. */
static const char *entries_repeated(const char *before, const char *item, size_t count,
                                    const char *after)
{
    feed_log body = { NULL, 0, 0 };

    feed_puts(&body, "[{\"Service\":{\"Port\":1,\"ID\":\"s\",");
    feed_puts(&body, before);
    for (size_t i = 0; i < count; i++) {
        feed_puts(&body, item);
    }
    feed_puts(&body, after);
    feed_puts(&body, "}}" ENTRIES_SECOND);
    const char *log = entries_long_log(body.text, body.len);
    free(body.text);
    return log;
}

static void test_60_an_entry_of_too_many_items_is_left_out(void)
{
    static const char too_many[] = "skip 0: more than 1024 tags, ports or meta pairs\n"
                                   ENTRIES_SECOND_LOG "ok, 1 skipped";

    CHECK_HAS(entries_repeated("\"Address\":\"1.1.1.1\",\"Tags\":[", "\"a\",", 1023, "\"a\"]"),
              "1.1.1.1:1 id=s tags=a,a,a,");
    CHECK_STR(entries_repeated("\"Address\":\"1.1.1.1\",\"Tags\":[", "\"a\",", 1024, "\"a\"]"),
              too_many);
    CHECK_STR(entries_repeated("\"Address\":\"1.1.1.1\",\"Ports\":[", "{},", 1024, "{}]"),
              too_many);
    CHECK_STR(entries_repeated("\"Address\":\"1.1.1.1\",\"Meta\":{", "\"a\":\"\",", 1024,
                               "\"a\":\"\"}"), too_many);
    CHECK_STR(entries_repeated("\"Address\":\"1.1.1.1\",\"TaggedAddresses\":{", "\"a\":{},", 1024,
                               "\"a\":{}}"), too_many);
}

/* The text of an entry is held, so there is a bound on it; what is skipped has none. */
static void test_60_an_entry_of_too_much_text_is_left_out(void)
{
    static const char too_long[] = "skip 0: more than 1 MiB of text\n"
                                   ENTRIES_SECOND_LOG "ok, 1 skipped";

    feed_log tag = { NULL, 0, 0 };
    feed_puts(&tag, "\"");
    for (int i = 0; i < 1100; i++) {
        feed_puts(&tag, "a");
    }
    feed_puts(&tag, "\",");
    CHECK_STR(entries_repeated("\"Address\":\"1.1.1.1\",\"Tags\":[", tag.text, 1000, "\"a\"]"),
              too_long);
    free(tag.text);
    CHECK_STR(entries_repeated("\"Address\":\"1.1.1.1\",\"Notes\":\"", "0123456789abcdef", 131072,
                               "\""),
              "1.1.1.1:1 id=s passing weight=1\n" ENTRIES_SECOND_LOG "ok, 0 skipped");
    CHECK_STR(entries_repeated("\"Address\":\"1.1.1.1\",", "\"Kind\":\"0123456789abcdef\",",
                               65536, "\"Kind\":\"\""),
              "1.1.1.1:1 id=s passing weight=1\n" ENTRIES_SECOND_LOG "ok, 0 skipped");
}

/* Its address fits, but not once more as part of addr: left out like any other, and counted. */
static void test_60_an_address_that_fits_only_once(void)
{
    CHECK_STR(entries_repeated("\"Address\":\"", "0123456789abcdef", 40000, "\""),
              "skip 0: more than 1 MiB of text\n" ENTRIES_SECOND_LOG "ok, 1 skipped");
}

/* -- The callback, and a decoder's life -- */

typedef struct entries_refuser {
    unsigned num_calls;
    unsigned refuse_at;
} entries_refuser;

static sdc_err entries_refuse(void *user, const sdc_instance *instance)
{
    entries_refuser *r = (entries_refuser *)user;

    (void)instance;
    r->num_calls++;
    return r->num_calls == r->refuse_at ? SDC_ERR_USER : SDC_OK;
}

/* A body with as much space behind it that no decoder holds back what stands before. */
static void entries_put_behind(entries_text *t, const char *body)
{
    t->len = 0;
    entries_put(t, "%s%1024s", body, "");
}

static void test_entries_callback_ends_the_feed(void)
{
    static const char body[] = "[{\"Service\":{\"Address\":\"1.1.1.1\",\"Port\":1}}" ENTRIES_SECOND;
    entries_refuser r = { 0, 1 };
    sdc_entries *entries = NULL;
    sdc_error error;
    entries_text t;

    entries_put_behind(&t, body);
    REQUIRE(sdc_entries_create(NULL, entries_refuse, &r, &entries) == SDC_OK);
    CHECK_ERR(sdc_entries_feed(entries, t.text, t.len), SDC_ERR_USER);
    CHECK_ERR(sdc_entries_feed(entries, t.text, t.len), SDC_ERR_USER);
    CHECK_ERR(sdc_entries_finish(entries), SDC_ERR_USER);
    sdc_entries_error(entries, &error);
    CHECK_ERR(error.code, SDC_ERR_USER);
    CHECK_INT(r.num_calls, 1);
    sdc_entries_error(entries, NULL);
    sdc_entries_reset(entries);
    CHECK_ERR(sdc_entries_feed(entries, body, strlen(body)), SDC_OK);
    CHECK_ERR(sdc_entries_finish(entries), SDC_OK);
    CHECK_INT(r.num_calls, 3);
    sdc_entries_destroy(entries);
}

/* A short body may be held back as a whole: then finish is what the callback ends. */
static void test_entries_callback_ends_the_finish(void)
{
    static const char body[] = "[{\"Service\":{\"Address\":\"1.1.1.1\",\"Port\":1}}" ENTRIES_SECOND;
    entries_refuser r = { 0, 2 };
    sdc_entries *entries = NULL;
    sdc_error error;

    REQUIRE(sdc_entries_create(NULL, entries_refuse, &r, &entries) == SDC_OK);
    (void)sdc_entries_feed(entries, body, strlen(body));
    CHECK_ERR(sdc_entries_finish(entries), SDC_ERR_USER);
    sdc_entries_error(entries, &error);
    CHECK_ERR(error.code, SDC_ERR_USER);
    CHECK_INT(r.num_calls, 2);
    sdc_entries_destroy(entries);
}

static void test_entries_first_error_stays_until_reset(void)
{
    entries_text t;
    feed f;

    feed_init(&f, FEED_ENTRIES, NULL);
    REQUIRE(f.made == SDC_OK);
    entries_put_behind(&t, "[1,2}");
    CHECK_ERR(sdc_entries_feed(f.entries, t.text, t.len), SDC_ERR_JSON);
    CHECK_INT(sdc_entries_skipped(f.entries), 2);
    CHECK_ERR(sdc_entries_feed(f.entries, "]", 1), SDC_ERR_JSON);
    CHECK_ERR(sdc_entries_finish(f.entries), SDC_ERR_JSON);
    sdc_entries_reset(f.entries);
    CHECK_INT(sdc_entries_skipped(f.entries), 0);
    CHECK_STR(feed_whole(&f, "[]", 2), "ok, 0 skipped");
    feed_deinit(&f);
}

/* Left in the middle of anything: what was begun does not show in the next body. */
static void test_entries_reset_in_the_middle(void)
{
    static const char first[] = "[{\"Node\":{\"Address\":\"8.8.8.8\",\"Node\":\"n\"},\"Service\":{"
                                "\"Tags\":[\"a\"],\"Weights\":{\"Passing\":3},\"x\":{\"y\":[{}]},"
                                "\"Ports\":[{\"Name\":\"p\",\"Port\":5,\"Default\":true}]},"
                                "\"Checks\":[{\"Status\":\"critical\"}]}";
    static const char body[] = "[{\"Service\":{\"Address\":\"1.1.1.1\",\"Port\":1}}" ENTRIES_SECOND;
    feed f;

    feed_init(&f, FEED_ENTRIES, NULL);
    REQUIRE(f.made == SDC_OK);
    for (size_t i = 0; i < sizeof first; i++) {
        test_note("left at %zu", i);
        feed_begin(&f);
        (void)sdc_entries_feed(f.entries, first, i);
        CHECK_STR(feed_whole(&f, body, strlen(body)),
                  ENTRIES_PLAIN "\n" ENTRIES_SECOND_LOG "ok, 0 skipped");
    }
    feed_deinit(&f);
}

static void test_entries_need_a_callback(void)
{
    sdc_entries *entries = (sdc_entries *)1;

    CHECK_ERR(sdc_entries_create(NULL, NULL, NULL, &entries), SDC_ERR_ARG);
    CHECK(entries == NULL);
    sdc_entries_destroy(NULL);
}

static const test_case cases_entries[] = {
    TEST(test_61_each_member_present),
    TEST(test_61_each_member_absent_or_null),
    TEST(test_61_each_member_twice),
    TEST(test_61_each_member_of_a_wrong_type),
    TEST(test_61_names_are_exact),
    TEST(test_61_names_may_be_escaped),
    TEST(test_61_items_of_a_wrong_type),
    TEST(test_61_entries_of_a_wrong_type),
    TEST(test_61_a_top_that_is_no_array_is_a_wrong_shape),
    TEST(test_62_null_where_go_writes_null),
    TEST(test_63_ports_are_integers_from_0_to_65535),
    TEST(test_64_named_ports),
    TEST(test_65_no_service_address_means_the_nodes),
    TEST(test_66_ipv6_gets_brackets_in_addr),
    TEST(test_67_text_is_decoded),
    TEST(test_67_a_nul_that_would_show_skips_the_instance),
    TEST(test_67_a_nul_in_a_check_is_part_of_its_name),
    TEST(test_67_bad_text_is_no_json_anywhere),
    TEST(test_68_indexes_of_any_size_are_skipped),
    TEST(test_69_unknown_members_are_skipped_at_any_depth),
    TEST(test_69_depth_of_a_skipped_member),
    TEST(test_69_of_duplicates_the_last_wins),
    TEST(test_69_tags_and_meta_are_sorted_by_byte),
    TEST(test_69_answers_of_agents),
    TEST(test_70_one_id_on_two_nodes_is_two_instances),
    TEST(test_71_peer_partition_and_namespace),
    TEST(test_71_they_are_part_of_the_identity),
    TEST(test_72_weights_by_status),
    TEST(test_73_status_of_all_checks),
    TEST(test_73_entries_are_forgotten),
    TEST(test_entries_own_locality_before_the_nodes),
    TEST(test_42_html_is_no_answer),
    TEST(test_60_an_entry_of_too_many_items_is_left_out),
    TEST(test_60_an_entry_of_too_much_text_is_left_out),
    TEST(test_60_an_address_that_fits_only_once),
    TEST(test_entries_callback_ends_the_feed),
    TEST(test_entries_callback_ends_the_finish),
    TEST(test_entries_first_error_stays_until_reset),
    TEST(test_entries_reset_in_the_middle),
    TEST(test_entries_need_a_callback)
};
