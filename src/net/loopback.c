#include "net/loopback.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>
#include <strings.h>

static bool is_name(const char *host, size_t n) {
    static const char name[] = "localhost";
    return n == sizeof name - 1 && strncasecmp(host, name, n) == 0;
}

bool mk_is_loopback(const char *host, size_t n) {
    char text[INET6_ADDRSTRLEN];
    struct in_addr v4;
    struct in6_addr v6;
    bool brackets = n > 2 && host[0] == '[' && host[n - 1] == ']';
    if (brackets) {
        host++;
        n -= 2;
    }
    if (n >= sizeof text || memchr(host, 0, n)) {
        return false;
    }
    memcpy(text, host, n);
    text[n] = 0;
    if (inet_pton(AF_INET6, text, &v6) == 1) {
        return IN6_IS_ADDR_LOOPBACK(&v6) ||
               (IN6_IS_ADDR_V4MAPPED(&v6) && v6.s6_addr[12] == IN_LOOPBACKNET);
    }
    if (brackets) {
        return false;
    }
    return is_name(text, n) ||
           (inet_pton(AF_INET, text, &v4) == 1 && ntohl(v4.s_addr) >> 24 == IN_LOOPBACKNET);
}
