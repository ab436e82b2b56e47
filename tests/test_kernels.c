/* Every kernel of every instruction set against the scalar specification, bit by bit: all weight
   types, 1 to 33, 64 and the most rows, odd shapes, random panels. Instruction sets that this machine
   lacks: tests/emulate. */
#ifdef LLM_DEV_HEADER
#include LLM_DEV_HEADER
#else
#define LLM_IMPLEMENTATION
#include "../llm.h"
#endif
#include "check.h"

static uint64_t seed = 1;
static uint32_t next_u32(void) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(seed >> 32);
}
static float next_float(void) { return (float)(int32_t)next_u32() * (1.0f / 1073741824.0f); }

#define MOST_ROWS LLM__ROWS_AT_ONCE
#define MOST_K 2048u

static llm__kernels scalar;
static int8_t q8[MOST_ROWS * MOST_K];
static int16_t q16[MOST_ROWS * MOST_K], sums[MOST_ROWS * MOST_K / 16];
static int32_t total[MOST_ROWS * MOST_K / 64];
static float xf[MOST_ROWS * MOST_K], scale[MOST_ROWS * MOST_K / 64];

static void fill_panel(uint8_t *panel, uint32_t type, uint32_t k) {
    size_t i, n = llm__panel_size(type, k);
    for (i = 0; i < n; i++) panel[i] = (uint8_t)(next_u32() >> 13);
    if (type == LLM_F32)
        for (i = 0; i < n; i += 4) {
            float x = next_float();
            memcpy(panel + i, &x, 4);
        }
    else if (type == LLM_BF16)
        for (i = 0; i < n; i += 2) {
            uint16_t h = (uint16_t)(llm__bits(next_float()) >> 16);
            memcpy(panel + i, &h, 2);
        }
    else
        for (i = 0; i < k / llm__super_block(k) * 16; i++) {
            uint16_t h = (uint16_t)(llm__bits(next_float() * 0.01f) >> 16);
            memcpy(panel + 2 * i, &h, 2);
        }
}

/* Rows of k values, and what the kernels take of them. */
static void fill_rows(uint32_t k) {
    uint32_t rows, i;
    for (rows = 0; rows < MOST_ROWS; rows++) {
        for (i = 0; i < k; i++) xf[rows * MOST_K + i] = next_float() * (i % 37 == 5 ? 9.0f : 1.0f);
        llm__quantize_scalar(xf + rows * MOST_K, k, llm__super_block(k), q8 + rows * MOST_K,
                             q16 + rows * MOST_K, scale + rows * (MOST_K / 64),
                             sums + rows * (MOST_K / 16));
        if (rows % 32 == 3) { /* the largest sums that can be */
            for (i = 0; i < k; i++) {
                int8_t v = (int8_t)(next_u32() & 1 ? 127 : rows % 64 < 32 ? 127 : -127);
                q8[rows * MOST_K + i] = v, q16[rows * MOST_K + i] = v;
            }
            for (i = 0; i < k / 16; i++) {
                int s = 0, j;
                for (j = 0; j < 16; j++) s += q8[rows * MOST_K + 16 * i + (uint32_t)j];
                sums[rows * (MOST_K / 16) + i] = (int16_t)s;
            }
        }
        llm__total_sums(sums + rows * (MOST_K / 16), k, llm__super_block(k),
                        total + rows * (MOST_K / 64));
    }
}

/* 1 to 33, 64, the most. */
static uint32_t next_rows(uint32_t rows) {
    return rows < 33 ? rows + 1 : rows < 64 ? 64 : rows < MOST_ROWS ? MOST_ROWS : MOST_ROWS + 1;
}

#define PANEL_SIZE (MOST_K * 16 * 4 + 64)

static void test_panels(const llm__kernels *isa) {
    static const uint32_t shapes[] = {64, 128, 192, 256, 320, 448, 576, 640, 1536, 2048};
    static uint8_t panel[2 * PANEL_SIZE];
    static float want[MOST_ROWS * 16], second[MOST_ROWS * 16], got[2 * MOST_ROWS * 16];
    llm__input in;
    uint32_t type, shape, rows, k;
    in.q = q8, in.wide = q16, in.scale = scale, in.sums = sums, in.total = total, in.x = xf, in.stride = MOST_K;
    for (shape = 0; shape < sizeof shapes / sizeof *shapes; shape++) {
        k = shapes[shape];
        in.distant = shape % 2;
        fill_rows(k);
        for (type = 0; type < LLM_TYPE_COUNT; type++) {
            fill_panel(panel, type, k);
            scalar.panel[type](want, panel, k, &in, 0, MOST_ROWS);
            fill_panel(panel + PANEL_SIZE, type, k);
            if (isa->two_panels[type]) scalar.panel[type](second, panel + PANEL_SIZE, k, &in, 0, MOST_ROWS);
            for (rows = 1; rows <= MOST_ROWS; rows = next_rows(rows)) {
                uint32_t row = MOST_ROWS - rows; /* they end where the memory does */
                memset(got, 0x55, sizeof got);
                isa->panel[type](got, panel, k, &in, row, rows);
                CHECK(!memcmp(want + 16 * row, got, sizeof(float) * 16 * rows), "%s %s k %u rows %u", isa->name,
                      llm__type_names[type], k, rows);
                if (!isa->two_panels[type] || rows < LLM__TILE_ROWS) continue;
                memset(got, 0x55, sizeof got);
                isa->two_panels[type](got, panel, PANEL_SIZE, k, &in, row, rows);
                CHECK(!memcmp(want + 16 * row, got, sizeof(float) * 16 * rows) &&
                          !memcmp(second + 16 * row, got + 16 * rows, sizeof(float) * 16 * rows),
                      "%s two panels, %s k %u rows %u", isa->name, llm__type_names[type], k, rows);
            }
        }
    }
}

/* The three in one against one by one. */
static void test_page_weights(const llm__kernels *isa, const float *s, const float *k_scale, const float *v_scale,
                        uint32_t round) {
    static llm__weights a, b;
    const uint32_t from = round % 5, end = LLM__QUERIES - round % 3;
    uint32_t i, t;
    if (!isa->page_weights) return;
    for (i = from; i < end; i++) {
        for (t = 0; t < 64; t++) a.score[i][t] = s[(i + t) % 64];
        if (round % 13 == 12 && i % 5 == 1) memcpy(&a.score[i][(i + round) % 64], "\0\0\x80\x7f", 4);
        a.first[i] = (round + i) % 64, a.last[i] = 63 - (63 - a.first[i]) / (i + 2), a.factor[i] = 0.9f;
    }
    b = a;
    isa->page_weights(&a, from, end, k_scale, v_scale);
    for (i = from; i < end; i++) {
        b.finite[i] = llm__mask_scalar(b.score[i], k_scale, b.factor[i], b.first[i], b.last[i], &b.most[i]);
        if (b.finite[i]) b.weight[i] = llm__softmax_scalar(b.score[i], b.most[i]);
        else llm__no_score(&b, i);
        b.v_factor[i] = llm__weigh_scalar(b.p[i], b.score[i], v_scale);
        CHECK(a.finite[i] == b.finite[i] && a.most[i] == b.most[i] && !memcmp(&a.weight[i], &b.weight[i], 4) &&
                  !memcmp(&a.v_factor[i], &b.v_factor[i], 4) && !memcmp(a.p[i], b.p[i], sizeof a.p[i]),
              "page_weights, query %u", i);
    }
}

static void test_put(const llm__kernels *isa, const float *x, uint32_t rows) {
    static float y[64 * 1024], z[64 * 1024];
    uint32_t i;
    for (i = 0; i < 64 * 1024; i++) y[i] = z[i] = (float)i;
    isa->put(y + 7, 1003, x, rows), llm__put_scalar(z + 7, 1003, x, rows);
    isa->put_add(y + 100, 1003, x, rows, 0.3f), llm__put_add_scalar(z + 100, 1003, x, rows, 0.3f);
    CHECK(!memcmp(y, z, sizeof y), "put, %u rows", rows);
}

static void test_rows(const llm__kernels *isa) {
    static float x[1024], y[1024], z[1024], gain[1024], turn[1024];
    static int16_t w1[1024], w2[1024], s1[64], s2[64];
    static int8_t b1[1024], b2[1024];
    float c1[16], c2[16];
    uint32_t n, i, block, act, round;
    static const uint32_t odd[3] = {0x7f800000u, 0xff800000u, 0x7fc00000u}; /* inf, -inf, NaN */
    bool f1, f2;
    for (round = 0; round < 50; round++)
        for (n = 64; n <= 1024; n += 192) {
            float most = round % 5 == 4 ? 1e30f : round % 7 == 6 ? 1e-36f : 8.0f;
            for (i = 0; i < n; i++) {
                x[i] = next_float() * most, gain[i] = next_float(), turn[i] = next_float();
                if (round % 11 == 3 && i % 8 == 1) x[i] = 0;
            }
            test_put(isa, x, round + 1);
            isa->norm(y, x, gain, n, 1.0f / 600.0f, 1e-6f);
            llm__norm_scalar(z, x, gain, n, 1.0f / 600.0f, 1e-6f);
            CHECK(most > 1e20f || !memcmp(y, z, n * 4), "norm %u", n);
            for (block = 16; block <= 64; block *= 2) {
                memcpy(y, x, n * 4), memcpy(z, x, n * 4);
                isa->rotate(y, n, block), llm__rotate_scalar(z, n, block);
                CHECK(!memcmp(y, z, n * 4), "rotate %u by %u", n, block);
            }
            llm__quantize_scalar(x, n, 64, b2, w2, c2, s2);
            memset(w1, 0x55, sizeof w1);
            if (!strcmp(isa->name, "avx512") || !strcmp(isa->name, "amx"))
                memcpy(w1, w2, n * 2); /* no panel of theirs reads it, and they do not write it */
            isa->quantize(x, n, 64, b1, w1, c1, s1);
            CHECK(!memcmp(b1, b2, n) && !memcmp(w1, w2, n * 2) && !memcmp(c1, c2, n / 64 * 4) &&
                      !memcmp(s1, s2, n / 16 * 2), "quantize %u", n);
            c1[0] = isa->quantize_head(x, n, LLM__INT16_MOST, w1);
            c2[0] = llm__quantize_head_scalar(x, n, LLM__INT16_MOST, w2);
            CHECK(!memcmp(c1, c2, 4) && !memcmp(w1, w2, n * 2), "quantize_head %u", n);
            memcpy(y, x, n * 4), memcpy(z, x, n * 4);
            isa->rope(y, turn, n / 2 - round % 3), llm__rope_scalar(z, turn, n / 2 - round % 3);
            CHECK(!memcmp(y, z, n * 4), "rope %u", n);
            isa->add(y, gain, 0.7f, n), llm__add_scalar(z, gain, 0.7f, n);
            CHECK(!memcmp(y, z, n * 4), "add %u", n);
            isa->blend(y, 0.3f, gain, -0.7f, n), llm__blend_scalar(z, 0.3f, gain, -0.7f, n);
            CHECK(!memcmp(y, z, n * 4), "blend %u", n);
            for (act = LLM__ACT_SILU; act <= LLM__ACT_RELU2; act++) {
                if (most > 1e20f) continue;
                isa->gate(y, x, gain, n, act), llm__gate_scalar(z, x, gain, n, act);
                CHECK(!memcmp(y, z, n * 4), "gate %u activation %u", n, act);
            }
            memcpy(y, x, n * 4), memcpy(z, x, n * 4);
            memcpy(&y[round], &odd[round % 3], 4), memcpy(&z[round], &odd[round % 3], 4);
            isa->cap(y, n, 0.7f, round % 2 ? 30.0f : 0), llm__cap_scalar(z, n, 0.7f, round % 2 ? 30.0f : 0);
            llm__put_logits(y, y, n), llm__put_logits(z, z, n); /* one kind of NaN */
            CHECK(!memcmp(y, z, n * 4), "cap %u", n);
            memcpy(y, x, 256), memcpy(z, x, 256);
            if (round % 13 == 12) /* not finite, inside of the page's positions or outside */
                memcpy(&y[n / 20], &odd[round / 13 % 3], 4), memcpy(&z[n / 20], &odd[round / 13 % 3], 4);
            f1 = isa->mask(y, round % 2 ? gain : NULL, 0.9f, round % 64, 63 - round / 2, &c1[0]);
            f2 = llm__mask_scalar(z, round % 2 ? gain : NULL, 0.9f, round % 64, 63 - round / 2, &c2[0]);
            CHECK(f1 == f2 && (!f1 || (!memcmp(y, z, 256) && c1[0] == c2[0])), "mask"); /* the sign of a 0 is free */
            CHECK(f1 == !(round % 13 == 12 && n / 20 >= round % 64 && n / 20 <= 63 - round / 2), "mask, finite");
            gain[7] = 0;
            c1[0] = isa->weigh(w1, gain, x), c2[0] = llm__weigh_scalar(w2, gain, x);
            CHECK(!memcmp(c1, c2, 4) && !memcmp(w1, w2, 128), "weigh");
            memcpy(y, x, 256), memcpy(z, x, 256);
            for (i = round; i < 64; i += 5) y[i] = z[i] = LLM__MASKED;
            c1[0] = isa->softmax(y, most), c2[0] = llm__softmax_scalar(z, most);
            CHECK(!memcmp(y, z, 256) && !memcmp(c1, c2, 4), "softmax");
            test_page_weights(isa, x, gain, turn, round);
        }
}

#define MOST_HEAD 256u

static void test_cache(const llm__kernels *isa) {
    static int8_t k[64 * MOST_HEAD], k2[64 * MOST_HEAD];
    static uint16_t h[64 * MOST_HEAD];
    static int16_t q[LLM__QUERIES * MOST_HEAD];
    static float x[LLM__QUERIES * MOST_HEAD], d1[LLM__QUERIES * MOST_HEAD], d2[LLM__QUERIES * MOST_HEAD];
    float keep[LLM__QUERIES], take[LLM__QUERIES];
    uint32_t n, i, count;
    for (n = 16; n <= MOST_HEAD; n += 48)
        for (count = 1; count <= LLM__QUERIES; count++) {
            for (i = 0; i < 64 * n; i++) {
                k[i] = (int8_t)(next_u32() >> 8);
                h[i] = (uint16_t)(llm__float_to_half(next_float()));
            }
            for (i = 0; i < LLM__QUERIES * MOST_HEAD; i++) {
                q[i] = (int16_t)((int)(next_u32() % 32513) - 16256), x[i] = next_float();
                d1[i] = d2[i] = next_float();
            }
            for (i = 0; i < LLM__QUERIES; i++) keep[i] = next_float(), take[i] = next_float();
            isa->scores_q8(d1, q, k, n, count, 0), llm__scores_q8_scalar(d2, q, k, n, count, 0);
            CHECK(!memcmp(d1, d2, sizeof d1), "scores_q8 %u, %u queries", n, count);
            isa->values_q8(d1, keep, take, q, k, n, count, 0);
            llm__values_q8_scalar(d2, keep, take, q, k, n, count, 0);
            CHECK(!memcmp(d1, d2, sizeof d1), "values_q8 %u, %u queries", n, count);
            if (count == 1) {
                const uint8_t *codes = (const uint8_t *)h, *times = codes + 64 * n;
                isa->unpack_keys(k, codes, times, n, 0), llm__unpack_keys_scalar(k2, codes, times, n, 0);
                CHECK(!memcmp(k, k2, 64 * n), "unpack_keys %u", n);
                isa->unpack_values(k, codes, times, n, 0), llm__unpack_values_scalar(k2, codes, times, n, 0);
                CHECK(!memcmp(k, k2, 64 * n), "unpack_values %u", n);
            }
            isa->scores_f16(d1, x, h, n, count), llm__scores_f16_scalar(d2, x, h, n, count);
            CHECK(!memcmp(d1, d2, sizeof d1), "scores_f16 %u, %u queries", n, count);
            isa->values_f16(d1, keep, take, x, h, n, count, n / 48, 63 - n / 16);
            llm__values_f16_scalar(d2, keep, take, x, h, n, count, n / 48, 63 - n / 16);
            CHECK(!memcmp(d1, d2, sizeof d1), "values_f16 %u, %u queries", n, count);
        }
}

static void test_isa(const llm__kernels *isa) {
    test_panels(isa);
    test_rows(isa);
    test_cache(isa);
}

int main(void) {
    llm__kernels isa;
    uint32_t i;
    llm__kernels_scalar(&scalar);
    for (i = 0; llm__kernels_at(i, &isa); i++) {
        if (isa.allowed && !isa.allowed()) {
            SKIP("the system does not allow %s", isa.name);
            continue;
        }
        if (isa.enter) isa.enter();
        test_isa(&isa);
        if (isa.leave) isa.leave();
    }
    return check_report("kernels");
}
