#include "net/loopback.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>
#include <strings.h>

static bool is_name(const char *host, size_t n) {
    static const char name[] = "localhost";
    return n == sizeof name - 1 && strncasecmp(host, name, n) == 0;
}

// The text without brackets, which may stand around an IPv6 address; false: it is too long for an
// address, or has a NUL.
static bool take_text(const char *host, size_t n, char text[INET6_ADDRSTRLEN], bool *brackets) {
    *brackets = n > 2 && host[0] == '[' && host[n - 1] == ']';
    host += *brackets;
    n -= *brackets ? 2 : 0;
    if (n >= INET6_ADDRSTRLEN || memchr(host, 0, n)) {
        return false;
    }
    memcpy(text, host, n);
    text[n] = 0;
    return true;
}

bool mk_is_address(const char *host, size_t n) {
    char text[INET6_ADDRSTRLEN];
    struct in_addr v4;
    struct in6_addr v6;
    bool brackets;
    return take_text(host, n, text, &brackets) &&
           (inet_pton(AF_INET6, text, &v6) == 1 ||
            (!brackets && inet_pton(AF_INET, text, &v4) == 1));
}

bool mk_is_loopback(const char *host, size_t n) {
    char text[INET6_ADDRSTRLEN];
    struct in_addr v4;
    struct in6_addr v6;
    bool brackets;
    if (!take_text(host, n, text, &brackets)) {
        return false;
    }
    if (inet_pton(AF_INET6, text, &v6) == 1) {
        return IN6_IS_ADDR_LOOPBACK(&v6) ||
               (IN6_IS_ADDR_V4MAPPED(&v6) && v6.s6_addr[12] == IN_LOOPBACKNET);
    }
    if (brackets) {
        return false;
    }
    return is_name(text, strlen(text)) ||
           (inet_pton(AF_INET, text, &v4) == 1 && ntohl(v4.s_addr) >> 24 == IN_LOOPBACKNET);
}
