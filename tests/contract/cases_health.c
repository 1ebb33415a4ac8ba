/* /v1/health/service/NAME read once: who is in it, in which form, and with which parameters. */
#include "trial.h"

#include <stdio.h>
#include <string.h>

static void health_unknown_service(trial *t)
{
    reply *r = get(t, "/v1/health/service/%s", t->name);
    STATUS(r, 200);
    AT(r, "", "[]");
    EXPECT(t, index_of(r) >= 1);
    FIELD(r, "Content-Type", "application/json");
}

static void health_no_name(trial *t)
{
    reply *r = get(t, "/v1/health/service/");
    STATUS(r, 400);
    BODY(r, "Missing service name");
    FIELD(r, "X-Consul-Index", NULL);
}

static void health_fields(trial *t)
{
    reply *r = get(t, "/v1/health/service/%s", t->name);
    EXPECT(t, index_of(r) >= 1);
    FIELD(r, "X-Consul-KnownLeader", "true");
    FIELD(r, "X-Consul-LastContact", "0");
    FIELD(r, "X-Consul-Effective-Consistency", "leader");
    FIELD(r, "X-Consul-Query-Backend", PER(t, NULL, "blocking-query"));
    FIELD(r, "X-Consul-Default-ACL-Policy", PER(t, NULL, "allow"));
    FIELD(r, "Vary", "Accept-Encoding");
}

/* Exactly these members, in this order. */
static void members_are(trial *t, const value *object, const char *const *names)
{
    const value *m = object->kind == VALUE_OBJECT ? object->first : NULL;
    for (; *names != NULL; names++) {
        EXPECT(t, m != NULL && strcmp(m->name, *names) == 0);
        m = m != NULL ? m->next : NULL;
    }
    EXPECT(t, m == NULL);
}

static void health_members(trial *t)
{
    static const char *const entry[] = { "Node", "Service", "Checks", NULL };
    static const char *const node[] = { "ID", "Node", "Address", "Datacenter", "TaggedAddresses",
                                        "Meta", "CreateIndex", "ModifyIndex", NULL };
    static const char *const service_1_8[] = {
        "ID", "Service", "Tags", "Address", "Meta", "Port", "Weights", "EnableTagOverride",
        "Proxy", "Connect", "CreateIndex", "ModifyIndex", NULL };
    static const char *const service_1_22[] = {
        "ID", "Service", "Tags", "Address", "Meta", "Port", "Weights", "EnableTagOverride",
        "Proxy", "Connect", "PeerName", "CreateIndex", "ModifyIndex", NULL };
    static const char *const check_1_8[] = {
        "Node", "CheckID", "Name", "Status", "Notes", "Output", "ServiceID", "ServiceName",
        "ServiceTags", "Type", "Definition", "CreateIndex", "ModifyIndex", NULL };
    static const char *const check_1_22[] = {
        "Node", "CheckID", "Name", "Status", "Notes", "Output", "ServiceID", "ServiceName",
        "ServiceTags", "Type", "Interval", "Timeout", "ExposedPort", "Definition", "CreateIndex",
        "ModifyIndex", NULL };
    enroll(t, "{'Name':'%s','Port':80,'Check':{'TTL':'60s'}}", t->name);
    reply *r = health_when(t, "0/Checks", "[2]");
    members_are(t, value_at(r->json, "0"), entry);
    members_are(t, value_at(r->json, "0/Node"), node);
    members_are(t, value_at(r->json, "0/Service"), PER(t, service_1_8, service_1_22));
    members_are(t, value_at(r->json, "0/Checks/0"), PER(t, check_1_8, check_1_22));
    members_are(t, value_at(r->json, "0/Checks/1"), PER(t, check_1_8, check_1_22));
    AT(r, "0/Service/Proxy/MeshGateway", "{}");
    AT(r, "0/Service/Proxy/Mode", PER(t, "absent", ""));
    AT(r, "0/Service/Connect", "{}");
    AT(r, "0/Service/PeerName", PER(t, "absent", ""));
    AT(r, "0/Checks/0/Definition", "{}");
}

static void health_node(trial *t)
{
    enroll(t, "{'Name':'%s','Port':80}", t->name);
    reply *r = health_of(t, 1);
    AT(r, "0/Node/Address", "127.0.0.1");
    AT(r, "0/Node/Datacenter", "dc1");
    AT(r, "0/Node/TaggedAddresses/lan", "127.0.0.1");
    AT(r, "0/Node/TaggedAddresses/lan_ipv4", "127.0.0.1");
    AT(r, "0/Node/Meta/consul-network-segment", "");
    const char *version = value_text(value_at(r->json, "0/Node/Meta/consul-version"));
    EXPECT(t, strncmp(version, "1.22.", 5) == 0 ? t->is_new : !t->is_new && *version == '\0');
    AT(r, "0/Checks/0/CheckID", "serfHealth");
    AT(r, "0/Checks/0/Name", "Serf Health Status");
    AT(r, "0/Checks/0/Status", "passing");
    AT(r, "0/Checks/0/Output", "Agent alive and reachable");
    AT(r, "0/Checks/0/ServiceID", "");
    AT(r, "0/Checks/0/ServiceTags", "[]");
}

static void health_indexes(trial *t)
{
    enroll(t, "{'Name':'%s','Port':80}", t->name);
    reply *r = health_of(t, 1);
    uint64_t first = index_of(r);
    AT(r, "0/Service/CreateIndex", text(t, "%llu", (unsigned long long)first));
    AT(r, "0/Service/ModifyIndex", text(t, "%llu", (unsigned long long)first));
    enroll(t, "{'Name':'%s','Port':81}", t->name);
    r = health_when(t, "0/Service/Port", "81");
    EXPECT(t, index_of(r) > first);
    AT(r, "0/Service/CreateIndex", text(t, "%llu", (unsigned long long)first));
    AT(r, "0/Service/ModifyIndex", text(t, "%llu", (unsigned long long)index_of(r)));
}

static void health_escapes(trial *t)
{
    enroll(t, "{'Name':'%s','Meta':{'a':'<a&b>','b':'\xE2\x80\xA8','c':'\xF0\x9F\x98\x80',"
              "'d':'\\u0001\\u001f','e':'a\\\"b\\\\c\\/d','f':'\\t\\r\\n','g':'\\ud83d\\ude00',"
              "'h':'\\u007f'}}", t->name);
    reply *r = health_of(t, 1);
    EXPECT(t, strstr(r->answer.body, "\"\\u003ca\\u0026b\\u003e\"") != NULL);
    EXPECT(t, strstr(r->answer.body, "\"\\u2028\"") != NULL);
    EXPECT(t, strstr(r->answer.body, "\"\xF0\x9F\x98\x80\"") != NULL);
    EXPECT(t, strstr(r->answer.body, "\"\\u0001\\u001f\"") != NULL);
    EXPECT(t, strstr(r->answer.body, "\"a\\\"b\\\\c/d\"") != NULL);
    EXPECT(t, strstr(r->answer.body, "\"\\t\\r\\n\"") != NULL);
    AT(r, "0/Service/Meta/g", "\xF0\x9F\x98\x80");
    EXPECT(t, strstr(r->answer.body, "\"\x7F\"") != NULL);
}

static void health_bad_utf8_is_replaced(trial *t)
{
    enroll(t, "{'Name':'%s','Meta':{'a':'x\xFFy','b':'\\ud800','c':'\xED\xA0\x80'}}", t->name);
    reply *r = health_of(t, 1);
    AT(r, "0/Service/Meta/a", "x\xEF\xBF\xBDy");
    AT(r, "0/Service/Meta/b", "\xEF\xBF\xBD");
    AT(r, "0/Service/Meta/c", "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");
}

static void health_short_escapes(trial *t)
{
    enroll(t, "{'Name':'%s','Meta':{'a':'\\b\\f'}}", t->name);
    reply *r = health_of(t, 1);
    EXPECT(t, strstr(r->answer.body, PER(t, "\"\\u0008\\u000c\"", "\"\\b\\f\"")) != NULL);
}

/* ---- passing -------------------------------------------------------------------- */

static size_t num_with(trial *t, const char *query)
{
    reply *r = get(t, "/v1/health/service/%s?%s", t->name, query);
    STATUS(r, 200);
    return r->json != NULL ? value_count(r->json) : 99;
}

static void health_passing(trial *t)
{
    static const char *const states[] = { "passing", "warning", "critical" };
    for (int i = 0; i < 3; i++) {
        enroll(t, "{'Name':'%s','ID':'%s-%d','Check':{'TTL':'60s','Status':'%s'}}", t->name,
               t->name, i + 1, states[i]);
    }
    enroll(t, "{'Name':'%s','ID':'%s-4'}", t->name, t->name);
    health_of(t, 4);
    static const char *const filters[] = { "passing", "passing=", "passing=1", "passing=true",
                                           "passing=t", "passing=TRUE" };
    for (size_t i = 0; i < sizeof filters / sizeof filters[0]; i++) {
        EXPECT(t, num_with(t, filters[i]) == 2);
    }
    EXPECT(t, num_with(t, "passing=0") == 4);
    EXPECT(t, num_with(t, "passing=false") == 4);
    reply *r = get(t, "/v1/health/service/%s?passing", t->name);
    AT(r, "0/Service/ID", text(t, "%s-1", t->name));
    AT(r, "1/Service/ID", text(t, "%s-4", t->name));
    r = get(t, "/v1/health/service/%s?passing=yes", t->name);
    STATUS(r, 400);
    BODY(r, "Invalid value for ?passing");
}

/* ---- tags ------------------------------------------------------------------------ */

static void health_tags(trial *t)
{
    enroll(t, "{'Name':'%s','ID':'%s-1','Tags':['a','b']}", t->name, t->name);
    enroll(t, "{'Name':'%s','ID':'%s-2','Tags':['A']}", t->name, t->name);
    enroll(t, "{'Name':'%s','ID':'%s-3','Tags':['a,b','c d&e=f']}", t->name, t->name);
    health_of(t, 3);
    EXPECT(t, num_with(t, "tag=a") == 2);
    EXPECT(t, num_with(t, "tag=A") == 2);
    EXPECT(t, num_with(t, "tag=a&tag=b") == 1);
    EXPECT(t, num_with(t, "tag=b&tag=A") == 1);
    EXPECT(t, num_with(t, "tag=a&tag=c") == 0);
    EXPECT(t, num_with(t, "tag=a,b") == 1);
    EXPECT(t, num_with(t, "tag=a%2Cb") == 1);
    EXPECT(t, num_with(t, "tag=c+d%26e%3Df") == 1);
    EXPECT(t, num_with(t, "tag=c%20d%26e%3df") == 1);
    EXPECT(t, num_with(t, "tag=") == 0);
    EXPECT(t, num_with(t, "tag") == 0);
    EXPECT(t, num_with(t, "Tag=nosuch") == 3);
    EXPECT(t, num_with(t, "t%61g=nosuch") == 0);
    EXPECT(t, num_with(t, "tag=a&passing&tag=b") == 1);
}

static void health_name_case(trial *t)
{
    enroll(t, "{'Name':'%s-MiXed'}", t->name);
    const char *own = t->name;
    t->name = text(t, "%s-mixed", own);
    AT(health_of(t, 1), "0/Service/Service", text(t, "%s-MiXed", own));
    t->name = text(t, "%s-MIXED", own);
    EXPECT(t, num_with(t, "x") == 1);
}

/* ---- other parameters -------------------------------------------------------------- */

static void health_unknown_parameters(trial *t)
{
    enroll(t, "{'Name':'%s','Tags':['a']}", t->name);
    health_of(t, 1);
    EXPECT(t, num_with(t, "foo=bar&&=&x") == 1);
    EXPECT(t, num_with(t, "pretty=false&PASSING=yes") == 1);
    EXPECT(t, num_with(t, "dc=dc1") == 1);
}

static void health_enterprise_parameters(trial *t)
{
    enroll(t, "{'Name':'%s'}", t->name);
    health_of(t, 1);
    reply *r = get(t, "/v1/health/service/%s?ns=x", t->name);
    STATUS(r, 400);
    BODY(r, "%sInvalid query parameter: \"ns\" - Namespaces are a Consul Enterprise feature",
         PER(t, "Bad request: ", ""));
    r = get(t, "/v1/health/service/%s?partition=x", t->name);
    STATUS(r, PER(t, 200, 400));
    if (t->is_new) {
        BODY(r, "Invalid query parameter: \"partition\" - Partitions are a Consul Enterprise "
                "feature");
    }
    r = get(t, "/v1/health/service/%s?peer=foo", t->name);
    STATUS(r, 200);
    AT(r, "", PER(t, "[1]", "[]"));
    if (t->is_new) {
        FIELD(r, "X-Consul-Index", "1");
    }
    EXPECT(t, num_with(t, "ns=") == 1);
    EXPECT(t, num_with(t, "partition=") == 1);
}

static void health_unknown_datacenter(trial *t)
{
    reply *r = get(t, "/v1/health/service/%s?dc=nope", t->name);
    STATUS(r, 500);
    BODY(r, "No path to datacenter");
    FIELD(r, "X-Consul-Index", PER(t, "1", NULL));
    FIELD(r, "X-Consul-KnownLeader", PER(t, "false", NULL));
}

static void health_consistency(trial *t)
{
    reply *r = get(t, "/v1/health/service/%s?stale", t->name);
    STATUS(r, 200);
    FIELD(r, "X-Consul-Effective-Consistency", "stale");
    r = get(t, "/v1/health/service/%s?consistent", t->name);
    STATUS(r, 200);
    FIELD(r, "X-Consul-Effective-Consistency", "consistent");
    r = get(t, "/v1/health/service/%s?stale&consistent", t->name);
    STATUS(r, 400);
    BODY(r, "Cannot specify ?stale with ?consistent, conflicting semantics.");
    r = get(t, "/v1/health/service/%s?stale&max_stale=x", t->name);
    STATUS(r, 400);
    BODY(r, "Invalid max_stale value \"x\"");
}

static void health_near(trial *t)
{
    enroll(t, "{'Name':'%s'}", t->name);
    health_of(t, 1);
    EXPECT(t, num_with(t, "near=_agent") == 1);
    EXPECT(t, num_with(t, "near=nosuch") == 1);
}

static void health_filter(trial *t)
{
    enroll(t, "{'Name':'%s','Tags':['a'],'Port':80}", t->name);
    health_of(t, 1);
    EXPECT(t, num_with(t, "filter=Service.Port==80") == 1);
    EXPECT(t, num_with(t, "filter=a+in+Service.Tags") == 1);
    EXPECT(t, num_with(t, "filter=b+in+Service.Tags") == 0);
}

static void health_bad_filter(trial *t)
{
    reply *r = get(t, "/v1/health/service/%s?filter=%%23", t->name);
    STATUS(r, 500);
    BODY_STARTS(r, "Failed to create boolean expression evaluator: ");
}

static void health_broken_query(trial *t)
{
    reply *r = get(t, "/v1/health/service/%s?a=%%zz", t->name);
    STATUS(r, 500);
    BODY(r, "%s", "");
    r = get(t, "/v1/health/service/%s?a=1;b=2", t->name);
    STATUS(r, PER(t, 200, 500));
    if (t->is_new) {
        BODY(r, "%s", "");
    }
}

static void health_other_methods(trial *t)
{
    static const char *const methods[] = { "POST", "PUT", "DELETE", "PATCH", "FOO" };
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++) {
        reply *r = ask(t, methods[i], "", "/v1/health/service/%s", t->name);
        STATUS(r, 405);
        FIELD(r, "Allow", "OPTIONS,GET");
        BODY(r, "method %s not allowed", methods[i]);
    }
    reply *r = ask(t, "HEAD", "", "/v1/health/service/%s", t->name);
    STATUS(r, 405);
    r = ask(t, "OPTIONS", "", "/v1/health/service/%s", t->name);
    STATUS(r, 200);
    FIELD(r, "Allow", "OPTIONS,GET");
    BODY(r, "%s", "");
}

static void health_of_consul_itself(trial *t)
{
    reply *r = get(t, "/v1/health/service/consul?passing");
    STATUS(r, 200);
    AT(r, "", "[1]");
    AT(r, "0/Service/ID", "consul");
    AT(r, "0/Service/Service", "consul");
}

static void leader_is_known(trial *t)
{
    reply *r = get(t, "/v1/status/leader");
    STATUS(r, 200);
    FIELD(r, "X-Consul-Index", NULL);
    EXPECT(t, r->json != NULL && r->json->kind == VALUE_STRING);
    EXPECT(t, strncmp(r->answer.body, "\"127.0.0.1:", 11) == 0);
}

static void agent_self(trial *t)
{
    reply *r = get(t, "/v1/agent/self");
    STATUS(r, 200);
    AT(r, "Config/Datacenter", "dc1");
    AT(r, "Config/Server", "true");
    const value *version = value_at(r->json, "Config/Version");
    EXPECT(t, version->kind == VALUE_STRING &&
                  strncmp(value_text(version), PER(t, "1.8.", "1.22."), PER(t, 4, 5)) == 0);
}

static const contract_case table[] = {
    { "health: unknown service", health_unknown_service, 0 },
    { "health: no name", health_no_name, 0 },
    { "health: fields of the answer", health_fields, 0 },
    { "health: members, in order", health_members, 0 },
    { "health: the node", health_node, 0 },
    { "health: indexes", health_indexes, 0 },
    { "health: escapes as Go writes them", health_escapes, 0 },
    { "health: bad UTF-8 is replaced", health_bad_utf8_is_replaced, 0 },
    { "health: short escapes", health_short_escapes, 0 },
    { "health: passing", health_passing, 0 },
    { "health: tags", health_tags, 0 },
    { "health: a name in any case", health_name_case, 0 },
    { "health: unknown parameters", health_unknown_parameters, 0 },
    { "health: ns, partition, peer", health_enterprise_parameters, 0 },
    { "health: unknown datacenter", health_unknown_datacenter, 0 },
    { "health: stale and consistent", health_consistency, 0 },
    { "health: near", health_near, 0 },
    { "health: filter", health_filter, CASE_REAL },
    { "health: a wrong filter", health_bad_filter, 0 },
    { "health: a broken query", health_broken_query, 0 },
    { "health: other methods", health_other_methods, 0 },
    { "health: of consul itself", health_of_consul_itself, 0 },
    { "status/leader", leader_is_known, 0 },
    { "agent/self", agent_self, 0 }
};

CASES(cases_health, table);
