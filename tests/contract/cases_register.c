/* Registration and deregistration at the agent: what it takes, what it refuses and in which words,
   and what of it is to be seen. */
#include "trial.h"

#include <stdio.h>
#include <string.h>

#define REGISTER "/v1/agent/service/register"

/* The body must be refused in exactly these words, with this status. */
static void refused_with(trial *t, int status, const char *body, const char *words)
{
    reply *r = put(t, body, REGISTER);
    STATUS(r, status);
    BODY(r, "%s", words);
}

static void refused(trial *t, const char *body, const char *words)
{
    refused_with(t, 400, body, words);
}

/* Go puts its own types into these words, so only how they begin is the contract. */
static void not_decoded(trial *t, const char *body)
{
    reply *r = put(t, body, REGISTER);
    STATUS(r, 400);
    BODY_STARTS(r, "Request decode failed: ");
}

/* ---- what is registered can be read ---------------------------------------- */

static void register_name_alone(trial *t)
{
    reply *r = enroll(t, "{'Name':'%s'}", t->name);
    BODY(r, "%s", "");
    FIELD(r, "Content-Length", "0");
    r = health_of(t, 1);
    AT(r, "0/Service/ID", t->name);
    AT(r, "0/Service/Service", t->name);
    AT(r, "0/Service/Tags", "[]");
    AT(r, "0/Service/Address", "");
    AT(r, "0/Service/TaggedAddresses", "absent");
    AT(r, "0/Service/Meta", "null");
    AT(r, "0/Service/Port", PER(t, "0", "absent"));
    AT(r, "0/Service/Weights/Passing", "1");
    AT(r, "0/Service/Weights/Warning", "1");
    AT(r, "0/Service/EnableTagOverride", "false");
    AT(r, "0/Checks/0/CheckID", "serfHealth");
    AT(r, "0/Checks/1", "absent");
}

static void register_every_member(trial *t)
{
    enroll(t, "{'Name':'%s','ID':'%s-1','Tags':['b','a'],'Address':'10.1.2.3','Port':8080,"
              "'Meta':{'k':'v','A':'b'},'Weights':{'Passing':10,'Warning':3},"
              "'EnableTagOverride':true,"
              "'TaggedAddresses':{'wan':{'Address':'198.51.100.4','Port':80}},"
              "'Check':{'CheckID':'%s-check','Name':'alive','Notes':'a note','Status':'passing',"
              "'TTL':'30s'}}", t->name, t->name, t->name);
    reply *r = health_when(t, "0/Checks/1/Status", "passing");
    const char *id = text(t, "%s-1", t->name);
    AT(r, "0/Service/ID", id);
    AT(r, "0/Service/Tags", "[b,a]");
    AT(r, "0/Service/Address", "10.1.2.3");
    AT(r, "0/Service/Port", "8080");
    AT(r, "0/Service/Meta/k", "v");
    AT(r, "0/Service/Meta/A", "b");
    AT(r, "0/Service/Weights/Passing", "10");
    AT(r, "0/Service/Weights/Warning", "3");
    AT(r, "0/Service/EnableTagOverride", "true");
    AT(r, "0/Service/TaggedAddresses/wan/Address", "198.51.100.4");
    AT(r, "0/Service/TaggedAddresses/wan/Port", "80");
    AT(r, "0/Checks/1/Name", "alive");
    AT(r, "0/Checks/1/Notes", "a note");
    AT(r, "0/Checks/1/ServiceID", id);
    AT(r, "0/Checks/1/ServiceName", t->name);
    AT(r, "0/Checks/1/ServiceTags", "[b,a]");
}

static void register_address_kinds(trial *t)
{
    enroll(t, "{'Name':'%s','ID':'%s-1','Address':'::1','Port':1}", t->name, t->name);
    enroll(t, "{'Name':'%s','ID':'%s-2','Address':'localhost','Port':1}", t->name, t->name);
    enroll(t, "{'Name':'%s','ID':'%s-3','Address':'10.0.0.9','Port':1}", t->name, t->name);
    reply *r = health_of(t, 3);
    AT(r, "0/Service/Address", "::1");
    AT(r, "0/Service/TaggedAddresses/lan_ipv6/Address", "::1");
    AT(r, "0/Service/TaggedAddresses/wan_ipv6/Address", "::1");
    AT(r, "0/Service/TaggedAddresses/lan_ipv4", "absent");
    AT(r, "1/Service/Address", "localhost");
    AT(r, "1/Service/TaggedAddresses", "absent");
    AT(r, "2/Service/TaggedAddresses/lan_ipv4/Address", "10.0.0.9");
    AT(r, "2/Service/TaggedAddresses/lan_ipv4/Port", "1");
}

static void register_weights(trial *t)
{
    enroll(t, "{'Name':'%s','Port':1,'Weights':{'Passing':5}}", t->name);
    reply *r = health_of(t, 1);
    AT(r, "0/Service/Weights/Passing", "5");
    AT(r, "0/Service/Weights/Warning", "0");
    refused(t, "{'Name':'x','Weights':{'Passing':0,'Warning':1}}",
            "Invalid Weights: Passing must be greater than 0");
    refused(t, "{'Name':'x','Weights':{'Passing':1,'Warning':-1}}",
            "Invalid Weights: Warning must be greater or equal than 0");
    refused(t, "{'Name':'x','Weights':{'Passing':65536,'Warning':1}}",
            "Invalid Weights: DNS Weight must be between 0 and 65535");
}

static void register_any_port(trial *t)
{
    enroll(t, "{'Name':'%s','ID':'%s-1','Port':-1}", t->name, t->name);
    enroll(t, "{'Name':'%s','ID':'%s-2','Port':70000}", t->name, t->name);
    reply *r = health_of(t, 2);
    AT(r, "0/Service/Port", "-1");
    AT(r, "1/Service/Port", "70000");
}

static void register_newer_members(trial *t)
{
    if (!t->is_new) {
        refused(t, "{'Name':'x','SocketPath':'/tmp/x'}",
                "Request decode failed: json: unknown field \"SocketPath\"");
        refused(t, "{'Name':'x','Locality':{'Region':'r'}}",
                "Request decode failed: json: unknown field \"Locality\"");
        return;
    }
    enroll(t, "{'Name':'%s','SocketPath':'/tmp/x','Locality':{'Region':'r','Zone':'z'}}", t->name);
    reply *r = health_of(t, 1);
    AT(r, "0/Service/SocketPath", "/tmp/x");
    AT(r, "0/Service/Locality/Region", "r");
    AT(r, "0/Service/Locality/Zone", "z");
}

static void register_ports(trial *t)
{
    if (!t->is_new) {
        refused(t, "{'Name':'x','Ports':[{'Name':'http','Port':80,'Default':true}]}",
                "Request decode failed: json: unknown field \"Ports\"");
        return;
    }
    enroll(t, "{'Name':'%s','Ports':[{'Name':'admin','Port':81},"
              "{'Name':'http','Port':80,'Default':true}]}", t->name);
    reply *r = health_of(t, 1);
    AT(r, "0/Service/Port", "80");
    AT(r, "0/Service/Ports/0/Name", "admin");
    AT(r, "0/Service/Ports/1/Name", "http");
    AT(r, "0/Service/Ports/1/Port", "80");
    AT(r, "0/Service/Ports/1/Default", "true");
    refused(t, "{'Name':'x','Port':80,'Ports':[{'Name':'http','Port':80,'Default':true}]}",
            "Validation failed: 1 error occurred:\n\t* Cannot set both Port and Ports\n\n");
}

static void register_names_in_any_case(trial *t)
{
    enroll(t, "{'name':'%s','Name':'%s','PORT':81,'tAgS':['x'],'enable_tag_override':true,"
              "'tagged_addresses':{'wan':{'Address':'198.51.100.4','Port':80}}}", t->name, t->name);
    reply *r = health_of(t, 1);
    AT(r, "0/Service/Port", "81");
    AT(r, "0/Service/Tags", "[x]");
    AT(r, "0/Service/EnableTagOverride", "true");
    AT(r, "0/Service/TaggedAddresses/wan/Port", "80");
}

static void register_odd_names(trial *t)
{
    static const char *const odd[][2] = {           /* as JSON, as percent-encoded path */
        { "a b", "a%20b" }, { "a/b", "a%2Fb" }, { "\xC3\xA9", "%C3%A9" }, { "a?b#c", "a%3Fb%23c" },
        { "a+b", "a+b" }, { "50%", "50%25" }, { "a;b", "a%3Bb" }
    };
    for (size_t i = 0; i < sizeof odd / sizeof odd[0]; i++) {
        const char *name = text(t, "%s-%s", t->name, odd[i][0]);
        enroll(t, "{'Name':'%s','ID':'%s-%zu'}", name, t->name, i);
        const char *own = t->name;
        t->name = text(t, "%s-%s", t->name, odd[i][1]);
        AT(health_of(t, 1), "0/Service/Service", name);
        t->name = own;
    }
}

static void register_two_instances(trial *t)
{
    enroll(t, "{'Name':'%s','ID':'%s-b','Port':2}", t->name, t->name);
    enroll(t, "{'Name':'%s','ID':'%s-a','Port':1}", t->name, t->name);
    reply *r = health_of(t, 2);
    AT(r, "0/Service/Port", "1");
    AT(r, "1/Service/Port", "2");
}

static void register_again_replaces(trial *t)
{
    enroll(t, "{'Name':'%s','Port':1,'Tags':['a'],'Meta':{'k':'v'}}", t->name);
    reply *r = health_when(t, "0/Service/Port", "1");
    char created[32];
    value_show(value_at(r->json, "0/Service/CreateIndex"), created, sizeof created);
    enroll(t, "{'Name':'%s','Port':2}", t->name);
    r = health_when(t, "0/Service/Port", "2");
    AT(r, "0/Service/Tags", "[]");
    AT(r, "0/Service/Meta", "null");
    AT(r, "0/Service/CreateIndex", created);
    AT(r, "1", "absent");
}

static void register_id_takes_new_name(trial *t)
{
    enroll(t, "{'Name':'%s','ID':'%s-1'}", t->name, t->name);
    health_of(t, 1);
    enroll(t, "{'Name':'%s-other','ID':'%s-1'}", t->name, t->name);
    health_of(t, 0);
    AT(get(t, "/v1/health/service/%s-other", t->name), "0/Service/Port", PER(t, "0", "absent"));
}

static void register_ignores_what_follows(trial *t)
{
    enroll(t, "{'Name':'%s'} and more", t->name);
    health_of(t, 1);
}

/* ---- what is refused --------------------------------------------------------- */

static void register_not_an_object(trial *t)
{
    refused(t, "", "Request decode failed: EOF");
    refused(t, "{", "Request decode failed: unexpected EOF");
    not_decoded(t, "[]");
    not_decoded(t, "'x'");
    not_decoded(t, "{Name:'x'}");
}

static void register_no_name(trial *t)
{
    refused(t, "{}", "Missing service name");
    refused(t, "{'Name':''}", "Missing service name");
    refused(t, "{'ID':'x'}", "Missing service name");
    refused(t, "null", "Missing service name");
}

static void register_unknown_member(trial *t)
{
    static const char *const unknown[][2] = {
        { "{'Name':'x','Foo':1}", "Foo" },
        { "{'Name':'x','Namespace':'n'}", "Namespace" },
        { "{'Name':'x','Partition':'p'}", "Partition" },
        { "{'Name':'x','socket_path':'p'}", "socket_path" },
        { "{'Name':'x','Check':{'TTL':'10s','Foo':1}}", "Foo" },
        { "{'Name':'x','Check':{'TTL':'10s','check_id':'c'}}", "check_id" }
    };
    for (size_t i = 0; i < sizeof unknown / sizeof unknown[0]; i++) {
        reply *r = put(t, unknown[i][0], REGISTER);
        STATUS(r, 400);
        BODY(r, "Request decode failed: json: unknown field \"%s\"", unknown[i][1]);
    }
}

static void register_wrong_type(trial *t)
{
    not_decoded(t, "{'Name':'x','Port':'80'}");
    not_decoded(t, "{'Name':'x','Port':80.5}");
    not_decoded(t, "{'Name':5}");
    not_decoded(t, "{'Name':'x','Tags':'a'}");
    not_decoded(t, "{'Name':'x','Tags':[1]}");
    not_decoded(t, "{'Name':'x','Meta':{'k':5}}");
    not_decoded(t, "{'Name':'x','Checks':{}}");
}

static void register_null_members(trial *t)
{
    enroll(t, "{'Name':'%s','ID':null,'Tags':null,'Address':null,'Port':null,'Meta':null,"
              "'Weights':null,'Check':null,'Checks':null}", t->name);
    AT(health_of(t, 1), "0/Service/ID", t->name);
}

static void register_address_means_any(trial *t)
{
    refused(t, "{'Name':'x','Address':'0.0.0.0'}", "Invalid service address");
    refused(t, "{'Name':'x','Address':'::'}", "Invalid service address");
    refused(t, "{'Name':'x','Address':'[::]'}", "Invalid service address");
}

static void register_tagged_address_family(trial *t)
{
    static const char *const families[][3] = {
        { "lan_ipv4", "::1", "ipv4" }, { "wan_ipv4", "x", "ipv4" },
        { "lan_ipv6", "10.0.0.1", "ipv6" }
    };
    for (size_t i = 0; i < sizeof families / sizeof families[0]; i++) {
        refused_with(t, 500, text(t, "{'Name':'x','TaggedAddresses':{'%s':{'Address':'%s'}}}",
                                  families[i][0], families[i][1]),
                     text(t, "Service tagged address \"%s\" must be a valid %s address",
                          families[i][0], families[i][2]));
    }
    /* Of the four only wan_ipv6 is not looked at. */
    enroll(t, "{'Name':'%s','TaggedAddresses':{'wan_ipv6':{'Address':'x'}}}", t->name);
}

static void register_meta_limits(trial *t)
{
    char body[4096], long_text[600];
    refused(t, "{'Name':'x','Meta':{'bad key':'v'}}",
            "Invalid Service Meta: Couldn't load metadata pair ('bad key', 'v'): "
            "Key contains invalid characters");
    refused(t, "{'Name':'x','Meta':{'':'v'}}",
            "Invalid Service Meta: Couldn't load metadata pair ('', 'v'): Key cannot be blank");
    refused(t, "{'Name':'x','Meta':{'consul-k':'v'}}",
            "Invalid Service Meta: Couldn't load metadata pair ('consul-k', 'v'): "
            "Key prefix 'consul-' is reserved for internal use");

    memset(long_text, 'x', sizeof long_text);
    snprintf(body, sizeof body, "{'Name':'x','Meta':{'k':'%.513s'}}", long_text);
    reply *r = put(t, body, REGISTER);
    STATUS(r, 400);
    BODY(r, "Invalid Service Meta: Couldn't load metadata pair ('k', '%.513s'): Value is too long "
            "(limit: 512 characters)", long_text);
    snprintf(body, sizeof body, "{'Name':'x','Meta':{'%.129s':'v'}}", long_text);
    r = put(t, body, REGISTER);
    STATUS(r, 400);
    BODY(r, "Invalid Service Meta: Couldn't load metadata pair ('%.129s', 'v'): Key is too long "
            "(limit: 128 characters)", long_text);

    size_t len = (size_t)snprintf(body, sizeof body, "{'Name':'x','Meta':{'k':'v'");
    for (int i = 1; i <= 64; i++) {
        len += (size_t)snprintf(body + len, sizeof body - len, ",'k%d':'v'", i);
    }
    snprintf(body + len, sizeof body - len, "}}");
    refused(t, body,
            "Invalid Service Meta: Node metadata cannot contain more than 64 key/value pairs");
}

static void register_meta_at_the_limit(trial *t)
{
    char long_text[513];
    memset(long_text, 'x', sizeof long_text);
    enroll(t, "{'Name':'%s','Meta':{'%.128s':'%.512s'}}", t->name, long_text, long_text);
}

static void register_enterprise_parameters(trial *t)
{
    reply *r = put(t, "{'Name':'x'}", REGISTER "?ns=n");
    STATUS(r, 400);
    BODY(r, "%sInvalid query parameter: \"ns\" - Namespaces are a Consul Enterprise feature",
         PER(t, "Bad request: ", ""));
    if (t->is_new) {
        r = put(t, "{'Name':'x'}", REGISTER "?partition=p");
        STATUS(r, 400);
        BODY(r, "Invalid query parameter: \"partition\" - Partitions are a Consul Enterprise "
                "feature");
    }
}

static void register_is_a_put(trial *t)
{
    reply *r = get(t, REGISTER);
    STATUS(r, 405);
    FIELD(r, "Allow", "OPTIONS,PUT");
    BODY(r, "method GET not allowed");
    r = ask(t, "POST", "", REGISTER);
    STATUS(r, 405);
    BODY(r, "method POST not allowed");
}

/* ---- checks in a registration ------------------------------------------------- */

static void register_check_contradicts(trial *t)
{
    refused(t, "{'Name':'x','Check':{'TTL':'10s','Interval':'10s','HTTP':'http://127.0.0.1:1/'}}",
            "Invalid check: Interval and TTL cannot both be specified");
    refused(t, "{'Name':'x','Check':{'HTTP':'http://127.0.0.1:1/'}}",
            PER(t, "Invalid check: Interval must be > 0 for Script, HTTP, or TCP checks",
                "Invalid check: Interval must be > 0 for Script, HTTP, H2PING, TCP, UDP or "
                "OSService checks"));
    refused(t, "{'Name':'x','Check':{'Interval':'10s'}}",
            "Invalid check: TTL must be > 0 for TTL checks");
    refused(t, "{'Name':'x','Check':{'TTL':'-1s'}}",
            "Invalid check: TTL must be > 0 for TTL checks");
    refused(t, "{'Name':'x','Check':{'TTL':'xx'}}",
            "Request decode failed: time: invalid duration \"xx\"");
    refused(t, "{'Name':'x','Check':{'TTL':'10s','Status':'bogus'}}",
            "Status for checks must 'passing', 'warning', 'critical'");
}

/* A check without any member that says how to check is no check at all, and no fault. */
static void register_empty_check(trial *t)
{
    enroll(t, "{'Name':'%s','Check':{}}", t->name);
    AT(health_of(t, 1), "0/Checks/1", "absent");
    enroll(t, "{'Name':'%s','Check':{'TTL':'0s'}}", t->name);
    enroll(t, "{'Name':'%s','Check':{'TTL':true}}", t->name);
    AT(health_of(t, 1), "0/Checks/1", "absent");
}

static void register_scripts_are_off(trial *t)
{
    refused_with(t, 500, "{'Name':'x','Check':{'Args':['true'],'Interval':'10s'}}",
                 "Scripts are disabled on this agent from remote calls; to enable, configure "
                 "'enable_script_checks' to true");
}

static void register_check_defaults(trial *t)
{
    enroll(t, "{'Name':'%s','Check':{'TTL':'30s'}}", t->name);
    reply *r = health_when(t, "0/Checks/1/CheckID", text(t, "service:%s", t->name));
    AT(r, "0/Checks/1/Name", text(t, "Service '%s' check", t->name));
    AT(r, "0/Checks/1/Status", "critical");
    AT(r, "0/Checks/1/Output", "");
    AT(r, "0/Checks/1/Notes", "");
    AT(r, "0/Checks/1/ServiceID", t->name);
    AT(r, "0/Checks/1/ServiceTags", "[]");
    AT(r, "0/Checks/1/Type", "ttl");
    AT(r, "0/Checks/1/Interval", PER(t, "absent", ""));
    AT(r, "0/Checks/1/Timeout", PER(t, "absent", ""));
    AT(r, "0/Checks/1/ExposedPort", PER(t, "absent", "0"));
}

static void register_several_checks(trial *t)
{
    enroll(t, "{'Name':'%s','Check':{'TTL':'30s','Status':'passing'},"
              "'Checks':[{'TTL':'40s'},{'CheckID':'%s-own','TTL':'50s','Status':'warning'}]}",
           t->name, t->name);
    reply *r = health_when(t, "0/Checks", "[4]");
    const value *checks = value_at(r->json, "0/Checks");
    for (int i = 1; i <= 2; i++) {
        bool is_there = false;
        const char *id = text(t, "service:%s:%d", t->name, i);
        for (const value *c = checks->first; c != NULL; c = c->next) {
            is_there = is_there || strcmp(value_text(value_at(c, "CheckID")), id) == 0;
        }
        EXPECT(t, is_there);
    }
}

/* Active checks start critical and would be probed in 60 s at the earliest, or at a random moment
   within it, so only their kind is looked at. */
static void register_check_kinds(trial *t)
{
    static const struct { const char *json, *type; bool is_newer; } kinds[] = {
        { "'TTL':'60s'", "ttl", false },
        { "'HTTP':'http://127.0.0.1:1/','Interval':'60s','Timeout':'1s','Method':'POST',"
          "'Header':{'A':['b']},'Body':'x','TLSSkipVerify':true,"
          "'DeregisterCriticalServiceAfter':'90m'", "http", false },
        { "'TCP':'127.0.0.1:1','Interval':'60s'", "tcp", false },
        { "'GRPC':'127.0.0.1:1','GRPCUseTLS':false,'Interval':'60s'", "grpc", false },
        { "'AliasService':'consul'", "alias", false },
        { "'UDP':'127.0.0.1:1','Interval':'60s'", "udp", true },
        { "'H2PING':'127.0.0.1:1','Interval':'60s'", "h2ping", true }
    };
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (kinds[i].is_newer && !t->is_new) {
            char body[256];
            snprintf(body, sizeof body, "{'Name':'x','Check':{%s}}", kinds[i].json);
            not_decoded(t, body);
            continue;
        }
        enroll(t, "{'Name':'%s','ID':'%s-%zu','Check':{'Status':'passing',%s}}", t->name,
               t->name, i, kinds[i].json);
    }
    reply *r = health_of(t, t->is_new ? 7 : 5);
    for (size_t i = 0; i < (t->is_new ? 7 : 5); i++) {
        char path[32];
        snprintf(path, sizeof path, "%zu/Checks/1/Type", i);
        AT(r, path, kinds[i].type);
    }
}

static void register_duration_forms(trial *t)
{
    enroll(t, "{'Name':'%s','ID':'%s-1','Check':{'TTL':60000000000}}", t->name, t->name);
    enroll(t, "{'Name':'%s','ID':'%s-2','Check':{'TTL':'1m0.5s'}}", t->name, t->name);
    enroll(t, "{'Name':'%s','ID':'%s-3','Check':{'TTL':'1h2m3s4ms5us'}}", t->name, t->name);
    reply *r = health_of(t, 3);
    AT(r, "0/Checks/1/Type", "ttl");
    AT(r, "1/Checks/1/Type", "ttl");
    AT(r, "2/Checks/1/Type", "ttl");
}

static void register_again_keeps_check_state(trial *t)
{
    enroll(t, "{'Name':'%s','Check':{'TTL':'60s'}}", t->name);
    STATUS(put(t, "{'Status':'passing','Output':'fine'}", "/v1/agent/check/update/service:%s",
               t->name), 200);
    health_when(t, "0/Checks/1/Status", "passing");
    enroll(t, "{'Name':'%s','Port':2,'Check':{'TTL':'60s','Status':'critical'}}", t->name);
    reply *r = health_when(t, "0/Service/Port", "2");
    AT(r, "0/Checks/1/Status", "passing");
    AT(r, "0/Checks/1/Output", "fine");
}

static void register_again_does_not_heal(trial *t)
{
    enroll(t, "{'Name':'%s','Check':{'TTL':'60s'}}", t->name);
    health_when(t, "0/Checks/1/Status", "critical");
    enroll(t, "{'Name':'%s','Port':2,'Check':{'TTL':'60s','Status':'passing'}}", t->name);
    AT(health_when(t, "0/Service/Port", "2"), "0/Checks/1/Status", "critical");
}

static void register_again_keeps_old_checks(trial *t)
{
    enroll(t, "{'Name':'%s','Check':{'TTL':'60s'}}", t->name);
    health_when(t, "0/Checks", "[2]");
    enroll(t, "{'Name':'%s','Port':2}", t->name);
    AT(health_when(t, "0/Service/Port", "2"), "0/Checks", "[2]");
}

static void register_replace_existing_checks(trial *t)
{
    char body[128];
    static const char *const forms[] = { "", "=true" };
    snprintf(body, sizeof body, "{'Name':'%s'}", t->name);
    for (size_t i = 0; i < 2; i++) {
        enroll(t, "{'Name':'%s','Check':{'TTL':'60s'}}", t->name);
        health_when(t, "0/Checks", "[2]");
        STATUS(put(t, body, REGISTER "?replace-existing-checks%s", forms[i]), 200);
        health_when(t, "0/Checks", "[1]");
    }
    enroll(t, "{'Name':'%s','Check':{'TTL':'60s'}}", t->name);
    snprintf(body, sizeof body, "{'Name':'%s','Port':3}", t->name);
    STATUS(put(t, body, REGISTER "?replace-existing-checks=1"), 200);
    AT(health_when(t, "0/Service/Port", "3"), "0/Checks", "[2]");
}

static void register_replace_keeps_state_of_same_check(trial *t)
{
    char body[128];
    enroll(t, "{'Name':'%s','Check':{'TTL':'60s'}}", t->name);
    beat(t, "pass");
    health_when(t, "0/Checks/1/Status", "passing");
    snprintf(body, sizeof body, "{'Name':'%s','Port':2,'Check':{'TTL':'60s'}}", t->name);
    STATUS(put(t, body, REGISTER "?replace-existing-checks=true"), 200);
    AT(health_when(t, "0/Service/Port", "2"), "0/Checks/1/Status", "passing");
}

/* ---- deregistration, and the agent's own view ----------------------------------- */

static void deregister_known(trial *t)
{
    enroll(t, "{'Name':'%s','ID':'%s-1','Check':{'TTL':'60s'}}", t->name, t->name);
    enroll(t, "{'Name':'%s','ID':'%s-2'}", t->name, t->name);
    health_of(t, 2);
    const char *id = text(t, "%s-1", t->name);
    reply *r = deregister(t, id);
    STATUS(r, 200);
    BODY(r, "%s", "");
    FIELD(r, "Content-Length", "0");
    id = text(t, "%s-2", t->name);
    AT(health_of(t, 1), "0/Service/ID", id);
    STATUS(get(t, "/v1/agent/service/%s-1", t->name), 404);
    STATUS(put(t, NULL, "/v1/agent/check/pass/service:%s-1", t->name), PER(t, 500, 404));
}

static void deregister_unknown(trial *t)
{
    reply *r = deregister(t, t->name);
    if (!t->is_new) {
        STATUS(r, 200);
        BODY(r, "%s", "");
        return;
    }
    STATUS(r, 404);
    BODY(r, "%s", no_such_service(t, t->name));
}

static void deregister_no_id(trial *t)
{
    reply *r = deregister(t, "");
    STATUS(r, PER(t, 500, 404));
    BODY(r, "%s", PER(t, "ServiceID missing", no_such_service(t, "")));
    r = ask(t, "PUT", "", "/v1/agent/service/deregister");
    STATUS(r, PER(t, 301, 307));
    FIELD(r, "Location", "/v1/agent/service/deregister/");
    BODY(r, "%s", "");
}

static void deregister_by_name_does_not_work(trial *t)
{
    enroll(t, "{'Name':'%s','ID':'%s-1'}", t->name, t->name);
    health_of(t, 1);
    STATUS(deregister(t, t->name), PER(t, 200, 404));
    health_of(t, 1);
}

static void agent_service_known(trial *t)
{
    enroll(t, "{'Name':'%s','ID':'%s-1','Port':80,'Tags':['a'],'Meta':{'k':'v'},"
              "'Address':'10.0.0.1'}", t->name, t->name);
    reply *r = get(t, "/v1/agent/service/%s-1", t->name);
    STATUS(r, 200);
    FIELD(r, "Content-Type", "application/json");
    FIELD(r, "X-Consul-Index", NULL);
    AT(r, "Service", t->name);
    AT(r, "Port", "80");
    AT(r, "Tags", "[a]");
    AT(r, "Meta/k", "v");
    AT(r, "Address", "10.0.0.1");
    AT(r, "Weights/Passing", "1");
    AT(r, "Datacenter", PER(t, "absent", "dc1"));
    char hash[64];
    value_show(value_at(r->json, "ContentHash"), hash, sizeof hash);
    FIELD(r, "X-Consul-ContentHash", hash);
}

static void agent_service_unknown(trial *t)
{
    reply *r = get(t, "/v1/agent/service/%s", t->name);
    STATUS(r, 404);
    BODY(r, "unknown service ID: %s", t->name);
    FIELD(r, "Content-Type", "text/plain; charset=utf-8");
    r = get(t, "/v1/agent/service/%s?hash=0&wait=5s", t->name);
    STATUS(r, 404);
    TOOK(r, 0, 1000);
}

static const contract_case table[] = {
    { "register: a name alone", register_name_alone, 0 },
    { "register: every member", register_every_member, 0 },
    { "register: kinds of addresses", register_address_kinds, 0 },
    { "register: weights", register_weights, 0 },
    { "register: ports outside 0 to 65535 are taken", register_any_port, 0 },
    { "register: members newer than 1.8", register_newer_members, 0 },
    { "register: several ports", register_ports, 0 },
    { "register: names of members in any case", register_names_in_any_case, 0 },
    { "register: odd service names", register_odd_names, 0 },
    { "register: two instances, sorted by id", register_two_instances, 0 },
    { "register: again replaces the definition", register_again_replaces, 0 },
    { "register: an id takes another name", register_id_takes_new_name, 0 },
    { "register: what follows the body is ignored", register_ignores_what_follows, 0 },
    { "register: not an object", register_not_an_object, 0 },
    { "register: no name", register_no_name, 0 },
    { "register: an unknown member", register_unknown_member, 0 },
    { "register: a member of the wrong type", register_wrong_type, 0 },
    { "register: null counts as absent", register_null_members, 0 },
    { "register: an address that means any", register_address_means_any, 0 },
    { "register: a tagged address of the wrong family", register_tagged_address_family, 0 },
    { "register: limits of meta", register_meta_limits, 0 },
    { "register: meta at its limits", register_meta_at_the_limit, 0 },
    { "register: ns and partition", register_enterprise_parameters, 0 },
    { "register: other methods", register_is_a_put, 0 },
    { "register: checks that contradict themselves", register_check_contradicts, 0 },
    { "register: an empty check is none", register_empty_check, 0 },
    { "register: scripts are off", register_scripts_are_off, 0 },
    { "register: defaults of a check", register_check_defaults, 0 },
    { "register: several checks", register_several_checks, 0 },
    { "register: every kind of check", register_check_kinds, 0 },
    { "register: forms of durations", register_duration_forms, 0 },
    { "register: again keeps the state of a check", register_again_keeps_check_state, 0 },
    { "register: again does not heal a check", register_again_does_not_heal, 0 },
    { "register: again keeps checks it does not name", register_again_keeps_old_checks, 0 },
    { "register: replace-existing-checks", register_replace_existing_checks, 0 },
    { "register: replacing keeps the state of the same check",
      register_replace_keeps_state_of_same_check, 0 },
    { "deregister: known", deregister_known, 0 },
    { "deregister: unknown", deregister_unknown, 0 },
    { "deregister: no id", deregister_no_id, 0 },
    { "deregister: a name is no id", deregister_by_name_does_not_work, 0 },
    { "agent/service: known", agent_service_known, 0 },
    { "agent/service: unknown", agent_service_unknown, 0 }
};

CASES(cases_register, table);
