// Is an address of this machine alone?  Is it an address at all, and no name?
#ifndef MK_NET_LOOPBACK_H
#define MK_NET_LOOPBACK_H

#include <stdbool.h>
#include <stddef.h>

// host[0..n): a name or address as it stands in front of the port, an IPv6 address in brackets or
// without.  True for "localhost" in any case, 127.0.0.0/8, ::1, and those of the former that are
// written as IPv6 (::ffff:127.0.0.1).  Names are not looked up: whoever answers for them may lie.
bool mk_is_loopback(const char *host, size_t n);
// An IPv4 address as four numbers, or an IPv6 address, in brackets or without: nobody else can make
// it mean something else, as they can with a name of theirs.
bool mk_is_address(const char *host, size_t n);

#endif
