//@ top: Decide codes as ref/ does
/* quantize.cuh - range, scale and code of a group. Codes must be those of
 * ref/, bit for bit: a cache that one program fills and another reads is no
 * place for "nearly". So each step that decides a code is one operation of
 * float32, rounded to nearest (__fsub_rn, __fdiv_rn), whatever the compiler's
 * flags say, and scale and minimum are rounded to binary16 before codes are
 * decided with them. */
#ifndef KV_QUANTIZE_CUH
#define KV_QUANTIZE_CUH

#include "launch.h"

//@ range: Follow the extremes of a group
/* Minus and plus infinity until a number comes. Of equal ones the first stays,
 * which shows in the sign of a minimum of zero. */
struct Range {
    float lo, hi;
};

KV_DEVICE Range no_range() { return {INFINITY, -INFINITY}; }

KV_DEVICE void extend(Range &r, float x) {
    r.lo = x < r.lo ? x : r.lo;
    r.hi = x > r.hi ? x : r.hi;
}

//@ scale: Choose scale and minimum and round both to binary16
struct Scale {
    unsigned short scale, min;
    float s, m; /* what the two say */
};

KV_DEVICE Scale scale_of(Range r, int bits, int symmetric) {
    if (r.lo > r.hi)
        r.lo = r.hi = 0; /* nothing counted */
    float step;
    if (symmetric)
        step = __fdiv_rn(fmaxf(fabsf(r.lo), fabsf(r.hi)),
                         float((1 << (bits - 1)) - 1));
    else
        step = __fdiv_rn(__fsub_rn(r.hi, r.lo), float((1 << bits) - 1));
    __half s = __float2half_rn(step);
    __half m = __float2half_rn(symmetric ? 0.0f : r.lo);
    return {__half_as_ushort(s), __half_as_ushort(m), __half2float(s),
            __half2float(m)};
}

//@ code: Round to the nearest level, ties to even, and clamp
KV_DEVICE int code_of(float x, float s, float m, int bits, int symmetric) {
    int zero = symmetric ? 1 << (bits - 1) : 0;
    if (s == 0)
        return zero;
    float q = rintf(__fdiv_rn(__fsub_rn(x, m), s));
    q = fminf(fmaxf(q, float(-zero)), float((1 << bits) - 1 - zero));
    return int(q) + zero;
}

/* What binary16 cannot hold, NaN included, is an element that is no good. */
KV_DEVICE float checked(float x, kv_fault index, kv_fault *fault) {
    if (!(fabsf(x) < 65520))
        atomicMin(fault, index);
    return x;
}

#endif
