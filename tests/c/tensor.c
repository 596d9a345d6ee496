/* SPDX-License-Identifier: MIT */
#include "tensor.h"

#include <string.h>

#include "../../src_c/view.h"

tensor tensor_make(const char *name, fa_dtype dtype, int ndim, const int64_t *shape, layout layout, guard_side side) {
    tensor t = {.view = {.ndim = ndim, .dtype = dtype}};
    const int64_t item = fa_itemsize(dtype);
    const int row = ndim - 2; /* the dimension that layouts act on; -1: none */
    int order[4] = {0, 1, 2, 3};
    if (layout == HEADS_INSIDE && ndim == 4) order[1] = 2, order[2] = 1;
    int64_t step = item;
    for (int i = ndim - 1; i >= 0; i--) {
        int dim = order[i];
        t.view.shape[dim] = shape[dim];
        t.view.stride[dim] = step;
        if (i == ndim - 1 && row >= 0) {
            step *= shape[dim] + (layout == PADDED ? 5 : 0);
            if (layout == COLLIDING) step = (step + 2047) / 2048 * 2048;
        } else {
            step *= shape[dim];
        }
    }
    int64_t reach = 0, elements = 1;
    for (int i = 0; i < ndim; i++) {
        elements *= shape[i];
        reach += (shape[i] - 1) * t.view.stride[i];
    }
    t.bytes = elements ? (size_t)(reach + item) : 0;
    t.memory = guard_alloc(t.bytes, side, name);
    t.view.data = t.memory;
    if (layout == REVERSED && row >= 0 && elements) {
        t.view.data = t.memory + (shape[row] - 1) * t.view.stride[row];
        t.view.stride[row] = -t.view.stride[row];
    }
    return t;
}

void tensor_expand(tensor *t, unsigned dims, const int64_t *shape) {
    for (int i = 0; i < t->view.ndim; i++) {
        if (!(dims >> i & 1)) continue;
        t->view.shape[i] = shape[i];
        t->view.stride[i] = 0;
    }
}

int64_t tensor_count(const fa_view *view) {
    int64_t count = 1;
    for (int i = 0; i < view->ndim; i++) count *= view->shape[i];
    return count;
}

void *view_at(const fa_view *view, int64_t logical) {
    char *at = view->data;
    for (int i = view->ndim - 1; i >= 0; i--) {
        at += logical % view->shape[i] * view->stride[i];
        logical /= view->shape[i];
    }
    return at;
}

void tensor_gather(const tensor *t, void *dense) {
    const int64_t item = fa_itemsize(t->view.dtype), count = tensor_count(&t->view);
    for (int64_t i = 0; i < count; i++) memcpy((char *)dense + i * item, view_at(&t->view, i), (size_t)item);
}

void tensor_fill(tensor *t, uint64_t seed, float scale) {
    const int64_t count = tensor_count(&t->view);
    for (int64_t i = 0; i < count; i++) *(float *)view_at(&t->view, i) = bell(seed, (uint64_t)i) * scale;
}

size_t tensor_free(tensor *t) { return guard_free(t->memory); }

size_t tensor_free_output(tensor *t) {
    const int64_t item = fa_itemsize(t->view.dtype), count = tensor_count(&t->view);
    size_t damaged = 0;
    for (int64_t i = 0; i < count; i++) memset(view_at(&t->view, i), GUARD_FILL, (size_t)item);
    for (size_t i = 0; i < t->bytes; i++) damaged += (unsigned char)t->memory[i] != GUARD_FILL;
    return damaged + guard_free(t->memory);
}
