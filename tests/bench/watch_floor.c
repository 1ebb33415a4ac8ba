/* The floor: the same requests over a plain socket, and each answer received and
   thrown away. Of the answer only its length is read. */
#include "watch.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

static char buffer[65536 + 1];

static int connected(const char *port)
{
    struct sockaddr_in to;
    int on = 1;
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    memset(&to, 0, sizeof to);
    to.sin_family = AF_INET;
    to.sin_port = htons((uint16_t)atoi(port));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(fd, (struct sockaddr *)&to, sizeof to) != 0) {
        watch_fail("cannot connect");
    }
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return fd;
}

static void ask(int fd, const plan *p, unsigned index)
{
    char text[512];
    int len = snprintf(text, sizeof text,
                       "GET /v1/health/service/%s?index=%u&passing=1&wait=60000ms HTTP/1.1\r\n"
                       "Host: 127.0.0.1:%s\r\nAccept: application/json\r\n\r\n",
                       p->service, index, p->port);

    if (send(fd, text, (size_t)len, MSG_NOSIGNAL) != len) {
        watch_fail("cannot send");
    }
}

static size_t received(int fd, size_t at)
{
    ssize_t got = recv(fd, buffer + at, sizeof buffer - 1 - at, 0);

    if (got <= 0) {
        watch_fail("the connection ended");
    }
    return (size_t)got;
}

/* The server's answers are one chunk, as an agent's are. */
static void discard_answer(int fd)
{
    size_t got = 0;
    char *body = NULL;
    char *rest;

    while (body == NULL) {
        got += received(fd, got);
        buffer[got] = '\0';
        body = strstr(buffer, "\r\n\r\n");
    }
    body += 4;
    size_t left = (size_t)strtoul(body, &rest, 16) + strlen("\r\n\r\n0\r\n\r\n");
    left -= got - (size_t)(rest - buffer);
    while (left > 0) {
        left -= received(fd, 0);
    }
}

int main(int argc, char **argv)
{
    plan p = watch_plan(argc, argv);
    uint64_t began = 0;

    watch_begin();
    int fd = connected(p.port);
    for (unsigned i = 0; i < p.num_warm + p.num; i++) {
        if (i == p.num_warm) {
            began = watch_cpu_us();
        }
        ask(fd, &p, i);
        discard_answer(fd);
    }
    watch_done(&p, watch_cpu_us() - began, "");
    ask(fd, &p, p.num_warm + p.num);
    (void)received(fd, 0);
    return 0;
}
