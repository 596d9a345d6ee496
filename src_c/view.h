/* SPDX-License-Identifier: MIT */
/* Reading fa_view in one place: element strides, dtype sizes, checks shared by the ops. */
#ifndef FA_VIEW_H
#define FA_VIEW_H

#include "fastattn.h"

static inline int64_t fa_itemsize(int32_t dtype) {
    switch (dtype) {
    case FA_F32: case FA_I32: return 4;
    case FA_F16: case FA_BF16: return 2;
    case FA_I64: return 8;
    case FA_I8: case FA_BOOL: return 1;
    default: return 0;
    }
}

/* Stride of dimension `dim` in elements. */
static inline int64_t fa_estride(const fa_view *view, int dim) { return view->stride[dim] / fa_itemsize(view->dtype); }

/* fp32 of the given rank with a unit last stride, whole-element strides and data on a whole element. */
static inline fa_status fa_check_f32(const fa_view *view, int ndim) {
    if (view->dtype != FA_F32) return FA_ERR_DTYPE;
    if (view->ndim != ndim) return FA_ERR_SHAPE;
    for (int i = 0; i < ndim; i++) {
        if (view->shape[i] < 0) return FA_ERR_SHAPE;
        if (view->stride[i] % 4 != 0) return FA_ERR_STRIDE;
    }
    if ((uintptr_t)view->data % 4) return FA_ERR_STRIDE;
    if (view->shape[ndim - 1] > 1 && view->stride[ndim - 1] != 4) return FA_ERR_STRIDE;
    return FA_OK;
}

#endif
