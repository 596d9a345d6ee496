/* SPDX-License-Identifier: MIT */
#include "fastattn.h"

const char *fa_status_text(fa_status status) {
    switch (status) {
    case FA_OK: return "ok";
    case FA_ERR_SHAPE: return "shapes do not fit together";
    case FA_ERR_DTYPE: return "unsupported dtype";
    case FA_ERR_VALUE: return "value out of range";
    case FA_ERR_STRIDE: return "the last stride is not one element";
    case FA_ERR_WORKSPACE: return "workspace missing, misaligned or too small";
    case FA_ERR_MEMORY: return "sizes too large";
    case FA_STOPPED: return "stopped before its end";
    case FA_ERR_NAN: return "NaN or +inf where a number has to be";
    case FA_ERR_EMPTY: return "nothing is left to choose from";
    }
    return "unknown status";
}
