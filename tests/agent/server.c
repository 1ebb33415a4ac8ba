#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "server.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { READ_BYTES = 65536, LINGER_MS = 500 };

typedef struct peer {
    int         fd;
    agent_conn *conn;               /* NULL: its end was sent, what comes is thrown away */
    uint64_t    linger_until;
} peer;

struct agent_server {
    agent          *agent;
    pthread_t       thread;
    pthread_mutex_t mutex;
    int             listener, wake_read, wake_write;
    bool            is_stopping;
    struct sockaddr_storage address;
    socklen_t       address_len;
    peer           *peers;
    struct pollfd  *polls;
    size_t          num_peers;
    char            bytes[READ_BYTES];
};

uint64_t agent_server_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void set_flags(int fd)
{
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
}

static int listen_on(agent_server *s)
{
    int yes = 1;
    int fd = socket(s->address.ss_family, SOCK_STREAM, 0);

    if (fd < 0) {
        return -1;
    }
    set_flags(fd);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(fd, (const struct sockaddr *)&s->address, s->address_len) < 0
        || listen(fd, 511) < 0) {
        int saved = errno;

        close(fd);
        errno = saved;
        return -1;
    }
    return fd;
}

static bool set_address(agent_server *s, const char *where, uint16_t port)
{
    memset(&s->address, 0, sizeof s->address);
    if (where != NULL && where[0] == '/') {
        struct sockaddr_un *unix_address = (struct sockaddr_un *)(void *)&s->address;

        if (strlen(where) >= sizeof unix_address->sun_path) {
            errno = ENAMETOOLONG;
            return false;
        }
        unix_address->sun_family = AF_UNIX;
        memcpy(unix_address->sun_path, where, strlen(where) + 1);
        unlink(where);
        s->address_len = sizeof *unix_address;
    } else if (where != NULL && strcmp(where, "::1") == 0) {
        struct sockaddr_in6 *six = (struct sockaddr_in6 *)(void *)&s->address;

        six->sin6_family = AF_INET6;
        six->sin6_addr = in6addr_loopback;
        six->sin6_port = htons(port);
        s->address_len = sizeof *six;
    } else {
        struct sockaddr_in *four = (struct sockaddr_in *)(void *)&s->address;

        four->sin_family = AF_INET;
        four->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        four->sin_port = htons(port);
        s->address_len = sizeof *four;
    }
    return true;
}

/* The port that was given, kept for a later listener. */
static uint16_t keep_port(agent_server *s)
{
    struct sockaddr_storage own;
    socklen_t len = sizeof own;

    if (s->address.ss_family == AF_UNIX
        || getsockname(s->listener, (struct sockaddr *)&own, &len) < 0) {
        return 0;
    }
    memcpy(&s->address, &own, len);
    s->address_len = len;
    return ntohs(own.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)(void *)&own)->sin6_port
                                           : ((struct sockaddr_in *)(void *)&own)->sin_port);
}

/* ---- the thread -------------------------------------------------------------------------- */
static void drop_peer(agent_server *s, size_t i)
{
    close(s->peers[i].fd);
    if (s->peers[i].conn != NULL) {
        agent_conn_close(s->peers[i].conn);
    }
    s->peers[i] = s->peers[--s->num_peers];
}

static void accept_all(agent_server *s)
{
    for (;;) {
        int fd = s->listener < 0 ? -1 : accept(s->listener, NULL, NULL);

        if (fd < 0) {
            return;
        }
        set_flags(fd);
        s->peers = realloc(s->peers, (s->num_peers + 1) * sizeof *s->peers);
        if (s->peers == NULL) {
            abort();
        }
        s->peers[s->num_peers].fd = fd;
        s->peers[s->num_peers].conn = agent_accept(s->agent);
        s->num_peers++;
    }
}

/* False: the peer is gone. */
static bool read_peer(agent_server *s, const peer *p)
{
    ssize_t n = recv(p->fd, s->bytes, sizeof s->bytes, 0);

    if (n < 0) {
        return errno == EAGAIN || errno == EINTR;
    }
    if (n > 0) {
        if (p->conn != NULL) {
            agent_conn_feed(p->conn, s->bytes, (size_t)n, agent_server_now());
        }
    }
    return n > 0;
}

static bool begin_linger(peer *p)
{
    if (!agent_conn_lingers(p->conn)) {
        return false;
    }
    agent_conn_close(p->conn);
    p->conn = NULL;
    p->linger_until = agent_server_now() + LINGER_MS;
    shutdown(p->fd, SHUT_WR);
    return true;
}

/* False: the peer can go. */
static bool write_peer(peer *p)
{
    while (p->conn != NULL) {
        const char *bytes = NULL;
        size_t len = agent_conn_peek(p->conn, &bytes);

        if (len == 0 && agent_conn_wants_close(p->conn)) {
            return begin_linger(p);
        }
        if (len == 0) {
            return true;
        }
        ssize_t n = send(p->fd, bytes, len, MSG_NOSIGNAL);
        if (n < 0) {
            return errno == EAGAIN || errno == EINTR;
        }
        agent_conn_ack(p->conn, (size_t)n);
    }
    return agent_server_now() < p->linger_until;
}

static void write_all(agent_server *s)
{
    for (size_t i = s->num_peers; i-- > 0;) {
        if (!write_peer(&s->peers[i])) {
            drop_peer(s, i);
        }
    }
}

static nfds_t fill_polls(agent_server *s)
{
    s->polls = realloc(s->polls, (s->num_peers + 2) * sizeof *s->polls);
    if (s->polls == NULL) {
        abort();
    }
    memset(s->polls, 0, (s->num_peers + 2) * sizeof *s->polls);
    s->polls[0].fd = s->wake_read;
    s->polls[0].events = POLLIN;
    s->polls[1].fd = s->listener;   /* poll passes over -1 */
    s->polls[1].events = POLLIN;
    for (size_t i = 0; i < s->num_peers; i++) {
        const char *bytes = NULL;

        s->polls[i + 2].fd = s->peers[i].fd;
        s->polls[i + 2].events = POLLIN;
        if (s->peers[i].conn != NULL && agent_conn_peek(s->peers[i].conn, &bytes) > 0) {
            s->polls[i + 2].events = POLLIN | POLLOUT;
        }
    }
    return (nfds_t)(s->num_peers + 2);
}

static int timeout_ms(const agent_server *s)
{
    uint64_t next = agent_next_ms(s->agent);
    uint64_t now = agent_server_now();

    for (size_t i = 0; i < s->num_peers; i++) {
        if (s->peers[i].conn == NULL && s->peers[i].linger_until < next) {
            next = s->peers[i].linger_until;
        }
    }
    if (next == UINT64_MAX) {
        return -1;
    }
    return next <= now ? 0 : next - now > 60000 ? 60000 : (int)(next - now);
}

static void serve(agent_server *s, nfds_t num_polls)
{
    char drained[64];

    while (read(s->wake_read, drained, sizeof drained) > 0) {
    }
    agent_advance(s->agent, agent_server_now());
    /* Peers were added behind and removed by filling the hole: backwards, each is seen once. */
    for (size_t i = (size_t)num_polls - 2; i-- > 0;) {
        if (i < s->num_peers && s->polls[i + 2].fd == s->peers[i].fd
            && (s->polls[i + 2].revents & (POLLIN | POLLHUP | POLLERR)) != 0
            && !read_peer(s, &s->peers[i])) {
            drop_peer(s, i);
        }
    }
    accept_all(s);
    write_all(s);
}

static void *run(void *user)
{
    agent_server *s = user;

    pthread_mutex_lock(&s->mutex);
    while (!s->is_stopping) {
        nfds_t num_polls = fill_polls(s);
        int ms = timeout_ms(s);

        pthread_mutex_unlock(&s->mutex);
        poll(s->polls, num_polls, ms);
        pthread_mutex_lock(&s->mutex);
        if (!s->is_stopping) {
            serve(s, num_polls);
        }
    }
    pthread_mutex_unlock(&s->mutex);
    return NULL;
}

/* ---- public ------------------------------------------------------------------------------ */
static void free_server(agent_server *s)
{
    int fds[3];

    fds[0] = s->listener;
    fds[1] = s->wake_read;
    fds[2] = s->wake_write;
    for (size_t i = 0; i < 3; i++) {
        if (fds[i] >= 0) {
            close(fds[i]);
        }
    }
    free(s->peers);
    free(s->polls);
    free(s);
}

agent_server *agent_server_start(agent *a, const char *where, uint16_t *port)
{
    agent_server *s = calloc(1, sizeof *s);
    int pair[2];

    if (s == NULL) {
        return NULL;
    }
    s->agent = a;
    s->listener = s->wake_read = s->wake_write = -1;
    if (pipe(pair) < 0) {
        free_server(s);
        return NULL;
    }
    s->wake_read = pair[0];
    s->wake_write = pair[1];
    set_flags(pair[0]);
    set_flags(pair[1]);
    if (set_address(s, where, port != NULL ? *port : 0)) {
        s->listener = listen_on(s);
    }
    if (s->listener < 0) {
        int saved = errno;

        free_server(s);
        errno = saved;
        return NULL;
    }
    uint16_t own = keep_port(s);
    if (port != NULL) {
        *port = own;
    }
    pthread_mutex_init(&s->mutex, NULL);
    int err = pthread_create(&s->thread, NULL, run, s);
    if (err != 0) {
        free_server(s);
        errno = err;
        return NULL;
    }
    return s;
}

static void wake(agent_server *s)
{
    ssize_t n = write(s->wake_write, "", 1);

    (void)n;    /* a full pipe wakes as well */
}

void agent_server_lock(agent_server *s)
{
    pthread_mutex_lock(&s->mutex);
    agent_advance(s->agent, agent_server_now());
}

void agent_server_unlock(agent_server *s)
{
    pthread_mutex_unlock(&s->mutex);
    wake(s);
}

static void cut_all(agent_server *s)
{
    while (s->num_peers > 0) {
        drop_peer(s, s->num_peers - 1);
    }
}

void agent_server_pause(agent_server *s)
{
    agent_server_lock(s);
    if (s->listener >= 0) {
        close(s->listener);
        s->listener = -1;
    }
    cut_all(s);
    agent_server_unlock(s);
}

bool agent_server_resume(agent_server *s)
{
    agent_server_lock(s);
    if (s->listener < 0) {
        if (s->address.ss_family == AF_UNIX) {
            unlink(((struct sockaddr_un *)(void *)&s->address)->sun_path);
        }
        s->listener = listen_on(s);
    }
    bool is_open = s->listener >= 0;
    int saved = errno;
    agent_server_unlock(s);
    errno = saved;
    return is_open;
}

void agent_server_stop(agent_server *s)
{
    if (s == NULL) {
        return;
    }
    agent_server_lock(s);
    s->is_stopping = true;
    agent_server_unlock(s);
    pthread_join(s->thread, NULL);
    cut_all(s);
    if (s->address.ss_family == AF_UNIX) {
        unlink(((struct sockaddr_un *)(void *)&s->address)->sun_path);
    }
    pthread_mutex_destroy(&s->mutex);
    free_server(s);
}
