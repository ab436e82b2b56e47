/* The quantiser: what it stores is what llm__value reads back, within bounds, for any input. */
#ifdef LLM_DEV_HEADER
#include LLM_DEV_HEADER
#else
#define LLM_IMPLEMENTATION
#include "../../llm.h"
#endif
#include "../../tools/convert/quantize.h"
#include "../check.h"
#include <float.h>

static uint64_t state = 1;
static double uniform(void) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return ((double)(state >> 11) + 0.5) / 9007199254740992.0;
}
static double gauss(void) {
    return sqrt(-2.0 * log(uniform())) * cos(6.283185307179586 * uniform());
}

static quantizer *tables;

/* Reads a weight as the library does. */
static double read_weight(uint32_t type, const uint8_t *panel, uint32_t padded, unsigned r,
                          uint32_t k) {
    uint32_t size = llm__super_block(padded);
    if (type == LLM_F32) {
        float x;
        memcpy(&x, panel + ((size_t)k * 16 + r) * 4, 4);
        return (double)x;
    }
    if (type == LLM_BF16)
        return (double)quantize_from_bf16(llm__u16(panel + ((size_t)k * 16 + r) * 2));
    return (double)quantize_from_bf16(llm__u16(panel + (size_t)(k / size) * 32 + 2 * r)) *
           (double)llm__value(type, panel, padded, r, k);
}

/* Quantises, reads back, and returns the relative squared error; sums must agree with it. */
static double round_trip(uint32_t type, const float *rows, uint32_t padded, const float *weight) {
    size_t size = llm__panel_size(type, padded);
    uint8_t *panel = (uint8_t *)malloc(size);
    quantize_sums sums = {0.0, 0.0};
    double norm = 0.0, error = 0.0;
    unsigned r;
    uint32_t k;
    quantize_panel(tables, type, rows, padded, weight, panel, &sums);
    for (r = 0; r < 16; r++)
        for (k = 0; k < padded; k++) {
            double x = (double)rows[(size_t)r * padded + k];
            double d = x - read_weight(type, panel, padded, r, k);
            norm += x * x;
            error += d * d;
        }
    CHECK(fabs(norm - sums.norm) <= 1e-9 * norm, "%s K %u: norm %g, reported %g",
          llm__type_names[type], padded, norm, sums.norm);
    CHECK(fabs(error - sums.error) <= 1e-9 * norm, "%s K %u: error %g, reported %g",
          llm__type_names[type], padded, error, sums.error);
    free(panel);
    return norm > 0.0 ? error / norm : error;
}

static void test_tables(void) {
    unsigned type, p, code, bits;
    for (type = LLM_Q6; type < LLM_TYPE_COUNT; type++) {
        const llm__format *f = &llm__formats[type];
        bits = f->bits;
        for (code = 0; code < 1u << bits; code++)
            CHECK(f->u[code] <= (bits == 6 ? 63 : 32), "%s: U[%u] = %u", llm__type_names[type],
                  code,
                  f->u[code]);
        for (p = 0; p < 16; p++)
            for (code = 0; code < 1u << bits; code++) {
                int value = f->m[p] * f->u[code] - f->b[p];
                CHECK(value >= -127 && value <= 127, "%s: p %u, code %u gives %d",
                      llm__type_names[type], p, code, value);
            }
    }
}

static void test_records(void) {
    unsigned type, r, k, put[16][64];
    uint8_t record[1024];
    for (type = LLM_Q8; type < LLM_TYPE_COUNT; type++) {
        unsigned bits = llm__formats[type].bits, wrong = 0;
        memset(record, 0, sizeof record);
        for (r = 0; r < 16; r++)
            for (k = 0; k < 64; k++) {
                put[r][k] = (unsigned)(uniform() * (1 << bits));
                quantize_put(bits, record, r, k, put[r][k]);
            }
        for (r = 0; r < 16; r++)
            for (k = 0; k < 64; k++) wrong += llm__code(type, record, r, k) != put[r][k];
        CHECK(wrong == 0, "%s: %u codes of 1024 differ", llm__type_names[type], wrong);
    }
}

static void test_gaussian(void) {
    static const double bound[LLM_TYPE_COUNT] = {0.0, 4e-6, 6e-5, 4.4e-4, 1.5e-3, 5.4e-3, 2.1e-2, 8e-2};
    static const uint32_t widths[] = {64, 128, 192, 256, 320, 576, 640, 1024};
    unsigned type, w;
    for (w = 0; w < sizeof widths / sizeof *widths; w++) {
        uint32_t padded = widths[w];
        float *rows = (float *)malloc(16 * padded * sizeof *rows);
        size_t i;
        for (i = 0; i < 16 * padded; i++) rows[i] = (float)(gauss() * 0.02);
        for (type = 0; type < LLM_TYPE_COUNT; type++) {
            double error = round_trip(type, rows, padded, NULL);
            CHECK(error <= bound[type], "%s K %u: relative squared error %g, bound %g",
                  llm__type_names[type], padded, error, bound[type]);
        }
        free(rows);
    }
}

/* An input, by number; 0: there is no such one. */
static int extreme(int which, float *rows, uint32_t padded) {
    size_t i, count = (size_t)16 * padded;
    for (i = 0; i < count; i++) {
        float x = (float)gauss();
        switch (which) {
        case 0: x = 0.0f; break;
        case 1: x = i % 97 ? 0.0f : 1.0f; break;
        case 2: x = 1.0f; break;
        case 3: x = i % 2 ? -3.0f : 3.0f; break;
        case 4: x *= FLT_MIN / 1024.0f; break;        /* denormal */
        case 5: x = i % 3 ? FLT_MIN : -FLT_MIN; break;
        case 6: x = i % 2 ? FLT_MAX : -FLT_MAX; break;
        case 7: x = i % 64 ? x * 1e-6f : 1e6f; break; /* an outlier */
        case 8: x = i < padded ? x : 0.0f; break;     /* one row */
        case 9: x = -0.0f; break;
        case 10: x = i % 16 ? 0.0f : x; break;
        case 11: x *= 1e-37f; break;
        case 12: x = x > 0.0f ? x : 0.0f; break;
        case 13: x = i % 5 ? 1e-45f : 3e38f; break;
        default: return 0;
        }
        rows[i] = x;
    }
    return 1;
}

static void test_extremes(void) {
    static const uint32_t widths[] = {64, 192, 512};
    unsigned type, w;
    int which;
    for (w = 0; w < 3; w++) {
        uint32_t padded = widths[w];
        float *rows = (float *)malloc(16 * padded * sizeof *rows);
        for (which = 0; extreme(which, rows, padded); which++)
            for (type = 0; type < LLM_TYPE_COUNT; type++) {
                double error = round_trip(type, rows, padded, NULL);
                /* denormal scales have few bits: there only the size is right */
                double bound = which == 4 ? 1.0 : which == 5 ? 0.3 : type == LLM_Q2 ? 0.15 : 0.09;
                CHECK(error <= bound, "%s K %u input %d: relative squared error %g",
                      llm__type_names[type], padded, which, error);
            }
        free(rows);
    }
}

/* Errors of columns that matter become smaller. */
static void test_weights(void) {
    enum { K = 256 };
    static float rows[16 * K], weight[K];
    unsigned type, r, pass;
    uint32_t k;
    for (k = 0; k < 16 * K; k++) rows[k] = (float)gauss();
    for (k = 0; k < K; k++) weight[k] = k % 4 == 0 ? 25.0f : 1.0f;
    for (type = LLM_Q6; type < LLM_TYPE_COUNT; type++) {
        size_t size = llm__panel_size(type, K);
        uint8_t *panel = (uint8_t *)malloc(size);
        double errors[2] = {0.0, 0.0};
        for (pass = 0; pass < 2; pass++) {
            quantize_sums sums = {0.0, 0.0};
            quantize_panel(tables, type, rows, K, pass ? weight : NULL, panel, &sums);
            for (r = 0; r < 16; r++)
                for (k = 0; k < K; k++) {
                    double d = (double)rows[r * K + k] - read_weight(type, panel, K, r, k);
                    errors[pass] += (double)weight[k] * d * d;
                }
        }
        CHECK(errors[1] < errors[0], "%s: weighted error %g, without weights %g",
              llm__type_names[type], errors[1], errors[0]);
        free(panel);
    }
}

/* Weights that stand on a grid stay what they are: ternary ones in 2 and 3 bits (their size in bf16), blocks
   of 32 small integers (MXFP4) of which the exponents differ by up to two in 6 bits, by three in 8. */
static void test_exact(void) {
    static const uint32_t types[] = {LLM_Q6, LLM_Q6, LLM_Q8};
    static const int mantissa[] = {0, 1, 2, 3, 4, 6, 8, 12};
    enum { COLS = 512 };
    static float rows[16 * COLS];
    unsigned i, round;
    for (round = 0; round < 20; round++) {
        const float size = quantize_round((float)exp(8 * uniform() - 9));
        for (i = 0; i < 16 * COLS; i++) rows[i] = size * (float)((int)(3 * uniform()) - 1);
        for (i = LLM_Q3; i <= LLM_Q2; i++)
            CHECK(round_trip(i, rows, COLS, NULL) == 0.0, "ternary weights of %g change in %s",
                  (double)size, llm__type_names[i]);
    }
    for (round = 0; round < 3 * 20; round++) {
        const int least = (int)(30 * uniform()) - 20, span = (int)(round % 3) + 2;
        int exponent = 0;
        for (i = 0; i < 16 * COLS; i++) {
            if (i % 32 == 0) exponent = least + (int)(span * uniform());
            rows[i] = (float)ldexp(mantissa[(unsigned)(8 * uniform())], exponent) * (uniform() < 0.5 ? -1.0f : 1.0f);
        }
        CHECK(round_trip(types[round % 3], rows, COLS, NULL) == 0.0, "MXFP4 with %d exponents changes in %s", span,
              llm__type_names[types[round % 3]]);
    }
}

static void test_rotation(void) {
    static const uint32_t blocks[] = {16, 32, 64};
    float x[192], y[192];
    unsigned b, i, j;
    for (b = 0; b < 3; b++) {
        double worst = 0.0, back = 0.0;
        for (i = 0; i < 192; i++) x[i] = y[i] = (float)gauss();
        quantize_rotate(y, 192, 1, blocks[b]);
        for (i = 0; i < 192; i++) {
            double sum = 0.0;
            for (j = 0; j < blocks[b]; j++) {
                unsigned bits = j & (i % blocks[b]), ones = 0;
                for (; bits; bits &= bits - 1) ones++;
                sum += (ones % 2 ? -1.0 : 1.0) * (double)x[i / blocks[b] * blocks[b] + j];
            }
            sum = fabs(sum / sqrt(blocks[b]) - (double)y[i]);
            worst = sum > worst ? sum : worst;
        }
        quantize_rotate(y, 192, 1, blocks[b]);
        for (i = 0; i < 192; i++) back = fmax(back, fabs((double)x[i] - (double)y[i]));
        CHECK(worst < 2e-6, "block %u: off by %g from the matrix", blocks[b], worst);
        CHECK(back < 2e-6, "block %u: twice is off by %g from nothing", blocks[b], back);
    }
}

static void test_bf16(void) {
    static const struct {
        uint32_t from;
        uint16_t to;
    } cases[] = {{0x3f800000u, 0x3f80}, {0x3f808000u, 0x3f80}, {0x3f818000u, 0x3f82},
                 {0x3f808001u, 0x3f81}, {0x7f7fffffu, 0x7f7f}, {0xff7fffffu, 0xff7f},
                 {0x80000000u, 0x8000}, {0x00000001u, 0x0000}, {0x00018000u, 0x0002}};
    size_t i;
    for (i = 0; i < sizeof cases / sizeof *cases; i++)
        CHECK(quantize_bf16(quantize_float(cases[i].from)) == cases[i].to,
              "%08x became %04x, not %04x",
              cases[i].from, quantize_bf16(quantize_float(cases[i].from)), cases[i].to);
}

int main(void) {
    tables = quantize_create();
    if (!tables) return 1;
    test_tables();
    test_records();
    test_gaussian();
    test_extremes();
    test_weights();
    test_exact();
    test_rotation();
    test_bf16();
    free(tables);
    return check_report("test_quantize");
}
