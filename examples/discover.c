/* discover: asks once for the instances of a service and prints them.

     cc -I. -o discover examples/discover.c examples/sdconsul.c
     ./discover web          every instance, whatever its health
     ./discover web v2 eu    those with both tags

   The agent is the one of CONSUL_HTTP_ADDR, or 127.0.0.1:8500. Ends with 0 if
   there is an instance, 1 if there is none, 2 if the question failed. */
#include "sdconsul.h"

#include <stdio.h>

static const char *status_text(sdc_status status)
{
    switch (status) {
    case SDC_STATUS_PASSING:     return "passing";
    case SDC_STATUS_WARNING:     return "warning";
    case SDC_STATUS_CRITICAL:    return "critical";
    case SDC_STATUS_MAINTENANCE: return "maintenance";
    case SDC_STATUS_UNSET:       break;
    }
    return "-";
}

static void print_instance(const sdc_instance *instance)
{
    printf("%-24s %-12s %-16s %s", instance->addr, status_text(instance->status), instance->node,
           instance->id);
    for (size_t i = 0; i < instance->num_tags; i++) {
        printf("%s%s", i == 0 ? "  " : ",", instance->tags[i]);
    }
    printf("\n");
}

int main(int argc, char **argv)
{
    sdc_client_desc where = { 0 };
    sdc_query query = { 0 };
    sdc_client *client = NULL;
    const sdc_event *answer = NULL;
    sdc_error error;

    if (argc < 2) {
        fprintf(stderr, "usage: discover SERVICE [TAG...]\n");
        return 2;
    }
    query.service = argv[1];
    query.tags = (const char *const *)(argv + 2);
    query.num_tags = (size_t)argc - 2;
    if (sdc_client_create(&where, &client, &error) != SDC_OK ||
        sdc_client_service(client, &query, &answer, &error) != SDC_OK) {
        fprintf(stderr, "discover: %s\n", error.message);
        sdc_client_destroy(client);
        return 2;
    }
    for (size_t i = 0; i < answer->num_instances; i++) {
        print_instance(&answer->instances[i]);
    }
    int status = answer->num_instances > 0 ? 0 : 1;
    sdc_event_release(answer);
    sdc_client_destroy(client);
    return status;
}
