#include "serve/dialect.h"

int mk_error_http_status(mk_status st) {
    switch (st) {
    case MK_OK:
        return 200;
    case MK_EUSAGE:
    case MK_ECORRUPT:
    case MK_EUNSUPPORTED:
    case MK_ECONTEXT:
    case MK_ETEMPLATE:
        return 400;
    case MK_ENOTFOUND:
        return 404;
    case MK_ELIMIT:
        return 429;
    case MK_ENET:
        return 502;
    case MK_ENOMEM:
    case MK_EINTR:
        return 503;
    case MK_EIO:
        break;
    }
    return 500;
}
