/* server BODY: an agent that never lets a query wait. Prints its port.

   GET /v1/health/service/changing-N is answered N times on one connection, each
   time with another port in one of the instances, and then held for ever;
   same-N likewise, but that nothing changes but the index. Answers are framed
   as Consul's: one chunk. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

static char *body;
static size_t body_len;
static size_t *ports;           /* where the last digit of each instance's port is */
static size_t num_ports;

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static void body_read(const char *path)
{
    FILE *f = fopen(path, "rb");

    if (f == NULL || fseek(f, 0, SEEK_END) != 0) {
        fail(path);
    }
    body_len = (size_t)ftell(f);
    body = malloc(body_len + 1);
    rewind(f);
    if (body == NULL || fread(body, 1, body_len, f) != body_len) {
        fail(path);
    }
    body[body_len] = '\0';
    (void)fclose(f);
}

/* A service's own port stands behind its meta; those of its tagged addresses do not. */
static void ports_find(void)
{
    static const char before[] = "},\"Port\":";
    const char *at = body;

    ports = calloc(body_len / 64 + 1, sizeof *ports);
    for (at = strstr(at, before); at != NULL; at = strstr(at, before)) {
        at += sizeof before - 1;
        ports[num_ports++] = (size_t)(at - body) + strspn(at, "0123456789") - 1;
    }
    if (num_ports == 0) {
        fail("no port in the body");
    }
}

static void body_change(unsigned n)
{
    char *digit = body + ports[n % num_ports];

    *digit = *digit == '9' ? '0' : (char)(*digit + 1);
}

static void send_all(int fd, struct iovec *parts, int num)
{
    while (num > 0) {
        ssize_t sent = writev(fd, parts, num);
        if (sent < 0) {
            _exit(0);
        }
        while (num > 0 && (size_t)sent >= parts->iov_len) {
            sent -= (ssize_t)parts->iov_len;
            parts++;
            num--;
        }
        if (num > 0) {
            parts->iov_base = (char *)parts->iov_base + sent;
            parts->iov_len -= (size_t)sent;
        }
    }
}

static void answer(int fd, unsigned index)
{
    char head[512], tail[] = "\r\n0\r\n\r\n";
    int len = snprintf(head, sizeof head,
                       "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                       "Vary: Accept-Encoding\r\nX-Consul-Default-Acl-Policy: allow\r\n"
                       "X-Consul-Effective-Consistency: leader\r\nX-Consul-Index: %u\r\n"
                       "X-Consul-Knownleader: true\r\nX-Consul-Lastcontact: 0\r\n"
                       "X-Consul-Query-Backend: blocking-query\r\n"
                       "Date: Mon, 23 Nov 2026 01:59:11 GMT\r\n"
                       "Transfer-Encoding: chunked\r\n\r\n%zx\r\n", index, body_len);
    struct iovec parts[3] = { { head, (size_t)len }, { body, body_len },
                              { tail, sizeof tail - 1 } };

    send_all(fd, parts, 3);
}

/* The query in `head` from now on: how often it is answered, and whether with changes. */
static unsigned query_of(const char *head, bool *is_changing)
{
    const char *changing = strstr(head, "/v1/health/service/changing-");
    const char *same = strstr(head, "/v1/health/service/same-");

    *is_changing = changing != NULL;
    if (changing == NULL && same == NULL) {
        fail("an unknown query");
    }
    return (unsigned)atoi(strchr(changing != NULL ? changing : same, '-') + 1);
}

static void serve(int fd)
{
    char head[4096];
    size_t len = 0;
    unsigned num = 0;
    bool is_changing;

    for (;;) {
        ssize_t got = recv(fd, head + len, sizeof head - 1 - len, 0);
        if (got <= 0) {
            _exit(0);
        }
        len += (size_t)got;
        head[len] = '\0';
        if (strstr(head, "\r\n\r\n") == NULL) {
            continue;
        }
        len = 0;
        if (num < query_of(head, &is_changing)) {
            if (is_changing) {
                body_change(num);
            }
            num++;
            answer(fd, 1000 + num);
        }
    }
}

int main(int argc, char **argv)
{
    struct sockaddr_in at;
    socklen_t size = sizeof at;
    int on = 1;

    if (argc != 2) {
        fail("usage: server BODY");
    }
    body_read(argv[1]);
    ports_find();
    memset(&at, 0, sizeof at);
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&at, sizeof at) != 0 || listen(listener, 16) != 0 ||
        getsockname(listener, (struct sockaddr *)&at, &size) != 0) {
        fail("listen");
    }
    printf("%u\n", ntohs(at.sin_port));
    (void)fflush(stdout);
    (void)signal(SIGPIPE, SIG_IGN);
    (void)signal(SIGCHLD, SIG_IGN);
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        if (fd >= 0 && fork() == 0) {
            (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
            serve(fd);
        }
        (void)close(fd);
    }
}
