#include "wire.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

uint64_t wire_now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static int wire_connect(const struct sockaddr *at, socklen_t len)
{
    int fd = socket(at->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, at, len) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

bool wire_open(wire *w, const char *url)
{
    struct sockaddr_un local = { .sun_family = AF_UNIX };
    struct sockaddr_in inet = { .sin_family = AF_INET };
    static const char unix_scheme[] = "unix://";
    static const char http_scheme[] = "http://127.0.0.1:";
    memset(w, 0, sizeof *w);
    w->fd = -1;
    if (strncmp(url, unix_scheme, sizeof unix_scheme - 1) == 0) {
        snprintf(local.sun_path, sizeof local.sun_path, "%s", url + sizeof unix_scheme - 1);
        w->fd = wire_connect((const struct sockaddr *)&local, sizeof local);
    } else if (strncmp(url, http_scheme, sizeof http_scheme - 1) == 0) {
        inet.sin_port = htons((uint16_t)atoi(url + sizeof http_scheme - 1));
        inet.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        w->fd = wire_connect((const struct sockaddr *)&inet, sizeof inet);
        int on = 1;
        setsockopt(w->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    }
    return w->fd >= 0;
}

void wire_close(wire *w)
{
    if (w->fd >= 0) {
        close(w->fd);
    }
    free(w->bytes);
    memset(w, 0, sizeof *w);
    w->fd = -1;
}

bool wire_send(wire *w, const void *bytes, size_t len)
{
    const char *from = (const char *)bytes;
    while (len > 0) {
        ssize_t n = send(w->fd, from, len, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return false;
        }
        from += n;
        len -= (size_t)n;
    }
    return true;
}

static bool wire_poll(const wire *w, int ms)
{
    struct pollfd p = { .fd = w->fd, .events = POLLIN };
    int n;
    do {
        n = poll(&p, 1, ms > 0 ? ms : 0);
    } while (n < 0 && errno == EINTR);
    return n > 0;
}

/* Appends what arrives until `deadline_ms`: how many bytes, 0 at the end, -1 at the deadline. */
static ssize_t wire_more(wire *w, uint64_t deadline_ms)
{
    uint64_t now = wire_now_ms();
    if (w->fd < 0) {
        return 0;
    }
    if (now >= deadline_ms || !wire_poll(w, (int)(deadline_ms - now))) {
        return -1;
    }
    if (w->max - w->len < 4096) {
        size_t max = w->max * 2 + 16384;
        char *bytes = (char *)realloc(w->bytes, max);
        if (bytes == NULL) {
            return -1;
        }
        w->bytes = bytes;
        w->max = max;
    }
    ssize_t n = recv(w->fd, w->bytes + w->len, w->max - w->len, 0);
    if (n > 0) {
        w->len += (size_t)n;
    }
    return n > 0 ? n : 0;
}

bool wire_is_silent(wire *w, int ms)
{
    return w->len == 0 && !wire_poll(w, ms);
}

bool wire_ends(wire *w, int ms)
{
    return w->len == 0 && wire_more(w, wire_now_ms() + (uint64_t)ms) == 0;
}

/* ---- answers ------------------------------------------------------------ */

const char *wire_field(const wire_answer *a, const char *name)
{
    size_t len = strlen(name);
    const char *line = a->head != NULL ? a->head : "";
    for (; *line != '\0'; line += strlen(line) + 1) {
        if (strncasecmp(line, name, len) == 0 && line[len] == ':') {
            line += len + 1;
            return line + strspn(line, " \t");
        }
    }
    return NULL;
}

void wire_answer_free(wire_answer *a)
{
    free(a->head);
    free(a->body);
    memset(a, 0, sizeof *a);
}

static bool wire_fail(wire_answer *out, const char *fault)
{
    snprintf(out->fault, sizeof out->fault, "%s", fault);
    return false;
}

static void wire_drop(wire *w, size_t n)
{
    w->len -= n;
    memmove(w->bytes, w->bytes + n, w->len);
}

/* Waits until a line that starts at `from` ends: the index behind its LF, 0 if none comes. */
static size_t wire_line(wire *w, size_t from, uint64_t deadline_ms)
{
    for (;;) {
        const char *lf = w->len > from ? memchr(w->bytes + from, '\n', w->len - from) : NULL;
        if (lf != NULL) {
            return (size_t)(lf - w->bytes) + 1;
        }
        if (wire_more(w, deadline_ms) <= 0) {
            return 0;
        }
    }
}

static bool wire_take_head(wire *w, uint64_t deadline_ms, wire_answer *out)
{
    size_t end = 0, line;
    do {
        line = end;
        end = wire_line(w, line, deadline_ms);
        if (end == 0) {
            return wire_fail(out, w->len == 0 ? "no answer" : "the head does not end");
        }
        if (end - line < 2 || w->bytes[end - 2] != '\r') {
            return wire_fail(out, "a line of the head ends without CR");
        }
    } while (end - line > 2);
    out->at_ms = wire_now_ms();
    out->head = (char *)calloc(1, end + 1);
    if (out->head == NULL) {
        return wire_fail(out, "out of memory");
    }
    char *to = out->head;
    for (size_t i = 0; i < end - 2; i++) {
        if (w->bytes[i] != '\r') {
            *to++ = w->bytes[i] == '\n' ? '\0' : w->bytes[i];
        }
    }
    wire_drop(w, end);
    const char *line_1 = out->head;
    if (strncmp(line_1, "HTTP/1.", 7) != 0 || strspn(line_1 + 9, "0123456789") != 3) {
        return wire_fail(out, "no status line");
    }
    out->status = atoi(line_1 + 9);
    return true;
}

static bool wire_take_bytes(wire *w, size_t n, uint64_t deadline_ms, wire_answer *out)
{
    while (w->len < n) {
        if (wire_more(w, deadline_ms) <= 0) {
            return wire_fail(out, "the body ends early");
        }
    }
    char *body = (char *)realloc(out->body, out->body_len + n + 1);
    if (body == NULL) {
        return wire_fail(out, "out of memory");
    }
    memcpy(body + out->body_len, w->bytes, n);
    out->body = body;
    out->body_len += n;
    out->body[out->body_len] = '\0';
    wire_drop(w, n);
    return true;
}

static bool wire_take_chunks(wire *w, uint64_t deadline_ms, wire_answer *out)
{
    for (;;) {
        size_t end = wire_line(w, 0, deadline_ms);
        size_t digits = end != 0 ? strspn(w->bytes, "0123456789abcdefABCDEF") : 0;
        if (digits == 0 || digits > 7 || memcmp(w->bytes + digits, "\r\n", 2) != 0) {
            return wire_fail(out, "bad chunk size");
        }
        size_t n = (size_t)strtoul(w->bytes, NULL, 16);
        wire_drop(w, end);
        if (!wire_take_bytes(w, n, deadline_ms, out)) {
            return false;
        }
        if (wire_line(w, 0, deadline_ms) != 2 || w->bytes[0] != '\r') {
            return wire_fail(out, "a chunk does not end with CRLF");
        }
        wire_drop(w, 2);
        if (n == 0) {
            return true;
        }
    }
}

static bool wire_take_body(wire *w, bool to_head, uint64_t deadline_ms, wire_answer *out)
{
    const char *length = wire_field(out, "Content-Length");
    const char *coding = wire_field(out, "Transfer-Encoding");
    if (length != NULL && coding != NULL) {
        return wire_fail(out, "both Content-Length and Transfer-Encoding");
    }
    if (to_head || out->status == 204 || out->status == 304) {
        out->framing = WIRE_NO_BODY;
        return wire_take_bytes(w, 0, deadline_ms, out);
    }
    if (coding != NULL) {
        out->framing = WIRE_CHUNKED;
        return strcmp(coding, "chunked") == 0 ? wire_take_chunks(w, deadline_ms, out)
                                              : wire_fail(out, "unknown Transfer-Encoding");
    }
    if (length != NULL) {
        out->framing = WIRE_LENGTH;
        return wire_take_bytes(w, (size_t)strtoul(length, NULL, 10), deadline_ms, out);
    }
    out->framing = WIRE_UNTIL_CLOSE;
    ssize_t n;
    do {
        n = wire_more(w, deadline_ms);
    } while (n > 0);
    return n == 0 ? wire_take_bytes(w, w->len, deadline_ms, out)
                  : wire_fail(out, "the body does not end");
}

void wire_receive(wire *w, bool to_head, int timeout_ms, wire_answer *out)
{
    uint64_t deadline = wire_now_ms() + (uint64_t)timeout_ms;
    memset(out, 0, sizeof *out);
    if (!wire_take_head(w, deadline, out) || !wire_take_body(w, to_head, deadline, out)) {
        out->status = 0;
    }
    if (out->head == NULL) {
        out->head = (char *)calloc(1, 1);
    }
    if (out->body == NULL) {
        out->body = (char *)calloc(1, 1);
        out->body_len = 0;
    }
    if (out->at_ms == 0) {
        out->at_ms = wire_now_ms();
    }
}
