// Listening sockets, and what to say if an address is taken: who has it, and what is free.
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/file.h"
#include "net/http_int.h"

enum { MAX_PORT = 65535, OTHER_PORTS = 50, COMM_MAX = 64 };

// --- who has the port ----------------------------------------------------------------------------

// The inode of a socket that listens on the port, from one of the kernel's tables; 0 = none.
static unsigned long listening_inode(const char *table, int port) {
    char *text = NULL;
    size_t n = 0;
    unsigned long found = 0;
    if (mk_file_read(table, (size_t)4 << 20, &text, &n, NULL) != MK_OK) {
        return 0;
    }
    enum { LISTEN = 0x0a };
    for (char *line = text; line && !found; line = strchr(line, '\n')) {
        line += *line == '\n';
        unsigned local, state;
        unsigned long inode;
        // sl: local_address:port rem_address:port st queues timer retransmits uid timeout inode
        if (sscanf(line, "%*d: %*[0-9A-F]:%x %*[0-9A-F]:%*x %x %*s %*s %*s %*d %*d %lu", &local,
                   &state, &inode) == 3 &&
            state == LISTEN && (int)local == port) {
            found = inode;
        }
    }
    mk_free(text);
    return found;
}

static bool process_has(const char *pid, unsigned long inode) {
    char path[300], want[40], is[40];
    snprintf(want, sizeof want, "socket:[%lu]", inode);
    snprintf(path, sizeof path, "/proc/%s/fd", pid);
    DIR *d = opendir(path);
    bool found = false;
    for (struct dirent *e; d && !found && (e = readdir(d));) {
        ssize_t n = readlinkat(dirfd(d), e->d_name, is, sizeof is - 1);
        is[n > 0 ? n : 0] = '\0';
        found = strcmp(is, want) == 0;
    }
    if (d) {
        closedir(d);
    }
    return found;
}

// "NAME" (pid N) of the process that listens; false if it is not ours to see.
static bool port_owner(int port, char *out, size_t size) {
    unsigned long inode = listening_inode("/proc/net/tcp", port);
    inode = inode ? inode : listening_inode("/proc/net/tcp6", port);
    DIR *d = inode ? opendir("/proc") : NULL;
    bool found = false;
    for (struct dirent *e; d && !found && (e = readdir(d));) {
        if (e->d_name[0] < '1' || e->d_name[0] > '9' || !process_has(e->d_name, inode)) {
            continue;
        }
        char path[300], *comm = NULL;
        size_t n = 0;
        snprintf(path, sizeof path, "/proc/%s/comm", e->d_name);
        if (mk_file_read(path, COMM_MAX, &comm, &n, NULL) == MK_OK) {
            comm[strcspn(comm, "\n")] = '\0';
            snprintf(out, size, "\"%.64s\" (pid %.20s)", comm, e->d_name);
            found = true;
        }
        mk_free(comm);
    }
    if (d) {
        closedir(d);
    }
    return found;
}

// --- TCP -----------------------------------------------------------------------------------------

static int open_listener(const struct addrinfo *a) {
    int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return -1;
    }
    int on = 1, off = 0;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (a->ai_family == AF_INET6) {
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);  // "::" is all addresses
    }
    if (bind(fd, a->ai_addr, a->ai_addrlen) != 0 || listen(fd, SOMAXCONN) != 0) {
        int e = errno;
        close(fd);
        errno = e;
        return -1;
    }
    return fd;
}

static void set_port(struct addrinfo *a, int port) {
    if (a->ai_family == AF_INET6) {
        ((struct sockaddr_in6 *)(void *)a->ai_addr)->sin6_port = htons((uint16_t)port);
    } else {
        ((struct sockaddr_in *)(void *)a->ai_addr)->sin_port = htons((uint16_t)port);
    }
}

static int port_of(int fd) {
    struct sockaddr_storage s;
    socklen_t n = sizeof s;
    if (getsockname(fd, (struct sockaddr *)&s, &n) != 0) {
        return 0;
    }
    return ntohs(s.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)(void *)&s)->sin6_port
                                         : ((struct sockaddr_in *)(void *)&s)->sin_port);
}

static mk_status port_busy(struct addrinfo *a, int port, mk_err *err) {
    int other = 0;
    for (int p = port + 1; p <= port + OTHER_PORTS && p <= MAX_PORT && !other; p++) {
        set_port(a, p);
        int fd = open_listener(a);
        if (fd >= 0) {
            close(fd);
            other = p;
        }
    }
    char who[COMM_MAX + 40], hint[64] = "Choose another with --port.";
    if (!port_owner(port, who, sizeof who)) {
        snprintf(who, sizeof who, "another program");
    }
    if (other) {
        snprintf(hint, sizeof hint, "Start with --port %d, or stop that program.", other);
    }
    return MK_FAIL(err, MK_EIO, "Port %d is used by %s. %s", port, who, hint);
}

static mk_status listen_failed(struct addrinfo *a, const char *host, int port, int error,
                               mk_err *err) {
    switch (error) {
    case EADDRINUSE:
        return port_busy(a, port, err);
    case EACCES:
        return MK_FAIL(err, MK_EIO, "Port %d needs the rights of root. Choose one above 1023.",
                       port);
    case EADDRNOTAVAIL:
        return MK_FAIL(err, MK_EUSAGE,
                       "%s is no address of this machine. Use 127.0.0.1 for this machine alone, "
                       "0.0.0.0 for all its addresses.",
                       host);
    default:
        return MK_FAIL(err, MK_EIO, "cannot listen on %s port %d: %s", host, port, strerror(error));
    }
}

static mk_status listen_tcp(const char *host, int port, int *fd, int *got_port, mk_err *err) {
    if (port < 0 || port > MAX_PORT) {
        return MK_FAIL(err, MK_EUSAGE, "port %d: expected 0 to 65535", port);
    }
    char service[16];
    snprintf(service, sizeof service, "%d", port);
    struct addrinfo *list = NULL, want = {.ai_flags = AI_PASSIVE | AI_NUMERICSERV,
                                          .ai_family = AF_UNSPEC,
                                          .ai_socktype = SOCK_STREAM};
    int e = getaddrinfo(host, service, &want, &list);
    if (e != 0) {
        return MK_FAIL(err, MK_EUSAGE,
                       "cannot find the address %s: %s. Use 127.0.0.1, 0.0.0.0 or "
                       "a name of this machine.",
                       host, gai_strerror(e));
    }
    // A name may have several addresses: the first that can be had.
    *fd = -1;
    int first_error = 0;
    for (struct addrinfo *a = list; a && *fd < 0; a = a->ai_next) {
        *fd = open_listener(a);
        if (*fd < 0 && !first_error) {
            first_error = errno;
        }
    }
    mk_status st = *fd >= 0 ? MK_OK : listen_failed(list, host, port, first_error, err);
    freeaddrinfo(list);
    *got_port = *fd >= 0 ? port_of(*fd) : 0;
    return st;
}

// --- socket file ---------------------------------------------------------------------------------

// A file that is left of a server that was killed is removed; one that answers is not.
static mk_status make_room(const struct sockaddr_un *a, mk_err *err) {
    struct stat st;
    if (lstat(a->sun_path, &st) != 0) {
        return MK_OK;
    }
    if (!S_ISSOCK(st.st_mode)) {
        return MK_FAIL(err, MK_EUSAGE, "%s exists and is not a socket. Choose another name.",
                       a->sun_path);
    }
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool dead =
        fd >= 0 && connect(fd, (const struct sockaddr *)a, sizeof *a) != 0 && errno == ECONNREFUSED;
    if (fd >= 0) {
        close(fd);
    }
    if (!dead) {
        return MK_FAIL(err, MK_EIO,
                       "%s is used by another program. Choose another name, or stop "
                       "that program.",
                       a->sun_path);
    }
    unlink(a->sun_path);
    return MK_OK;
}

static mk_status listen_unix(const char *path, int *fd, mk_err *err) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    size_t n = strlen(path);
    if (n == 0 || n >= sizeof a.sun_path) {
        return MK_FAIL(err, MK_EUSAGE, "socket path of %zu bytes: expected 1 to %zu", n,
                       sizeof a.sun_path - 1);
    }
    memcpy(a.sun_path, path, n);
    MK_TRY(make_room(&a, err));
    *fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    // Nobody can connect before listen(), so the file is never open to others.
    if (*fd >= 0 && bind(*fd, (struct sockaddr *)&a, sizeof a) == 0) {
        if (chmod(path, S_IRUSR | S_IWUSR) == 0 && listen(*fd, SOMAXCONN) == 0) {
            return MK_OK;
        }
        int e = errno;
        unlink(path);
        errno = e;
    }
    mk_status st = MK_FAIL(err, MK_EIO, "cannot listen on %s: %s", path, strerror(errno));
    if (*fd >= 0) {
        close(*fd);
    }
    *fd = -1;
    return st;
}

mk_status mk_http_listen(const mk_http_opts *o, int *fd, int *port, mk_err *err) {
    *fd = -1;
    *port = 0;
    if (o->unix_path) {
        return listen_unix(o->unix_path, fd, err);
    }
    return listen_tcp(o->host ? o->host : "127.0.0.1", o->port, fd, port, err);
}
