/* SPDX-License-Identifier: MIT */
/* Random bits: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (2011). And logarithms and powers in
 * plain double precision, the same on every machine. */
#include "sample.h"

void fa_philox(uint32_t out[4], const uint32_t counter[4], const uint32_t key[2]) {
    uint32_t c[4] = {counter[0], counter[1], counter[2], counter[3]}, k[2] = {key[0], key[1]};
    for (int round = 0; round < 10; round++) {
        const uint64_t a = (uint64_t)0xD2511F53u * c[0], b = (uint64_t)0xCD9E8D57u * c[2];
        const uint32_t next[4] = {(uint32_t)(b >> 32) ^ c[1] ^ k[0], (uint32_t)b, (uint32_t)(a >> 32) ^ c[3] ^ k[1], (uint32_t)a};
        memcpy(c, next, sizeof c);
        k[0] += 0x9E3779B9u;
        k[1] += 0xBB67AE85u;
    }
    memcpy(out, c, sizeof c);
}

/*
 * x = 2^e m with m = 1 + f in [sqrt(1/2), sqrt(2)), and ln m = 2 artanh s with s = f / (2 + f), |s| < 0.1716: the series up
 * to s^21 leaves 2^-62 of it. Its first term 2 s is f - f^2 / 2 + s f^2 / 2, so that what is rounded is small beside f, which
 * is exact. e ln 2 comes in two parts, the first so short that the product is exact.
 */
double fa_log(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    const uint64_t shifted = bits - 0x3fe6a09e667f3bcdu;
    const int64_t e = (int64_t)shifted >> 52;
    bits = (shifted & 0x000fffffffffffffu) + 0x3fe6a09e667f3bcdu;
    double m;
    memcpy(&m, &bits, sizeof m);
    const double f = m - 1, s = f / (2 + f), z = s * s, half = 0.5 * f * f;
    double p = 1.0 / 21;
    for (int i = 19; i >= 3; i -= 2) p = p * z + 1.0 / i;
    const double high = (double)e * 0x1.62e42fefap-1, low = (double)e * 0x1.cf79abc9e3b3ap-40;
    return high - ((half - (s * (half + 2 * z * p) + low)) - f);
}

/* x = n ln 2 + r with |r| <= ln(2) / 2: the series up to r^13 / 13! leaves 2^-57. n ln 2 comes in two parts as above. */
double fa_exp(double x) {
    if (x > 710) return __builtin_inf();
    if (!(x > -745)) return 0;
    const double n = x * 0x1.71547652b82fep+0 + 0x1.8p52 - 0x1.8p52; /* the nearest whole number */
    const double r = x - n * 0x1.62e42fefap-1 - n * 0x1.cf79abc9e3b3ap-40;
    double p = 1;
    for (int i = 13; i >= 1; i--) p = 1 + p * r / i;
    const int64_t half = (int64_t)n / 2; /* 2^n in two steps: n reaches beyond the exponents of one */
    const uint64_t bits[2] = {(uint64_t)(half + 1023) << 52, (uint64_t)((int64_t)n - half + 1023) << 52};
    double scale[2];
    memcpy(scale, bits, sizeof scale);
    return p * scale[0] * scale[1];
}

double fa_power(double x, int64_t n) {
    double power = 1;
    for (; n > 0; n /= 2, x *= x)
        if (n % 2) power *= x;
    return power;
}
