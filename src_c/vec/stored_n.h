/* SPDX-License-Identifier: MIT */
/* Storage types, n of 16 elements, for backends without masked access to elements of 8 and 16 bits: through a copy. */
FA_INLINE v16f v_load_f16_n(const uint16_t *p, int n) {
    uint16_t t[16] = {0};
    for (int i = 0; i < n; i++) t[i] = p[i];
    return v_load_f16(t);
}
FA_INLINE v16f v_load_bf16_n(const uint16_t *p, int n) {
    uint16_t t[16] = {0};
    for (int i = 0; i < n; i++) t[i] = p[i];
    return v_load_bf16(t);
}
FA_INLINE v16f v_load_i8_n(const int8_t *p, int n) {
    int8_t t[16] = {0};
    for (int i = 0; i < n; i++) t[i] = p[i];
    return v_load_i8(t);
}
FA_INLINE void v_store_f16_n(uint16_t *p, v16f a, int n) {
    uint16_t t[16];
    v_store_f16(t, a);
    for (int i = 0; i < n; i++) p[i] = t[i];
}
FA_INLINE void v_store_bf16_n(uint16_t *p, v16f a, int n) {
    uint16_t t[16];
    v_store_bf16(t, a);
    for (int i = 0; i < n; i++) p[i] = t[i];
}
FA_INLINE void v_store_i8_n(int8_t *p, v16f a, int n) {
    int8_t t[16];
    v_store_i8(t, a);
    for (int i = 0; i < n; i++) p[i] = t[i];
}
