/* A small reader of whole JSON texts, for the contract suite alone: strict about the grammar,
   without care for speed. Strings are decoded; numbers keep their text. */
#ifndef CONTRACT_VALUE_H
#define CONTRACT_VALUE_H

#include <stddef.h>

typedef enum value_kind {
    VALUE_NONE,             /* there is no such member                                        */
    VALUE_NULL, VALUE_FALSE, VALUE_TRUE, VALUE_NUMBER, VALUE_STRING, VALUE_ARRAY, VALUE_OBJECT
} value_kind;

typedef struct value {
    value_kind    kind;
    char         *name;     /* as a member of an object, else NULL                            */
    char         *text;     /* string: decoded; number: as written                            */
    struct value *first;    /* array, object: what it holds, in order                         */
    struct value *next;
} value;

/* NULL when the text is not exactly one JSON value. */
value *value_read(const char *text, size_t len);
void   value_free(value *v);

/* What stands at "0/Service/Port". Never NULL; a path that leads nowhere ends at a VALUE_NONE. */
const value *value_at(const value *v, const char *path);
/* As one line: strings and numbers their text, "null", "true", "[]", "{}", "[3]", "{3}" with the
   number of what they hold, "absent". Arrays of strings are "[a,b]". */
void   value_show(const value *v, char *out, size_t max);
/* Of a string or number; "" of anything else. */
const char *value_text(const value *v);
size_t value_count(const value *v);

#endif
