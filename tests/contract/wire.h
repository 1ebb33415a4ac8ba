/* A blocking HTTP/1.1 client of the contract suite's own: it shares no code with what it judges.

   It sends the bytes it is given, and takes answers strictly: a head that is not one, a bad chunk
   or a body that ends early leave `status` 0 and say why in `fault`. */
#ifndef CONTRACT_WIRE_H
#define CONTRACT_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum wire_framing {
    WIRE_NO_BODY,           /* 204, 304: ends with the head                                   */
    WIRE_LENGTH,            /* Content-Length                                                 */
    WIRE_CHUNKED,
    WIRE_UNTIL_CLOSE
} wire_framing;

typedef struct wire {
    int    fd;              /* -1: closed                                                     */
    char  *bytes;           /* received, not taken by an answer yet                           */
    size_t len, max;
} wire;

typedef struct wire_answer {
    int          status;    /* 0: no answer, see fault                                        */
    char         fault[160];
    char        *head;      /* status line and fields, each line NUL-terminated, "" at the end;
                               never NULL behind wire_receive, nor is body                    */
    char        *body;      /* NUL-terminated beyond body_len                                 */
    size_t       body_len;
    wire_framing framing;
    uint64_t     at_ms;     /* when its head was complete                                     */
} wire_answer;

uint64_t wire_now_ms(void);

/* url: http://127.0.0.1:PORT or unix:///path. False: nobody listens there. */
bool wire_open(wire *w, const char *url);
bool wire_send(wire *w, const void *bytes, size_t len);
void wire_close(wire *w);

/* One answer, within so many milliseconds. `to_head` says that the request was a HEAD. */
void wire_receive(wire *w, bool to_head, int timeout_ms, wire_answer *out);
void wire_answer_free(wire_answer *a);

/* True when nothing arrives within so many milliseconds: no answer and no end either. */
bool wire_is_silent(wire *w, int ms);
/* True when the peer ends the connection within so many milliseconds and sends nothing more. */
bool wire_ends(wire *w, int ms);

/* The value of the field, NULL when there is none. Names compare in any case. */
const char *wire_field(const wire_answer *a, const char *name);

#endif
