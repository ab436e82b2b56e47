/* Another processor and another Linux, for the choice of an instruction set: what CPUID, XGETBV and
   arch_prctl say is what a test writes into `emulated`. Comes before llm.h. */
#ifndef LLM_TESTS_EMULATE_CPU_H
#define LLM_TESTS_EMULATE_CPU_H
#ifndef _DEFAULT_SOURCE
#define _DEFAULT_SOURCE 1
#endif
#include <cpuid.h>
#include <errno.h>
#include <immintrin.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct emulated {
    bool f16c, avx2, avx_vnni, avx512, vnni, amx_tile, amx_int8; /* bits of CPUID */
    bool osxsave, saves_ymm, saves_zmm, saves_tiles;             /* what the system switches */
    bool knows_tiles, allows_tiles;                              /* its answers */
    unsigned asked;                                              /* how often it was asked */
} emulated;

static int emulated_cpuid(unsigned leaf, unsigned part, unsigned *a, unsigned *b, unsigned *c, unsigned *d) {
    *a = *b = *c = *d = 0;
    if (leaf == 1) *c = (unsigned)emulated.osxsave << 27 | (unsigned)emulated.f16c << 29;
    if (leaf == 7 && part == 0) {
        *a = emulated.avx_vnni;
        *b = (unsigned)emulated.avx2 << 5 | (emulated.avx512 ? 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31 : 0);
        *c = (unsigned)emulated.vnni << 11;
        *d = (unsigned)emulated.amx_tile << 24 | (unsigned)emulated.amx_int8 << 25;
    }
    if (leaf == 7 && part == 1) *a = (unsigned)emulated.avx_vnni << 4;
    return leaf <= 7;
}
static unsigned long long emulated_xgetbv(unsigned n) {
    return n ? 0 : (emulated.saves_ymm ? 7u : 3u) | (emulated.saves_zmm ? 0xe0u : 0) | (emulated.saves_tiles ? 3u << 17 : 0);
}
static long emulated_syscall(long number, ...) {
    const uint64_t tiles = (uint64_t)3 << 17;
    long code, argument, third;
    va_list list;
    va_start(list, number);
    code = va_arg(list, long), argument = va_arg(list, long), third = va_arg(list, long);
    va_end(list);
    if (number != SYS_arch_prctl) return syscall(number, code, argument, third);
    if (code == 0x1021 && emulated.knows_tiles) {
        memcpy((void *)argument, &tiles, sizeof tiles);
        return 0;
    }
    if (code == 0x1023 && argument == 18) {
        emulated.asked++;
        if (emulated.allows_tiles) return 0;
    }
    errno = EINVAL;
    return -1;
}
#undef _xgetbv
#define __get_cpuid_count emulated_cpuid
#define _xgetbv(n)        emulated_xgetbv(n)
#define llm__syscall      emulated_syscall

/* Everything there is. */
static inline void emulate_all(void) {
    const struct emulated all = {true, true, true, true, true, true, true, true, true, true, true, true, true, 0};
    emulated = all;
}
#endif
