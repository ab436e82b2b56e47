/* ======================================================================== */
/* Dequantise: GGML's block types to floats                                  */
/* ========================================================================
   A row of a GGML tensor is a sequence of blocks of 32 or 256 weights; each block is a few bytes of
   scales and codes (ggml-common.h in llama.cpp defines the layouts). The order of the float
   operations is that of gguf-py, so that the results have the same bits; products that are added
   to are exact, so that contracting them changes nothing. */
#ifndef CONVERT_DEQUANTIZE_H
#define CONVERT_DEQUANTIZE_H

static float ggml_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* IEEE half precision; every half is a float. */
static float ggml_half(const uint8_t *p) {
    uint32_t h = llm__u16(p), sign = (h & 0x8000u) << 16, rest = h & 0x7fffu;
    if (rest >= 0x7c00u) return ggml_bits(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
    if (rest >= 0x0400u) return ggml_bits(sign | ((rest << 13) + 0x38000000u));
    return (sign ? -1.0f : 1.0f) * ((float)rest * 5.9604644775390625e-8f); /* 2^-24 */
}

static void ggml_f32(const uint8_t *p, float *out) { memcpy(out, p, sizeof *out); }
static void ggml_f16(const uint8_t *p, float *out) { *out = ggml_half(p); }
static void ggml_bf16(const uint8_t *p, float *out) {
    *out = ggml_bits((uint32_t)llm__u16(p) << 16);
}

/* 32 weights: half scale, 16 bytes of which the low nibbles come first. */
static void ggml_q4_0(const uint8_t *p, float *out) {
    float d = ggml_half(p);
    int i;
    for (i = 0; i < 16; i++) {
        out[i] = d * (float)((p[2 + i] & 15) - 8);
        out[i + 16] = d * (float)((p[2 + i] >> 4) - 8);
    }
}

static void ggml_q4_1(const uint8_t *p, float *out) {
    float d = ggml_half(p), m = ggml_half(p + 2);
    int i;
    for (i = 0; i < 16; i++) {
        float low = d * (float)(p[4 + i] & 15), high = d * (float)(p[4 + i] >> 4);
        out[i] = low + m;
        out[i + 16] = high + m;
    }
}

/* The fifth bits are a 32-bit mask before the nibbles. */
static void ggml_q5_0(const uint8_t *p, float *out) {
    float d = ggml_half(p);
    uint32_t high = llm__u32(p + 2);
    int i;
    for (i = 0; i < 32; i++) {
        int nibble = i < 16 ? p[6 + i] & 15 : p[6 + i - 16] >> 4;
        out[i] = d * (float)((nibble | (int)(high >> i & 1u) << 4) - 16);
    }
}

static void ggml_q5_1(const uint8_t *p, float *out) {
    float d = ggml_half(p), m = ggml_half(p + 2);
    uint32_t high = llm__u32(p + 4);
    int i;
    for (i = 0; i < 32; i++) {
        int nibble = i < 16 ? p[8 + i] & 15 : p[8 + i - 16] >> 4;
        float product = d * (float)(nibble | (int)(high >> i & 1u) << 4);
        out[i] = product + m;
    }
}

static int ggml_i8(uint8_t byte) { return byte < 128 ? byte : byte - 256; }

static void ggml_q8_0(const uint8_t *p, float *out) {
    float d = ggml_half(p);
    int i;
    for (i = 0; i < 32; i++) out[i] = (float)ggml_i8(p[2 + i]) * d;
}

/* 256 weights: 16 pairs (scale, minimum) of 4 bits, 64 bytes of 2-bit codes, d, dmin. The codes of
   128 weights share 32 bytes, 2 bits for each quarter. */
static void ggml_q2_k(const uint8_t *p, float *out) {
    float d = ggml_half(p + 80), dmin = ggml_half(p + 82);
    int i;
    for (i = 0; i < 256; i++) {
        uint8_t scale = p[i / 16];
        int code = p[16 + i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
        float dl = d * (float)(scale & 15), ml = dmin * (float)(scale >> 4);
        float product = dl * (float)code;
        out[i] = product - ml;
    }
}

/* 32 bytes of third bits (0 subtracts 4), 64 bytes of 2-bit codes as above, 16 scales of 6 bits
   in 12 bytes, d. */
static void ggml_q3_k(const uint8_t *p, float *out) {
    float d = ggml_half(p + 108);
    const uint8_t *scales = p + 96;
    int i;
    for (i = 0; i < 256; i++) {
        int j = i / 16;
        int low = scales[j % 8] >> (j / 8 * 4) & 15, high = scales[8 + j % 4] >> (j / 4 * 2) & 3;
        int code = p[32 + i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
        int bit = p[i % 32] >> (i / 32) & 1;
        float dl = d * (float)((low | high << 4) - 32);
        out[i] = dl * (float)(code - (bit ? 0 : 4));
    }
}

/* Scale and minimum j of the eight of Q4_K and Q5_K: 6 bits each, in 12 bytes. */
static void ggml_scale_min(const uint8_t *s, int j, int *scale, int *minimum) {
    if (j < 4) {
        *scale = s[j] & 63;
        *minimum = s[j + 4] & 63;
    } else {
        *scale = (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
        *minimum = s[j + 4] >> 4 | (s[j] >> 6) << 4;
    }
}

/* d, dmin, scales and minima, (fifth bits,) nibbles: 64 weights share 32 bytes. */
static void ggml_q45_k(const uint8_t *p, const uint8_t *fifth, const uint8_t *nibbles, float *out) {
    float d = ggml_half(p), dmin = ggml_half(p + 2);
    int i, j;
    for (j = 0; j < 8; j++) {
        int scale, minimum;
        float dl, ml;
        ggml_scale_min(p + 4, j, &scale, &minimum);
        dl = d * (float)scale;
        ml = dmin * (float)minimum;
        for (i = 0; i < 32; i++) {
            int code = nibbles[j / 2 * 32 + i] >> (j % 2 * 4) & 15;
            float product;
            if (fifth) code |= (fifth[i] >> j & 1) << 4;
            product = dl * (float)code;
            out[j * 32 + i] = product - ml;
        }
    }
}
static void ggml_q4_k(const uint8_t *p, float *out) { ggml_q45_k(p, NULL, p + 16, out); }
static void ggml_q5_k(const uint8_t *p, float *out) { ggml_q45_k(p, p + 16, p + 48, out); }

/* 128 bytes of nibbles, 64 of 2 further bits, 16 scales of 8 bits, d. Per 128 weights: the low
   nibbles of 64 bytes, then the high ones; the further bits of 32 bytes, 2 for each quarter. */
static void ggml_q6_k(const uint8_t *p, float *out) {
    float d = ggml_half(p + 208);
    int i;
    for (i = 0; i < 256; i++) {
        int half = i / 128, k = i % 128;
        int low = p[half * 64 + k % 64] >> (k / 64 * 4) & 15;
        int high = p[128 + half * 32 + k % 32] >> (k / 32 * 2) & 3;
        float dl = d * (float)ggml_i8(p[192 + i / 16]);
        out[i] = dl * (float)((low | high << 4) - 32);
    }
}

static const int8_t ggml_iq4[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                    1,    13,   25,  38,  53,  69,  89,  113};

static void ggml_iq4_nl(const uint8_t *p, float *out) {
    float d = ggml_half(p);
    int i;
    for (i = 0; i < 16; i++) {
        out[i] = d * (float)ggml_iq4[p[2 + i] & 15];
        out[i + 16] = d * (float)ggml_iq4[p[2 + i] >> 4];
    }
}

/* d, 16 bits of scale tops, 4 bytes of scale nibbles, nibbles of 32 weights in 16 bytes. */
static void ggml_iq4_xs(const uint8_t *p, float *out) {
    float d = ggml_half(p);
    unsigned tops = llm__u16(p + 2);
    int i, j;
    for (j = 0; j < 8; j++) {
        int scale = (p[4 + j / 2] >> (j % 2 * 4) & 15) | (int)(tops >> 2 * j & 3u) << 4;
        float dl = d * (float)(scale - 32);
        for (i = 0; i < 32; i++)
            out[j * 32 + i] = dl * (float)ggml_iq4[p[8 + j * 16 + i % 16] >> (i / 16 * 4) & 15];
    }
}

/* An exponent (2^(e - 128), denormal below 2), nibbles e2m1 times 2. */
static void ggml_mxfp4(const uint8_t *p, float *out) {
    static const int8_t values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
    float d = ggml_bits(p[0] < 2 ? 0x00200000u << p[0] : (uint32_t)(p[0] - 1) << 23);
    int i;
    for (i = 0; i < 16; i++) {
        out[i] = d * (float)values[p[1 + i] & 15];
        out[i + 16] = d * (float)values[p[1 + i] >> 4];
    }
}

/* Ternary: five digits to the base of 3 as a fraction of 256, each the whole part of three times
   what the last left; 160 weights in 32 bytes, 80 in 16, four digits of 16 weights in 4; d. */
static void ggml_tq1_0(const uint8_t *p, float *out) {
    static const struct { int from, bytes, digits; } part[3] = {{0, 32, 5}, {32, 16, 5}, {48, 4, 4}};
    float d = ggml_half(p + 52);
    int k, i, digit;
    for (k = 0; k < 3; k++) {
        unsigned power = 1;
        for (digit = 0; digit < part[k].digits; digit++, power *= 3)
            for (i = 0; i < part[k].bytes; i++)
                *out++ = d * (float)((int)((p[part[k].from + i] * power & 255u) * 3 >> 8) - 1);
    }
}

/* Ternary: the codes of 128 weights share 32 bytes, 2 bits for each quarter; d. */
static void ggml_tq2_0(const uint8_t *p, float *out) {
    float d = ggml_half(p + 64);
    int i;
    for (i = 0; i < 256; i++)
        out[i] = d * (float)((p[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3) - 1);
}

/* Ternary, of bitnet.cpp (github.com/microsoft/BitNet, src/ggml-bitnet-mad.cpp): byte i has weights i, 32 + i,
   64 + i, 96 + i from its highest bits on, as code - 1; in units of a float behind all blocks of a tensor.
   bitnet.cpp compiled for ARM writes blocks of 64 under the same number, which nothing in a file tells. */
static void ggml_i2_s(const uint8_t *p, float *out) {
    int i;
    for (i = 0; i < 128; i++) out[i] = (float)((p[i % 32] >> (6 - i / 32 * 2) & 3) - 1);
}

typedef struct ggml_type {
    uint32_t id;          /* in the file */
    const char *name;
    unsigned bits;        /* of a code; 1: ternary */
    uint32_t block, size; /* weights and bytes of a block */
    void (*dequantize)(const uint8_t *block, float *out);
    uint32_t end;         /* bytes behind a tensor's blocks, which begin with their unit; 0: it is 1 */
} ggml_type;

static const ggml_type ggml_types[] = {
    {0, "F32", 32, 1, 4, ggml_f32, 0},        {1, "F16", 16, 1, 2, ggml_f16, 0},
    {2, "Q4_0", 4, 32, 18, ggml_q4_0, 0},     {3, "Q4_1", 4, 32, 20, ggml_q4_1, 0},
    {6, "Q5_0", 5, 32, 22, ggml_q5_0, 0},     {7, "Q5_1", 5, 32, 24, ggml_q5_1, 0},
    {8, "Q8_0", 8, 32, 34, ggml_q8_0, 0},     {10, "Q2_K", 2, 256, 84, ggml_q2_k, 0},
    {11, "Q3_K", 3, 256, 110, ggml_q3_k, 0},  {12, "Q4_K", 4, 256, 144, ggml_q4_k, 0},
    {13, "Q5_K", 5, 256, 176, ggml_q5_k, 0},  {14, "Q6_K", 6, 256, 210, ggml_q6_k, 0},
    {20, "IQ4_NL", 4, 32, 18, ggml_iq4_nl, 0},{23, "IQ4_XS", 4, 256, 136, ggml_iq4_xs, 0},
    {30, "BF16", 16, 1, 2, ggml_bf16, 0},     {34, "TQ1_0", 1, 256, 54, ggml_tq1_0, 0},
    {35, "TQ2_0", 1, 256, 66, ggml_tq2_0, 0}, {36, "I2_S", 1, 128, 32, ggml_i2_s, 32},
    {39, "MXFP4", 4, 32, 17, ggml_mxfp4, 0}};

/* Their names, for messages. */
typedef struct ggml_type_list {
    char text[208];
} ggml_type_list;
static LLM__UNUSED ggml_type_list ggml_type_names(void) {
    ggml_type_list list;
    size_t i, used = 0;
    for (i = 0; i < sizeof ggml_types / sizeof *ggml_types; i++)
        used += (size_t)snprintf(list.text + used, sizeof list.text - used, "%s%u %s",
                                 i ? ", " : "", ggml_types[i].id, ggml_types[i].name);
    return list;
}

static const ggml_type *ggml_type_find(uint32_t id) {
    size_t i;
    for (i = 0; i < sizeof ggml_types / sizeof *ggml_types; i++)
        if (ggml_types[i].id == id) return &ggml_types[i];
    return NULL;
}

#endif
