/* SPDX-License-Identifier: MIT */
/* The specification: 16 floats in an array, plain loops, fmaf. */
#include <math.h> /* fmaf, the one libm function kernels may call */

typedef struct { float f[16]; } v16f;
typedef struct { uint32_t bits; } vmask;

#define FA_EACH for (int i = 0; i < 16; i++)

FA_INLINE v16f v_set1(float x) { v16f r; FA_EACH r.f[i] = x; return r; }
FA_INLINE v16f v_zero(void) { return v_set1(0.0f); }
FA_INLINE v16f v_load(const float *p) { v16f r; memcpy(r.f, p, 64); return r; }
FA_INLINE void v_store(float *p, v16f a) { memcpy(p, a.f, 64); }
FA_INLINE v16f v_load_n(const float *p, int n) { v16f r = v_zero(); for (int i = 0; i < n; i++) r.f[i] = p[i]; return r; }
FA_INLINE void v_store_n(float *p, v16f a, int n) { for (int i = 0; i < n; i++) p[i] = a.f[i]; }
FA_INLINE v16f v_iota(void) { v16f r; FA_EACH r.f[i] = (float)i; return r; }

FA_INLINE v16f v_add(v16f a, v16f b) { FA_EACH a.f[i] = a.f[i] + b.f[i]; return a; }
FA_INLINE v16f v_sub(v16f a, v16f b) { FA_EACH a.f[i] = a.f[i] - b.f[i]; return a; }
FA_INLINE v16f v_mul(v16f a, v16f b) { FA_EACH a.f[i] = a.f[i] * b.f[i]; return a; }
FA_INLINE v16f v_div(v16f a, v16f b) { FA_EACH a.f[i] = a.f[i] / b.f[i]; return a; }
FA_INLINE v16f v_fma(v16f a, v16f b, v16f c) { FA_EACH a.f[i] = fmaf(a.f[i], b.f[i], c.f[i]); return a; }
FA_INLINE v16f v_max(v16f a, v16f b) { FA_EACH a.f[i] = a.f[i] > b.f[i] ? a.f[i] : b.f[i]; return a; }
FA_INLINE v16f v_min(v16f a, v16f b) { FA_EACH a.f[i] = a.f[i] < b.f[i] ? a.f[i] : b.f[i]; return a; }
FA_INLINE v16f v_sqrt(v16f a) { FA_EACH a.f[i] = __builtin_sqrtf(a.f[i]); return a; }
FA_INLINE v16f v_abs(v16f a) { FA_EACH a.f[i] = __builtin_fabsf(a.f[i]); return a; }
FA_INLINE v16f v_neg(v16f a) { FA_EACH a.f[i] = -a.f[i]; return a; }
/* The constant is even, so adding it breaks ties the way the hardware's rounding does. */
FA_INLINE v16f v_round(v16f a) { FA_EACH a.f[i] = (a.f[i] + 0x1.8p23f) - 0x1.8p23f; return a; }
FA_INLINE v16f v_pow2(v16f n) {
    FA_EACH { /* low bits of n + 1.5 * 2^23 are n: no conversion, so nothing undefined for NaN */
        float t = n.f[i] + 0x1.8p23f;
        uint32_t u;
        memcpy(&u, &t, 4);
        u = (u - 0x4b400000u + 127u) << 23;
        memcpy(&n.f[i], &u, 4);
    }
    return n;
}
/* a = m * 2^e with m in [sqrt(1/2), sqrt(2)), for normal positive a */
FA_INLINE v16f v_split(v16f a, v16f *exponent) {
    FA_EACH {
        uint32_t u;
        memcpy(&u, &a.f[i], 4);
        uint32_t shifted = u - 0x3f3504f3u;
        exponent->f[i] = (float)((int32_t)shifted >> 23);
        u = (shifted & 0x007fffffu) + 0x3f3504f3u;
        memcpy(&a.f[i], &u, 4);
    }
    return a;
}

FA_INLINE vmask m_lt(v16f a, v16f b) { vmask m = {0}; FA_EACH m.bits |= (uint32_t)(a.f[i] < b.f[i]) << i; return m; }
FA_INLINE vmask m_le(v16f a, v16f b) { vmask m = {0}; FA_EACH m.bits |= (uint32_t)(a.f[i] <= b.f[i]) << i; return m; }
FA_INLINE vmask m_eq(v16f a, v16f b) { vmask m = {0}; FA_EACH m.bits |= (uint32_t)(a.f[i] == b.f[i]) << i; return m; }
FA_INLINE vmask m_and(vmask a, vmask b) { a.bits &= b.bits; return a; }
FA_INLINE vmask m_or(vmask a, vmask b) { a.bits |= b.bits; return a; }
FA_INLINE vmask m_not(vmask a) { a.bits = ~a.bits & 0xffffu; return a; }
FA_INLINE int m_any(vmask a) { return a.bits != 0; }
FA_INLINE vmask m_from_bits(uint32_t bits) { vmask m = {bits & 0xffffu}; return m; }
/* lanes whose word has a bit of `bit` set */
FA_INLINE vmask m_test(const uint32_t *words, uint32_t bit) { vmask m = {0}; FA_EACH m.bits |= (uint32_t)((words[i] & bit) != 0) << i; return m; }
/* bit i: byte i is not zero */
FA_INLINE uint32_t m_truth16(const uint8_t *p) { uint32_t bits = 0; FA_EACH bits |= (uint32_t)(p[i] != 0) << i; return bits; }
FA_INLINE uint32_t m_bits(vmask a) { return a.bits; }
FA_INLINE v16f v_select(vmask m, v16f yes, v16f no) { FA_EACH if (m.bits >> i & 1) no.f[i] = yes.f[i]; return no; }

FA_INLINE void v_transpose16(v16f r[16]) {
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < i; j++) {
            float t = r[i].f[j];
            r[i].f[j] = r[j].f[i];
            r[j].f[i] = t;
        }
}

#undef FA_EACH
