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
FA_INLINE v16f v_step16(v16f r, const uint32_t *table) {
    FA_EACH {
        uint32_t u;
        memcpy(&u, &r.f[i], 4);
        u = (u << 19) + table[u & 15u];
        memcpy(&r.f[i], &u, 4);
    }
    return r;
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

FA_INLINE void v_unzip(v16f a, v16f b, v16f *even, v16f *odd) {
    for (int i = 0; i < 8; i++) {
        even->f[i] = a.f[2 * i], even->f[i + 8] = b.f[2 * i];
        odd->f[i] = a.f[2 * i + 1], odd->f[i + 8] = b.f[2 * i + 1];
    }
}
FA_INLINE void v_zip(v16f even, v16f odd, v16f *a, v16f *b) {
    for (int i = 0; i < 8; i++) {
        a->f[2 * i] = even.f[i], a->f[2 * i + 1] = odd.f[i];
        b->f[2 * i] = even.f[i + 8], b->f[2 * i + 1] = odd.f[i + 8];
    }
}

FA_INLINE void v_transpose16(v16f r[16]) {
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < i; j++) {
            float t = r[i].f[j];
            r[i].f[j] = r[j].f[i];
            r[j].f[i] = t;
        }
}

/* ---- storage types ------------------------------------------------------------------------------------------------ */

FA_INLINE float fa_from_f16(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, e = h >> 10 & 31u, m = h & 0x3ffu, u;
    float f = (float)m * 0x1p-24f; /* a denormal, or zero */
    if (e == 31) u = 0x7f800000u | m << 13 | (m ? 0x00400000u : 0u); /* a signalling NaN becomes a quiet one */
    else if (e) u = (e + 112u) << 23 | m << 13;
    else memcpy(&u, &f, 4);
    u |= sign;
    memcpy(&f, &u, 4);
    return f;
}
FA_INLINE uint16_t fa_to_f16(float x) {
    uint32_t u, sign, t;
    memcpy(&u, &x, 4);
    sign = u >> 16 & 0x8000u;
    u &= 0x7fffffffu;
    if (u > 0x7f800000u) return 0x7e00u;
    if (u >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* from 65520 on, infinity is the nearest */
    if (u < 0x38800000u) { /* below 2^-14 the steps are 2^-24: those of floats in [1/2, 1) */
        memcpy(&x, &u, 4);
        x += 0.5f;
        memcpy(&t, &x, 4);
        return (uint16_t)(sign | (t - 0x3f000000u));
    }
    u += 0xfffu + (u >> 13 & 1u);
    return (uint16_t)(sign | ((u >> 13) - (112u << 10)));
}
FA_INLINE float fa_from_bf16(uint16_t h) {
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}
FA_INLINE uint16_t fa_to_bf16(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    if ((u & 0x7fffffffu) > 0x7f800000u) return 0x7fc0u;
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

FA_INLINE v16f v_load_f16_n(const uint16_t *p, int n) {
    v16f r = v_zero();
    for (int i = 0; i < n; i++) r.f[i] = fa_from_f16(p[i]);
    return r;
}
FA_INLINE v16f v_load_bf16_n(const uint16_t *p, int n) {
    v16f r = v_zero();
    for (int i = 0; i < n; i++) r.f[i] = fa_from_bf16(p[i]);
    return r;
}
FA_INLINE v16f v_load_i8_n(const int8_t *p, int n) { v16f r = v_zero(); for (int i = 0; i < n; i++) r.f[i] = (float)p[i]; return r; }
FA_INLINE v16f v_part_bf16(v16f words, int part) {
    v16f r;
    FA_EACH {
        uint32_t w;
        memcpy(&w, &words.f[i], 4);
        r.f[i] = fa_from_bf16((uint16_t)(w >> 16 * part));
    }
    return r;
}
FA_INLINE v16f v_part_i8(v16f words, int part) {
    v16f r;
    FA_EACH {
        uint32_t w;
        memcpy(&w, &words.f[i], 4);
        r.f[i] = (float)(int8_t)(w >> 8 * part);
    }
    return r;
}
FA_INLINE void v_store_f16_n(uint16_t *p, v16f a, int n) { for (int i = 0; i < n; i++) p[i] = fa_to_f16(a.f[i]); }
FA_INLINE void v_store_bf16_n(uint16_t *p, v16f a, int n) { for (int i = 0; i < n; i++) p[i] = fa_to_bf16(a.f[i]); }
FA_INLINE void v_store_i8_n(int8_t *p, v16f a, int n) { for (int i = 0; i < n; i++) p[i] = (int8_t)a.f[i]; }
FA_INLINE v16f v_load_f16(const uint16_t *p) { return v_load_f16_n(p, 16); }
FA_INLINE v16f v_load_bf16(const uint16_t *p) { return v_load_bf16_n(p, 16); }
FA_INLINE v16f v_load_i8(const int8_t *p) { return v_load_i8_n(p, 16); }
FA_INLINE void v_store_f16(uint16_t *p, v16f a) { v_store_f16_n(p, a, 16); }
FA_INLINE void v_store_bf16(uint16_t *p, v16f a) { v_store_bf16_n(p, a, 16); }
FA_INLINE void v_store_i8(int8_t *p, v16f a) { v_store_i8_n(p, a, 16); }

#undef FA_EACH
