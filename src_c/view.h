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

#define FA_IS(dtype) (1u << (dtype))
#define FA_FLOATS (FA_IS(FA_F32) | FA_IS(FA_F16) | FA_IS(FA_BF16)) /* what activations are stored in */

/* As fa_check_f32, for any of a set of dtypes. */
static inline fa_status fa_check_view(const fa_view *view, int ndim, unsigned dtypes) {
    if (view->dtype < 0 || view->dtype > 31 || !(dtypes >> view->dtype & 1)) return FA_ERR_DTYPE;
    if (view->ndim != ndim) return FA_ERR_SHAPE;
    const int64_t item = fa_itemsize(view->dtype);
    for (int i = 0; i < ndim; i++) {
        if (view->shape[i] < 0) return FA_ERR_SHAPE;
        if (view->stride[i] % item != 0) return FA_ERR_STRIDE;
    }
    if ((uintptr_t)view->data % (uintptr_t)item) return FA_ERR_STRIDE;
    if (view->shape[ndim - 1] > 1 && view->stride[ndim - 1] != item) return FA_ERR_STRIDE;
    return FA_OK;
}

/* Address of the row (i, j, k) of an array of rank 4, or of rank 3 with k = 0. */
static inline void *fa_row_at(const fa_view *view, int64_t i, int64_t j, int64_t k) {
    return (char *)view->data + i * view->stride[0] + j * view->stride[1] + k * view->stride[2];
}

/* Element (i, j) of an int64 array of rank 2. */
static inline int64_t fa_i64_at(const fa_view *view, int64_t i, int64_t j) {
    return *(const int64_t *)((const char *)view->data + i * view->stride[0] + j * view->stride[1]);
}

#endif
