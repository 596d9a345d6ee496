/* SPDX-License-Identifier: MIT */
/*
 * Elementary functions over v16f: polynomials with the same coefficients and the same order of FMAs on every ISA.
 * Each returns NaN for NaN. Largest errors, found by scanning floats of the stated ranges against double precision,
 * stand in tests/ops/test_vmath.py. Coefficients are minimax fits (iterated reweighted least squares), rounded from the
 * low order up with the rest fitted anew after each rounding.
 */
#ifndef FA_VMATH_H
#define FA_VMATH_H

#include "vec.h"

/* Below this exp2 is exactly 0, so no result is ever a denormal. */
#define FA_EXP2_MIN (-126.0f)
#define FA_LOG2E 0x1.715476p+0f
#define FA_LN2 0x1.62e43p-1f

FA_INLINE v16f fa_exp2_poly(v16f f) { /* 2^f, |f| <= 1/2; exactly 1 at 0 */
    v16f p = v_set1(0x1.416b52p-13f);
    p = v_fma(p, f, v_set1(0x1.5f082ep-10f));
    p = v_fma(p, f, v_set1(0x1.3b2de0p-7f));
    p = v_fma(p, f, v_set1(0x1.c6af7cp-5f));
    p = v_fma(p, f, v_set1(0x1.ebfbdcp-3f));
    p = v_fma(p, f, v_set1(0x1.62e430p-1f));
    return v_fma(p, f, v_set1(1.0f));
}

/* 2^x for x <= 0 (the softmax's exponents), -inf and NaN. Scaling by 2^n is a multiplication, which keeps NaN. */
FA_INLINE v16f v_exp2_neg(v16f x) {
#ifdef FA_VEC_AVX512
    v16f n = v_round(x);
    vmask keep = _mm512_cmp_ps_mask(x, _mm512_set1_ps(FA_EXP2_MIN), _CMP_NLT_UQ);
    return _mm512_maskz_scalef_ps(keep, fa_exp2_poly(v_sub(x, n)), n);
#else
    v16f n = v_round(v_max(x, v_set1(FA_EXP2_MIN))); /* NaN goes on through x - n */
    v16f r = v_mul(fa_exp2_poly(v_sub(x, n)), v_pow2(n));
    return v_select(m_lt(x, v_set1(FA_EXP2_MIN)), v_zero(), r);
#endif
}

/* 2^x; +inf from 128 on. Two multiplications, since 2^128 has no float. */
FA_INLINE v16f v_exp2(v16f x) {
    v16f n = v_round(v_min(v_set1(128.0f), v_max(x, v_set1(FA_EXP2_MIN))));
    v16f half = v_round(v_mul(n, v_set1(0.5f)));
    v16f r = v_mul(v_mul(fa_exp2_poly(v_sub(x, n)), v_pow2(half)), v_pow2(v_sub(n, half)));
    r = v_select(m_le(v_set1(128.0f), x), v_set1(__builtin_inff()), r);
    return v_select(m_lt(x, v_set1(FA_EXP2_MIN)), v_zero(), r);
}

/* e^x by exact range reduction: x = n ln2 + r, with ln2 in two parts. */
FA_INLINE v16f v_exp(v16f x) {
    v16f y = v_mul(x, v_set1(FA_LOG2E));
    v16f n = v_round(v_min(v_set1(128.0f), v_max(y, v_set1(FA_EXP2_MIN))));
    v16f r = v_fma(n, v_set1(-0x1.62e4p-1f), x);
    r = v_fma(n, v_set1(-0x1.7f7d1cp-20f), r);
    v16f p = v_set1(0x1.6a524ep-10f);
    p = v_fma(p, r, v_set1(0x1.12396ep-7f));
    p = v_fma(p, r, v_set1(0x1.5558aap-5f));
    p = v_fma(p, r, v_set1(0x1.555492p-3f));
    p = v_fma(p, r, v_set1(0x1.fffffcp-2f));
    p = v_fma(v_mul(r, r), p, r);
    p = v_add(p, v_set1(1.0f));
    v16f half = v_round(v_mul(n, v_set1(0.5f)));
    p = v_mul(v_mul(p, v_pow2(half)), v_pow2(v_sub(n, half)));
    p = v_select(m_le(v_set1(128.0f), y), v_set1(__builtin_inff()), p);
    return v_select(m_lt(y, v_set1(FA_EXP2_MIN)), v_zero(), p);
}

/* log2(x) for normal positive x; -inf at 0, +inf at +inf, NaN below 0. Denormals count as 0. */
FA_INLINE v16f v_log2(v16f x) {
    v16f e;
    v16f f = v_sub(v_split(x, &e), v_set1(1.0f));
    v16f p = v_set1(0x1.147334p-4f);
    p = v_fma(p, f, v_set1(-0x1.de01dap-4f));
    p = v_fma(p, f, v_set1(0x1.e6c00ap-4f));
    p = v_fma(p, f, v_set1(-0x1.fc28cap-4f));
    p = v_fma(p, f, v_set1(0x1.233ba2p-3f));
    p = v_fma(p, f, v_set1(-0x1.555c44p-3f));
    p = v_fma(p, f, v_set1(0x1.99a476p-3f));
    p = v_fma(p, f, v_set1(-0x1.000006p-2f));
    p = v_fma(p, f, v_set1(0x1.555548p-2f));
    v16f f2 = v_mul(f, f);
    p = v_fma(v_mul(f2, f), p, v_mul(f2, v_set1(-0.5f))); /* ln(1 + f) - f */
    v16f r = v_fma(v_add(f, p), v_set1(FA_LOG2E), e);
    r = v_select(m_lt(x, v_set1(0x1p-126f)), v_set1(-__builtin_inff()), r);
    r = v_select(m_lt(x, v_zero()), v_set1(__builtin_nanf("")), r);
    r = v_select(m_eq(x, v_set1(__builtin_inff())), x, r);
    return v_select(m_nan(x), x, r);
}

/* 1 / (1 + e^-x) */
FA_INLINE v16f v_sigmoid(v16f x) { return v_div(v_set1(1.0f), v_add(v_set1(1.0f), v_exp(v_neg(x)))); }

/* x / (1 + e^-x), 0 at -inf (where e^-x overflows before x * 0 could become NaN) */
FA_INLINE v16f v_silu(v16f x) {
    v16f r = v_div(x, v_add(v_set1(1.0f), v_exp(v_neg(x))));
    return v_select(m_eq(x, v_set1(-__builtin_inff())), v_zero(), r);
}

/* An odd polynomial near 0, 1 - 2 / (e^2|x| + 1) beyond. */
FA_INLINE v16f v_tanh(v16f x) {
    v16f a = v_abs(x);
    v16f s = v_mul(x, x);
    v16f p = v_set1(-0x1.750ce4p-8f);
    p = v_fma(p, s, v_set1(0x1.51f8cep-6f));
    p = v_fma(p, s, v_set1(-0x1.b835a4p-5f));
    p = v_fma(p, s, v_set1(0x1.1106f6p-3f));
    p = v_fma(p, s, v_set1(-0x1.555532p-2f));
    p = v_fma(v_mul(s, x), p, x);
    v16f big = v_div(v_set1(2.0f), v_add(v_exp2(v_mul(a, v_set1(2.0f * FA_LOG2E))), v_set1(1.0f)));
    big = v_sub(v_set1(1.0f), big);
    big = v_select(m_lt(x, v_zero()), v_neg(big), big);
    return v_select(m_lt(a, v_set1(0.625f)), p, big);
}

/* The two halves of erf: (erf(t) - t) / t for |t| <= 1, and erfc(t) = 2^-Q(t) for t >= 1, exactly 0 from 4.25 on. */
FA_INLINE v16f fa_erf_poly(v16f t2) {
    v16f p = v_set1(0x1.4771fep-14f);
    p = v_fma(p, t2, v_set1(-0x1.a3515ep-11f));
    p = v_fma(p, t2, v_set1(0x1.53f224p-8f));
    p = v_fma(p, t2, v_set1(-0x1.b7f71ap-6f));
    p = v_fma(p, t2, v_set1(0x1.ce2ce6p-4f));
    p = v_fma(p, t2, v_set1(-0x1.81273ep-2f));
    return v_fma(p, t2, v_set1(0x1.06eba8p-3f));
}

FA_INLINE v16f fa_erfc_tail(v16f t) {
    v16f q = v_set1(0x1.6cf23ap-13f); /* -Q */
    q = v_fma(q, t, v_set1(-0x1.aae222p-9f));
    q = v_fma(q, t, v_set1(0x1.bf42bap-6f));
    q = v_fma(q, t, v_set1(-0x1.1dd61ep-3f));
    q = v_fma(q, t, v_set1(-0x1.dcfa40p-1f));
    q = v_fma(q, t, v_set1(-0x1.9e8882p+0f));
    q = v_fma(q, t, v_set1(-0x1.1ff1fap-9f));
    return v_select(m_le(v_set1(4.25f), t), v_zero(), v_exp2_neg(q));
}

FA_INLINE v16f v_erf(v16f x) {
    v16f t = v_abs(x);
    v16f near = v_fma(x, fa_erf_poly(v_mul(x, x)), x);
    v16f far = v_sub(v_set1(1.0f), fa_erfc_tail(t));
    far = v_select(m_lt(x, v_zero()), v_neg(far), far);
    return v_select(m_lt(v_set1(1.0f), t), far, near);
}

/* Bits of -2^(j / 16), less j << 19: v_step16 adds the sixteenths of an exponent shifted by 19, j and the whole part. */
static const uint32_t fa_exp2_steps[16] = {
    0xbf800000u, 0xbf7daac3u, 0xbf7b95c2u, 0xbf79c3d3u, 0xbf7837f0u, 0xbf76f532u, 0xbf75fed7u, 0xbf75583fu,
    0xbf7504f3u, 0xbf7508a4u, 0xbf75672au, 0xbf76248cu, 0xbf7744fdu, 0xbf78ccdfu, 0xbf7ac0c7u, 0xbf7d257du,
};

/*
 * x * Phi(x) = max(x, 0) - u Phi(-u) with u = |x|, and Phi(-u) = 2^t, t a polynomial over the one range [0, 6]; beyond
 * it exactly max(x, 0), since u Phi(-u) is below 6e-9. t is fitted to log2 Phi(-u) with -1 fixed and the error weighed 1
 * up to u = 1/2, then less, 1/100 at 3 and 1/1500 at 6, and aimed 2e-8 low about 0.32 and 0.95, where the roundings of
 * the evaluation add up; 2^f to |f| <= 1/32 with 1 fixed. 1.5 * 2^19 has steps of 1/16: the sum's low bits are t in
 * sixteenths. NaN comes through max.
 */
FA_INLINE v16f v_gelu(v16f x) {
    const v16f magic = v_set1(0x1.8p19f);
    v16f u = v_abs(x);
    v16f t = v_set1(0x1.8af1fcp-23f);
    t = v_fma(t, u, v_set1(-0x1.2bfe08p-18f));
    t = v_fma(t, u, v_set1(0x1.6973c6p-15f));
    t = v_fma(t, u, v_set1(-0x1.79e6a2p-13f));
    t = v_fma(t, u, v_set1(-0x1.70d84cp-13f));
    t = v_fma(t, u, v_set1(0x1.d32722p-8f));
    t = v_fma(t, u, v_set1(-0x1.ae70a4p-5f));
    t = v_fma(t, u, v_set1(-0x1.d636a6p-2f));
    t = v_fma(t, u, v_set1(-0x1.26aef0p+0f));
    t = v_fma(t, u, v_set1(-1.0f));
    v16f r = v_add(t, magic);
    v16f f = v_sub(t, v_sub(r, magic));
    v16f p = v_set1(0x1.c6aef4p-5f);
    p = v_fma(p, f, v_set1(0x1.ebfff2p-3f));
    p = v_fma(p, f, v_set1(0x1.62e430p-1f));
    p = v_fma(p, f, v_set1(1.0f));
    v16f above = v_max(v_zero(), x);
    return v_select(m_le(u, v_set1(6.0f)), v_fma(v_mul(u, v_step16(r, fa_exp2_steps)), p, above), above);
}

/* x / 2 * (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) as x * sigmoid of twice that, which keeps the lower tail */
FA_INLINE v16f v_gelu_tanh(v16f x) {
    v16f x2 = v_mul(x, x);
    v16f u = v_mul(x, v_fma(x2, v_set1(-0x1.2444f2p-4f), v_set1(-0x1.988454p+0f)));
    v16f r = v_div(x, v_add(v_set1(1.0f), v_exp(u)));
    return v_select(m_eq(x, v_set1(-__builtin_inff())), v_zero(), r);
}

FA_INLINE v16f v_relu(v16f x) { return v_select(m_lt(x, v_zero()), v_zero(), x); }

#endif
