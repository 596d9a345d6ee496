/* SPDX-License-Identifier: MIT */
/* aarch64: four q registers, masks as vectors of all-ones lanes. */
#include <arm_neon.h>

typedef struct { float32x4_t q[4]; } v16f;
typedef struct { uint32x4_t q[4]; } vmask;

#define FA_EACH _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++)
#define FA_V2(name, intrinsic) \
    FA_INLINE v16f name(v16f a, v16f b) { FA_EACH a.q[i] = intrinsic(a.q[i], b.q[i]); return a; }
#define FA_CMP2(name, intrinsic) \
    FA_INLINE vmask name(v16f a, v16f b) { vmask m; FA_EACH m.q[i] = intrinsic(a.q[i], b.q[i]); return m; }

FA_INLINE v16f v_set1(float x) { v16f r; FA_EACH r.q[i] = vdupq_n_f32(x); return r; }
FA_INLINE v16f v_zero(void) { return v_set1(0.0f); }
FA_INLINE v16f v_load(const float *p) { v16f r; FA_EACH r.q[i] = vld1q_f32(p + 4 * i); return r; }
FA_INLINE void v_store(float *p, v16f a) { FA_EACH vst1q_f32(p + 4 * i, a.q[i]); }
FA_INLINE v16f v_load_n(const float *p, int n) {
    float t[16] = {0};
    for (int i = 0; i < n; i++) t[i] = p[i];
    return v_load(t);
}
FA_INLINE void v_store_n(float *p, v16f a, int n) {
    float t[16];
    v_store(t, a);
    for (int i = 0; i < n; i++) p[i] = t[i];
}
FA_INLINE v16f v_iota(void) {
    static const float lanes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return v_load(lanes);
}

FA_V2(v_add, vaddq_f32)
FA_V2(v_sub, vsubq_f32)
FA_V2(v_mul, vmulq_f32)
FA_V2(v_div, vdivq_f32)
FA_INLINE v16f v_fma(v16f a, v16f b, v16f c) { FA_EACH c.q[i] = vfmaq_f32(c.q[i], a.q[i], b.q[i]); return c; }
FA_INLINE v16f v_max(v16f a, v16f b) { FA_EACH a.q[i] = vbslq_f32(vcgtq_f32(a.q[i], b.q[i]), a.q[i], b.q[i]); return a; }
FA_INLINE v16f v_min(v16f a, v16f b) { FA_EACH a.q[i] = vbslq_f32(vcltq_f32(a.q[i], b.q[i]), a.q[i], b.q[i]); return a; }
FA_INLINE v16f v_sqrt(v16f a) { FA_EACH a.q[i] = vsqrtq_f32(a.q[i]); return a; }
FA_INLINE v16f v_abs(v16f a) { FA_EACH a.q[i] = vabsq_f32(a.q[i]); return a; }
FA_INLINE v16f v_neg(v16f a) { FA_EACH a.q[i] = vnegq_f32(a.q[i]); return a; }
FA_INLINE v16f v_round(v16f a) { FA_EACH a.q[i] = vrndnq_f32(a.q[i]); return a; }
FA_INLINE v16f v_pow2(v16f n) {
    FA_EACH n.q[i] = vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n.q[i]), vdupq_n_s32(127)), 23));
    return n;
}
FA_INLINE v16f v_step16(v16f r, const uint32_t *table) {
    uint8x16x4_t t;
    FA_EACH t.val[i] = vreinterpretq_u8_u32(vld1q_u32(table + 4 * i));
    FA_EACH {
        uint32x4_t u = vreinterpretq_u32_f32(r.q[i]), entry = vandq_u32(u, vdupq_n_u32(15));
        entry = vmlaq_u32(vdupq_n_u32(0x03020100u), entry, vdupq_n_u32(0x04040404u)); /* its four bytes */
        entry = vreinterpretq_u32_u8(vqtbl4q_u8(t, vreinterpretq_u8_u32(entry)));
        r.q[i] = vreinterpretq_f32_u32(vaddq_u32(vshlq_n_u32(u, 19), entry));
    }
    return r;
}
FA_INLINE v16f v_split(v16f a, v16f *exponent) {
    const int32x4_t base = vdupq_n_s32(0x3f3504f3);
    FA_EACH {
        int32x4_t shifted = vsubq_s32(vreinterpretq_s32_f32(a.q[i]), base);
        exponent->q[i] = vcvtq_f32_s32(vshrq_n_s32(shifted, 23));
        a.q[i] = vreinterpretq_f32_s32(vaddq_s32(vandq_s32(shifted, vdupq_n_s32(0x007fffff)), base));
    }
    return a;
}

FA_CMP2(m_lt, vcltq_f32)
FA_CMP2(m_le, vcleq_f32)
FA_CMP2(m_eq, vceqq_f32)
FA_INLINE vmask m_and(vmask a, vmask b) { FA_EACH a.q[i] = vandq_u32(a.q[i], b.q[i]); return a; }
FA_INLINE vmask m_or(vmask a, vmask b) { FA_EACH a.q[i] = vorrq_u32(a.q[i], b.q[i]); return a; }
FA_INLINE vmask m_not(vmask a) { FA_EACH a.q[i] = vmvnq_u32(a.q[i]); return a; }
FA_INLINE int m_any(vmask a) {
    return vmaxvq_u32(vorrq_u32(vorrq_u32(a.q[0], a.q[1]), vorrq_u32(a.q[2], a.q[3]))) != 0;
}
FA_INLINE uint32_t m_truth16(const uint8_t *p) {
    static const uint8_t weights[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    uint8x16_t x = vld1q_u8(p);
    x = vandq_u8(vtstq_u8(x, x), vld1q_u8(weights));
    return (uint32_t)vaddv_u8(vget_low_u8(x)) | (uint32_t)vaddv_u8(vget_high_u8(x)) << 8;
}
FA_INLINE uint32_t m_bits(vmask a) {
    const int32_t shifts[4] = {0, 1, 2, 3};
    int32x4_t shift = vld1q_s32(shifts);
    uint32_t bits = 0;
    FA_EACH bits |= vaddvq_u32(vshlq_u32(vshrq_n_u32(a.q[i], 31), shift)) << (4 * i);
    return bits;
}
FA_INLINE vmask m_from_bits(uint32_t bits) {
    const uint32_t weights[4] = {1, 2, 4, 8};
    uint32x4_t weight = vld1q_u32(weights);
    vmask m;
    FA_EACH m.q[i] = vtstq_u32(vdupq_n_u32(bits >> (4 * i)), weight);
    return m;
}
FA_INLINE vmask m_test(const uint32_t *words, uint32_t bit) {
    vmask m;
    FA_EACH m.q[i] = vtstq_u32(vld1q_u32(words + 4 * i), vdupq_n_u32(bit));
    return m;
}
FA_INLINE v16f v_select(vmask m, v16f yes, v16f no) { FA_EACH no.q[i] = vbslq_f32(m.q[i], yes.q[i], no.q[i]); return no; }

FA_INLINE void fa_transpose4(float32x4_t *a, float32x4_t *b, float32x4_t *c, float32x4_t *d) {
    float32x4x2_t ab = vtrnq_f32(*a, *b), cd = vtrnq_f32(*c, *d);
    *a = vcombine_f32(vget_low_f32(ab.val[0]), vget_low_f32(cd.val[0]));
    *b = vcombine_f32(vget_low_f32(ab.val[1]), vget_low_f32(cd.val[1]));
    *c = vcombine_f32(vget_high_f32(ab.val[0]), vget_high_f32(cd.val[0]));
    *d = vcombine_f32(vget_high_f32(ab.val[1]), vget_high_f32(cd.val[1]));
}

FA_INLINE void v_unzip(v16f a, v16f b, v16f *even, v16f *odd) {
    for (int i = 0; i < 2; i++) {
        even->q[i] = vuzp1q_f32(a.q[2 * i], a.q[2 * i + 1]), even->q[i + 2] = vuzp1q_f32(b.q[2 * i], b.q[2 * i + 1]);
        odd->q[i] = vuzp2q_f32(a.q[2 * i], a.q[2 * i + 1]), odd->q[i + 2] = vuzp2q_f32(b.q[2 * i], b.q[2 * i + 1]);
    }
}
FA_INLINE void v_zip(v16f even, v16f odd, v16f *a, v16f *b) {
    for (int i = 0; i < 2; i++) {
        a->q[2 * i] = vzip1q_f32(even.q[i], odd.q[i]), a->q[2 * i + 1] = vzip2q_f32(even.q[i], odd.q[i]);
        b->q[2 * i] = vzip1q_f32(even.q[i + 2], odd.q[i + 2]), b->q[2 * i + 1] = vzip2q_f32(even.q[i + 2], odd.q[i + 2]);
    }
}

FA_INLINE void v_transpose16(v16f r[16]) {
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++)
            fa_transpose4(&r[4 * i].q[j], &r[4 * i + 1].q[j], &r[4 * i + 2].q[j], &r[4 * i + 3].q[j]);
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < i; j++)
            for (int k = 0; k < 4; k++) {
                float32x4_t t = r[4 * i + k].q[j];
                r[4 * i + k].q[j] = r[4 * j + k].q[i];
                r[4 * j + k].q[i] = t;
            }
}

/* ---- storage types ------------------------------------------------------------------------------------------------ */

FA_INLINE v16f v_load_f16(const uint16_t *p) {
    v16f r;
    FA_EACH r.q[i] = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i)));
    return r;
}
FA_INLINE v16f v_load_bf16(const uint16_t *p) {
    v16f r;
    FA_EACH r.q[i] = vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + 4 * i), 16));
    return r;
}
FA_INLINE v16f v_load_i8(const int8_t *p) {
    int8x16_t b = vld1q_s8(p);
    int16x8_t lo = vmovl_s8(vget_low_s8(b)), hi = vmovl_s8(vget_high_s8(b));
    v16f r;
    r.q[0] = vcvtq_f32_s32(vmovl_s16(vget_low_s16(lo)));
    r.q[1] = vcvtq_f32_s32(vmovl_s16(vget_high_s16(lo)));
    r.q[2] = vcvtq_f32_s32(vmovl_s16(vget_low_s16(hi)));
    r.q[3] = vcvtq_f32_s32(vmovl_s16(vget_high_s16(hi)));
    return r;
}

FA_INLINE v16f v_part_bf16(v16f words, int part) {
    v16f r;
    FA_EACH {
        uint32x4_t w = vreinterpretq_u32_f32(words.q[i]);
        r.q[i] = vreinterpretq_f32_u32(part ? vandq_u32(w, vdupq_n_u32(0xffff0000u)) : vshlq_n_u32(w, 16));
    }
    return r;
}
FA_INLINE v16f v_part_i8(v16f words, int part) {
    v16f r;
    FA_EACH {
        int32x4_t w = vshlq_s32(vreinterpretq_s32_f32(words.q[i]), vdupq_n_s32(24 - 8 * part));
        r.q[i] = vcvtq_f32_s32(vshrq_n_s32(w, 24));
    }
    return r;
}

FA_INLINE float32x4_t fa_quiet4(float32x4_t a) { /* any NaN -> the one NaN, whose narrow forms are the canonical ones */
    return vbslq_f32(vceqq_f32(a, a), a, vdupq_n_f32(__builtin_nanf("")));
}
FA_INLINE void v_store_f16(uint16_t *p, v16f a) {
    FA_EACH vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(fa_quiet4(a.q[i]))));
}
FA_INLINE void v_store_bf16(uint16_t *p, v16f a) {
    FA_EACH {
        uint32x4_t u = vreinterpretq_u32_f32(fa_quiet4(a.q[i]));
        uint32x4_t odd = vandq_u32(vshrq_n_u32(u, 16), vdupq_n_u32(1));
        vst1_u16(p + 4 * i, vshrn_n_u32(vaddq_u32(vaddq_u32(u, vdupq_n_u32(0x7fff)), odd), 16));
    }
}
FA_INLINE void v_store_i8(int8_t *p, v16f a) {
    int16x8_t lo = vcombine_s16(vmovn_s32(vcvtq_s32_f32(a.q[0])), vmovn_s32(vcvtq_s32_f32(a.q[1])));
    int16x8_t hi = vcombine_s16(vmovn_s32(vcvtq_s32_f32(a.q[2])), vmovn_s32(vcvtq_s32_f32(a.q[3])));
    vst1q_s8(p, vcombine_s8(vmovn_s16(lo), vmovn_s16(hi)));
}

#include "stored_n.h"

#undef FA_EACH
#undef FA_V2
#undef FA_CMP2
