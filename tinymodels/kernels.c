/* Compiles exact.inc and kernels.inc for several instruction sets and chooses one, see kernels.h.
 *
 * AVX-512 is limited to the subsets that every processor with it has had since Skylake; AMX and the
 * like are never used. Contraction of a*b+c into one rounding is allowed in kernels.inc (and only
 * there and in OpenBLAS); the order of every sum is still written down in the source.
 * Floating-point exceptions are not looked at, which lets gcc turn `?:` into vector code. */
#include "kernels.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kv.h"

#define JOIN_(f, v) f##_##v
#define JOIN(f, v) JOIN_(f, v)
#define NAME(f) JOIN(f, VERSION)
#define TEXT_(v) #v
#define TEXT(v) TEXT_(v)

/* Loops over a few registers must be unrolled, or gcc keeps the registers in memory. */
#define ALWAYS __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#pragma GCC optimize("O3", "no-trapping-math", "no-math-errno")
#endif

enum { SUMS = 16 }; /* lanes of sums in double */

#define VERSION plain
#define LANES 4
#include "version.inc"

#if defined(__x86_64__)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif
#define VERSION avx2
#define LANES 8
#include "version.inc"
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(                                                                     \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))),                  \
    apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prefer-vector-width=512")
#endif
#define VERSION avx512
#define LANES 16
#include "version.inc"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

static int runs_here(int i)
{
    __builtin_cpu_init();
    int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    int avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                 __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    return i == 0 || (i == 1 && avx2) || (i == 2 && avx512);
}

static const tm_kernels *const versions[] = {&kernels_plain, &kernels_avx2, &kernels_avx512};

#else

static int runs_here(int i)
{
    return i == 0;
}

static const tm_kernels *const versions[] = {&kernels_plain};

#endif

const tm_kernels *tm_kernels_at(int i)
{
    int n = (int)(sizeof versions / sizeof versions[0]);
    return i >= 0 && i < n && runs_here(i) ? versions[i] : NULL;
}

const tm_kernels *tm_kernels_best(void)
{
    const char *wish = getenv("KVSINK_SIMD");
    const tm_kernels *best = tm_kernels_at(0);
    for (int i = 0; tm_kernels_at(i); i++) {
        best = tm_kernels_at(i);
        if (wish && !strcmp(wish, best->name))
            break;
    }
    return best;
}
