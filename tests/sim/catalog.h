/* What the model Consul holds: services with instances, and the raft index. A plain value, so that
   a snapshot is a copy. And views: what a watch asks for, with a hash of each true answer that the
   catalog ever had for it. */
#ifndef CATALOG_H
#define CATALOG_H

#include "../../sdconsul.h"
#include "sim.h"

enum {
    CATALOG_SERVICES = 6, CATALOG_INSTANCES = 10, CATALOG_TAGS = 8, CATALOG_CHECKS = 4,
    CATALOG_JSON = 1600
};

/* All that an instance may carry, in the order of strcmp; an instance has a mask of them. */
extern const char *const catalog_tags[CATALOG_TAGS];

typedef struct catalog_check {
    char       id[80];
    sdc_status status;
} catalog_check;

typedef struct catalog_instance {
    char       node[12], node_address[16], id[48], address[24];
    uint16_t   port;
    uint32_t   tags;                /* mask                                                     */
    uint32_t   version;             /* of meta; 0 none                                          */
    uint32_t   weight_passing, weight_warning;      /* both 0: no object                        */
    sdc_status node_status;
    catalog_check checks[CATALOG_CHECKS];
    uint32_t   num_checks;
    bool       is_in_maintenance;
    bool       is_registered;       /* by an agent, not by the story                            */
    /* made from these by catalog_settle */
    sdc_status status;              /* of all checks                                            */
    uint64_t   hash;                /* as sim_hash_instance has it                              */
    uint32_t   json_len;
    char       json[CATALOG_JSON];
} catalog_instance;

typedef struct catalog_service {
    catalog_instance instances[CATALOG_INSTANCES];
    uint32_t         num;
    uint64_t         index;
} catalog_service;

typedef struct catalog {
    catalog_service services[CATALOG_SERVICES];
    uint64_t        index;          /* raft's                                                   */
    uint64_t        extinct_index;  /* when a service last lost its last instance; 0 never      */
} catalog;

const char *catalog_service_name(uint32_t service);
int         catalog_service_nth(const char *name, size_t len);      /* -1: none of ours */

void              catalog_settle(catalog_instance *instance, uint32_t service);
catalog_instance *catalog_find(catalog *c, uint32_t service, const char *node, const char *id);
/* A settled instance, in place of the one with its node and id. False: no room. */
bool              catalog_put(catalog *c, uint32_t service, const catalog_instance *instance);
bool              catalog_remove(catalog *c, uint32_t service, const char *node, const char *id);

/* ---- views ----------------------------------------------------------------------------------- */

typedef enum catalog_sight { SIGHT_ALL, SIGHT_PART, SIGHT_NONE } catalog_sight;

typedef struct catalog_view {
    /* the question */
    uint32_t   service;
    uint32_t   tags;                /* mask: all of them                                        */
    bool       passing_only;
    sdc_status worst;               /* what the library leaves out; unset: nothing              */
    /* the true answers */
    uint64_t  *hashes;              /* a table, 0 is free; half of it at most is used           */
    size_t     cap, used;
    uint64_t   hash;                /* the present one                                          */
    uint32_t   num;
    uint64_t   changed_at_ms;
    uint64_t   empty_at_ms;         /* when the truth was last seen empty; 0 never              */
    /* empty answers in a row, of those that went out whole; whether an ACL emptied one of them */
    uint32_t   num_empty;
    bool       is_hidden;
    uint64_t   hidden_once_at_ms;   /* when there was one last, and when two in a row; 0 never  */
    uint64_t   hidden_at_ms;
    bool       was_emptied;         /* the newest answer was empty, for whatever reason         */
    uint64_t   told_index;          /* by the newest answer that went out whole; 0 none         */
    uint32_t   told_by;             /* which agent                                              */
    /* answers in a row that came at once though a query was to be held, and said nothing new */
    uint32_t   num_idle;
    uint64_t   idle_hash, idle_at_ms;
    uint32_t   wait_ms;             /* the longest wait that may be asked for                   */
    uint32_t   retry_after_ms;      /* what the newest answer asked for                         */
    bool       is_backwards;        /* its index was lower than the one asked with: the library
                                       asks again before it publishes anything                  */
    bool       is_filled;           /* the watch knows of instances                             */
} catalog_view;

/* Whether Consul has this instance in its answer; worst is not Consul's business. */
bool catalog_view_has(const catalog_view *v, const catalog_instance *instance);
bool catalog_view_has_tags(const catalog_view *v, const catalog_instance *instance);
bool catalog_is_seen(const catalog_instance *instance, catalog_sight sight);
/* Notes what is true now. */
void catalog_view_note(catalog_view *v, const catalog *c, uint64_t now_ms);
bool catalog_view_held(const catalog_view *v, uint64_t hash);
void catalog_view_deinit(catalog_view *v);

/* One instance as a hash of all that a subscriber sees of it; a list is the sum of its hashes. */
uint64_t sim_hash_instance(const sdc_instance *instance);
uint64_t sim_hash_event(const sdc_event *event);
uint64_t sim_hash_empty(void);

#endif
