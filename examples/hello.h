/* hello: as much HTTP as call.c and whole.c need, a server and a client on loopback. A program has
   its own in its place; what these examples show is in them. */
#ifndef EXAMPLES_HELLO_H
#define EXAMPLES_HELLO_H

#include "sdconsul.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

static struct sockaddr_in hello_at(const char *host, uint16_t port)
{
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(port) };

    (void)inet_pton(AF_INET, host, &at.sin_addr);
    return at;
}

/* ---- the server: one thread, answers "hello" to whatever it reads ---- */

enum { HELLO_FDS = 64 };

typedef struct hello {
    uint16_t port;                  /* 0: any; then the one it is */
    unsigned dies_at;               /* this request is its last, half answered; 0: it lives on */
    unsigned num_requests;
    struct pollfd fds[HELLO_FDS];   /* the listener, then the connections */
    nfds_t   num;
} hello;

/* As with a program that is killed: every connection is reset, which a linger time of 0 does, and
   nobody listens any more. */
static void hello_die(hello *h)
{
    struct linger reset = { 1, 0 };

    for (nfds_t i = 0; i < h->num; i++) {
        (void)setsockopt(h->fds[i].fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        (void)close(h->fds[i].fd);
    }
    h->num = 0;
}

/* False: the connection is done with. A request without a body comes in one piece. */
static bool hello_answer(hello *h, int fd)
{
    static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello\n";
    char request[2048];
    size_t len = sizeof answer - 1;

    if (recv(fd, request, sizeof request, 0) <= 0) {
        return false;
    }
    if (++h->num_requests == h->dies_at) {
        (void)send(fd, answer, len / 2, MSG_NOSIGNAL);
        hello_die(h);
        return false;
    }
    return send(fd, answer, len, MSG_NOSIGNAL) == (ssize_t)len;
}

static void *hello_run(void *user)
{
    hello *h = user;

    while (h->num > 0) {
        (void)poll(h->fds, h->num, -1);
        for (nfds_t i = h->num; i-- > 1;) {
            if (h->fds[i].revents != 0 && !hello_answer(h, h->fds[i].fd) && h->num > 0) {
                (void)close(h->fds[i].fd);
                h->fds[i] = h->fds[--h->num];
            }
        }
        if (h->num > 0 && h->num < HELLO_FDS && h->fds[0].revents != 0) {
            h->fds[h->num++] = (struct pollfd){ accept(h->fds[0].fd, NULL, NULL), POLLIN, 0 };
        }
    }
    return NULL;
}

static bool hello_start(hello *h)
{
    struct sockaddr_in at = hello_at("127.0.0.1", h->port);
    socklen_t len = sizeof at;
    pthread_t thread;
    int on = 1;

    h->fds[0] = (struct pollfd){ socket(AF_INET, SOCK_STREAM, 0), POLLIN, 0 };
    h->num = 1;
    (void)setsockopt(h->fds[0].fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(h->fds[0].fd, (struct sockaddr *)&at, sizeof at) != 0 ||
        listen(h->fds[0].fd, 128) != 0 ||
        getsockname(h->fds[0].fd, (struct sockaddr *)&at, &len) != 0) {
        return false;
    }
    h->port = ntohs(at.sin_port);
    return pthread_create(&thread, NULL, hello_run, h) == 0 && pthread_detach(thread) == 0;
}

/* ---- the client ---- */

static sdc_err hello_on_status(void *user, int status)
{
    return (void)user, status == 200 ? SDC_OK : SDC_ERR_STATUS;
}

static sdc_err hello_exchange(int fd, sdc_http *answer)
{
    static const char request[] = "GET / HTTP/1.1\r\nHost: hello\r\n\r\n";
    char bytes[4096];
    size_t used;
    sdc_err err = SDC_OK;

    if (send(fd, request, sizeof request - 1, MSG_NOSIGNAL) < 0) {
        return SDC_ERR_IO;
    }
    while (err == SDC_OK && !sdc_http_is_complete(answer)) {
        ssize_t len = recv(fd, bytes, sizeof bytes, 0);
        err = len > 0 ? sdc_http_feed(answer, bytes, (size_t)len, &used) : SDC_ERR_IO;
    }
    return err;
}

/* One GET on the connection *fd, which is made where it is -1. left_ms bounds each of its steps.
   After a failure nobody knows what may still come there, so it is closed, and is -1 again. */
static sdc_err hello_get(int *fd, const struct sockaddr_in *to, uint32_t left_ms)
{
    struct timeval limit = { (time_t)(left_ms / 1000), (suseconds_t)(left_ms % 1000 * 1000) };
    sdc_http_handler handler = { .on_status = hello_on_status };
    sdc_http *answer = NULL;
    sdc_err err = sdc_http_create(NULL, &handler, &answer);
    bool is_new = *fd < 0;

    *fd = is_new ? socket(AF_INET, SOCK_STREAM, 0) : *fd;
    (void)setsockopt(*fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    (void)setsockopt(*fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    if (err == SDC_OK && is_new && connect(*fd, (const void *)to, sizeof *to) != 0) {
        err = SDC_ERR_CONNECT;
    }
    err = err == SDC_OK ? hello_exchange(*fd, answer) : err;
    if (err != SDC_OK || !sdc_http_keeps_alive(answer)) {
        (void)close(*fd);
        *fd = -1;
    }
    sdc_http_destroy(answer);
    return err;
}

#endif
