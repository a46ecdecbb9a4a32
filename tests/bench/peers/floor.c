/* The floor: a bare loop over sockets, the least that an SSE server can do.
 *
 * One thread, one epoll. GET: a head, then the connection is a subscriber of the one topic there is. POST with a
 * Content-Length: the body is an event; everything published in one turn of the loop leaves as one write() for each
 * subscriber. What a socket does not take is kept for it, up to PENDING_MAX, then it is closed. The last KEPT events are
 * sent again to a subscriber that comes with Last-Event-ID. No topics, no limits on requests, no mercy: not a server.
 *
 * floor PORT
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { FILES = 65536, READ_MAX = 65536, REQUEST_MAX = 1 << 20, KEPT = 1024, PENDING_MAX = 4 << 20 };

struct bytes {
    char *at;
    size_t length, room;
};

struct connection {
    int fd;
    int place; /* in subscribers, -1 for a publisher */
    struct bytes request, pending;
};

static struct connection *connections[FILES];
static struct connection *subscribers[FILES];
static int subscriber_count, loop;
static struct bytes turn; /* the events of this turn */
static struct bytes kept[KEPT];
static unsigned long last_id;

static void append(struct bytes *to, const char *from, size_t length) {
    if (to->length + length > to->room) {
        to->room = (to->length + length) * 2;
        to->at = realloc(to->at, to->room);
        if (!to->at)
            abort();
    }
    memcpy(to->at + to->length, from, length);
    to->length += length;
}

static void drop(struct connection *c) {
    if (c->place >= 0) {
        subscribers[c->place] = subscribers[--subscriber_count];
        subscribers[c->place]->place = c->place;
    }
    connections[c->fd] = NULL;
    close(c->fd);
    free(c->request.at);
    free(c->pending.at);
    free(c);
}

static void watch(struct connection *c, int how, unsigned events) {
    struct epoll_event e = {.events = events, .data.fd = c->fd};
    epoll_ctl(loop, how, c->fd, &e);
}

/* Write, or keep what is not taken. Returns 0 when the connection had to be dropped. */
static int put(struct connection *c, const char *at, size_t length) {
    size_t taken = 0;
    if (!c->pending.length) {
        ssize_t n = write(c->fd, at, length);
        if (n < 0 && errno != EAGAIN) {
            drop(c);
            return 0;
        }
        taken = n < 0 ? 0 : (size_t)n;
        if (taken == length)
            return 1;
        watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT | EPOLLRDHUP);
    }
    if (c->pending.length + length - taken > PENDING_MAX) {
        drop(c);
        return 0;
    }
    append(&c->pending, at + taken, length - taken);
    return 1;
}

static void flush_pending(struct connection *c) {
    ssize_t n = write(c->fd, c->pending.at, c->pending.length);
    if (n < 0) {
        if (errno != EAGAIN)
            drop(c);
        return;
    }
    c->pending.length -= (size_t)n;
    memmove(c->pending.at, c->pending.at + n, c->pending.length);
    if (!c->pending.length)
        watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLRDHUP);
}

static void publish(const char *data, size_t length) {
    char id[48];
    int id_length = snprintf(id, sizeof id, "\nid: %lu\n\n", ++last_id);
    struct bytes *event = &kept[last_id % KEPT];
    event->length = 0;
    append(event, "data: ", 6);
    append(event, data, length);
    append(event, id, (size_t)id_length);
    append(&turn, event->at, event->length);
}

static int subscribe(struct connection *c, const char *head) {
    static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
                                 "Connection: close\r\n\r\n:\n";
    struct bytes first = {0};
    const char *cursor = strcasestr(head, "\r\nLast-Event-ID: ");
    append(&first, answer, sizeof answer - 1);
    if (cursor) {
        unsigned long from = strtoul(cursor + 17, NULL, 10) + 1;
        if (last_id >= KEPT && from <= last_id - KEPT)
            from = last_id - KEPT + 1;
        for (; from <= last_id; from++)
            append(&first, kept[from % KEPT].at, kept[from % KEPT].length);
    }
    free(c->request.at);
    memset(&c->request, 0, sizeof c->request);
    c->place = subscriber_count;
    subscribers[subscriber_count++] = c;
    int alive = put(c, first.at, first.length);
    free(first.at);
    return alive;
}

/* Answer every request that is complete. */
static void serve(struct connection *c) {
    for (;;) {
        append(&c->request, "", 1);
        c->request.length--;
        char *head_end = c->request.at ? strstr(c->request.at, "\r\n\r\n") : NULL;
        if (!head_end)
            return;
        *head_end = 0;
        if (!strncmp(c->request.at, "GET ", 4)) {
            subscribe(c, c->request.at);
            return;
        }
        const char *said = strcasestr(c->request.at, "\r\nContent-Length: ");
        size_t body = said ? strtoul(said + 18, NULL, 10) : 0;
        size_t whole = (size_t)(head_end + 4 - c->request.at) + body;
        if (whole > c->request.length) {
            *head_end = '\r';
            return;
        }
        publish(head_end + 4, body);
        static const char answer[] = "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n";
        if (!put(c, answer, sizeof answer - 1))
            return;
        c->request.length -= whole;
        memmove(c->request.at, c->request.at + whole, c->request.length);
        if (!c->request.length)
            return;
    }
}

static void receive(struct connection *c) {
    static char buffer[READ_MAX];
    ssize_t n = read(c->fd, buffer, sizeof buffer);
    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0 || c->request.length > REQUEST_MAX) {
        drop(c);
        return;
    }
    if (c->place >= 0)
        return;
    append(&c->request, buffer, (size_t)n);
    serve(c);
}

static void fan_out(void) {
    for (int i = subscriber_count - 1; i >= 0; i--)
        put(subscribers[i], turn.at, turn.length);
    turn.length = 0;
}

static void admit(int listener) {
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        if (fd >= FILES) {
            close(fd);
            continue;
        }
        int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        struct connection *c = calloc(1, sizeof *c);
        if (!c)
            abort();
        c->fd = fd;
        c->place = -1;
        connections[fd] = c;
        watch(c, EPOLL_CTL_ADD, EPOLLIN | EPOLLRDHUP);
    }
}

int main(int count, char **words) {
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    signal(SIGPIPE, SIG_IGN);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(count > 1 ? words[1] : "0")),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 65535)) {
        perror("floor");
        return 1;
    }
    loop = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event news[1024], e = {.events = EPOLLIN, .data.fd = listener};
    epoll_ctl(loop, EPOLL_CTL_ADD, listener, &e);
    for (;;) {
        int n = epoll_wait(loop, news, 1024, -1);
        for (int i = 0; i < n; i++) {
            int fd = news[i].data.fd;
            if (fd == listener) {
                admit(listener);
                continue;
            }
            if (connections[fd] && news[i].events & EPOLLOUT && connections[fd]->pending.length)
                flush_pending(connections[fd]);
            if (connections[fd] && news[i].events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
                receive(connections[fd]);
        }
        if (turn.length)
            fan_out();
    }
}
