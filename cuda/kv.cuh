//@ top: Let one kernel file serve nvcc and the simulator
/* kv.cuh - everything in which nvcc and cuda/sim/ differ, and the helpers that
 * all kernels share.
 *
 * A kernel file includes this header and is then written as any other CUDA
 * file. nvcc takes the first branch: CUDA's own headers, and the few
 * instructions that have no name in C++ as inline PTX. An ordinary C++
 * compiler takes the second: for each thing of CUDA that we use, a twin that
 * does the same on the host. tests/cuda/twins.cpp compares each twin with its
 * definition. No other file has an #ifdef for this, or inline PTX.
 *
 * half2 and bfloat162 are one 32-bit word in the simulator: take them apart
 * with __low2half and the like, never with .x and .y. Fast approximations
 * (__expf, rsqrtf, ...) are the exact functions here: a result that depends on
 * their last bits depends on the device. */
#ifndef KV_CUH
#define KV_CUH

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>

#ifdef __CUDACC__
//@ nvcc: With nvcc, name the instructions that C++ cannot say
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_pipeline.h>
#include <cuda_runtime.h>

#define KV_DEVICE __device__ __forceinline__

/* Any function of three bits, by its truth table: bit (a<<2 | b<<1 | c) of
 * TABLE, for all 32 bits at once. */
template <int TABLE>
KV_DEVICE uint32_t kv_lop3(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t d;
    asm("lop3.b32 %0, %1, %2, %3, %4;"
        : "=r"(d) : "r"(a), "r"(b), "r"(c), "n"(TABLE));
    return d;
}

/* Byte i of the result is byte (s >> 4*i & 7) of the eight in b:a. */
KV_DEVICE uint32_t kv_prmt(uint32_t a, uint32_t b, uint32_t s) {
    uint32_t d;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(s));
    return d;
}

//@ nvcc-matrices: With nvcc, multiply small matrices by a whole warp
/* c[16][8] += a[16][16] b[16][8], a and b of binary16, c of float. Lane 4r+j
 * holds of a rows r (a[0], a[2]) and r+8 (a[1], a[3]), columns 2j, 2j+1 (a[0],
 * a[1]) and 2j+8, 2j+9; of b rows 2j, 2j+1 (b0) and 2j+8, 2j+9 (b1), column r;
 * of c rows r (c[0], c[1]) and r+8, columns 2j, 2j+1. */
KV_DEVICE void kv_mma(float *c, const uint32_t *a, uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0),
                   "r"(b1));
}

/* Transpose an 8x8 matrix of 16-bit numbers: lane 4r+j gives columns 2j, 2j+1
 * of row r, and gets them of the transposed one. */
KV_DEVICE uint32_t kv_transpose(uint32_t a) {
    uint32_t d;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;"
                 : "=r"(d) : "r"(a));
    return d;
}

/* Two products of binary16. */
KV_DEVICE uint32_t kv_mul2(uint32_t a, uint32_t b) {
    uint32_t d;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
}

/* 2^x, within 2 units of the last place; very small results are 0. */
KV_DEVICE float kv_exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

//@ nvcc-copies: With nvcc, copy 16 bytes past the registers and the L1 cache
/* From AT bytes behind one address to AT bytes behind the other. */
template <int AT = 0>
KV_DEVICE void kv_copy16(void *shared, const void *global) {
    unsigned to = unsigned(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.cg.shared.global [%0 + %2], [%1 + %2], 16;" ::
                 "r"(to), "l"(global), "n"(AT) : "memory");
}

KV_DEVICE void kv_copy_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* All but the latest PENDING groups have arrived; for this thread, so a
 * barrier follows before others look. */
template <int PENDING> KV_DEVICE void kv_copy_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

//@ nvcc-words: With nvcc, see a pair as the word it is
KV_DEVICE uint32_t kv_word(__half2 h) {
    return *reinterpret_cast<uint32_t *>(&h);
}
KV_DEVICE __half2 kv_half2(uint32_t w) {
    return *reinterpret_cast<__half2 *>(&w);
}
KV_DEVICE uint32_t kv_word(__nv_bfloat162 h) {
    return *reinterpret_cast<uint32_t *>(&h);
}
KV_DEVICE __nv_bfloat162 kv_bfloat162(uint32_t w) {
    return *reinterpret_cast<__nv_bfloat162 *>(&w);
}

/* The name under which the simulator reports an array. */
template <class T> void kv_name(const T *, const char *) {}

//@ nvcc-device: With nvcc, say which device this is
inline void kv_describe_device(char *text, size_t size) {
    cudaDeviceProp p;
    int driver = 0, runtime = 0;
    if (cudaGetDeviceProperties(&p, 0) != cudaSuccess) {
        cudaGetLastError();
        snprintf(text, size, "no CUDA device");
        return;
    }
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    snprintf(text, size, "%s, sm_%d%d, %d SMs, driver %d.%d, runtime %d.%d",
             p.name, p.major, p.minor, p.multiProcessorCount, driver / 1000,
             driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
}

#else
//@ simulator: Without nvcc, give the words of CUDA a meaning
#include "sim/sim.h"

#define KV_DEVICE inline __attribute__((always_inline))
#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __grid_constant__

template <class T> void kv_name(const T *p, const char *name) {
    sim::name(p, name, sizeof(T));
}

/* The bits of one type read as another. */
template <class To, class From> KV_DEVICE To kv_bits(From from) {
    return __builtin_bit_cast(To, from);
}

//@ vectors: Make the short vectors, aligned as on the device
#define KV_VECTOR2(name, T, align) \
    struct alignas(align) name { T x, y; }; \
    KV_DEVICE name make_##name(T x, T y) { return name{x, y}; }
#define KV_VECTOR3(name, T) \
    struct name { T x, y, z; }; \
    KV_DEVICE name make_##name(T x, T y, T z) { return name{x, y, z}; }
#define KV_VECTOR4(name, T, align) \
    struct alignas(align) name { T x, y, z, w; }; \
    KV_DEVICE name make_##name(T x, T y, T z, T w) { \
        return name{x, y, z, w}; \
    }
#define KV_VECTORS(name, T, size) \
    KV_VECTOR2(name##2, T, 2 * size) \
    KV_VECTOR4(name##4, T, (4 * size > 16 ? 16 : 4 * size))

//@ vector-types: Make them of each kind of number
KV_VECTORS(float, float, 4)
KV_VECTORS(int, int, 4)
KV_VECTORS(uint, unsigned, 4)
KV_VECTORS(double, double, 8)
KV_VECTORS(short, short, 2)
KV_VECTORS(ushort, unsigned short, 2)
KV_VECTORS(char, signed char, 1)
KV_VECTORS(uchar, unsigned char, 1)
KV_VECTOR2(longlong2, long long, 16)
KV_VECTOR2(ulonglong2, unsigned long long, 16)
KV_VECTOR3(float3, float)
KV_VECTOR3(int3, int)
KV_DEVICE uint3 make_uint3(unsigned x, unsigned y, unsigned z) {
    return uint3{x, y, z};
}

//@ lanes: Exchange values within a warp
template <class T>
KV_DEVICE T kv_warp_op(sim::WarpOp op, unsigned mask, T v, int a, int width) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 2, "");
    if constexpr (sizeof(T) == 8)
        return kv_bits<T>(sim::warp(op, mask, kv_bits<uint64_t>(v), a, width));
    else if constexpr (sizeof(T) == 4)
        return kv_bits<T>(uint32_t(
            sim::warp(op, mask, kv_bits<uint32_t>(v), a, width)));
    else
        return kv_bits<T>(uint16_t(
            sim::warp(op, mask, kv_bits<uint16_t>(v), a, width)));
}

#define KV_SHUFFLE(name, op, U) \
    template <class T> \
    KV_DEVICE T name(unsigned mask, T v, U a, int width = warpSize) { \
        return kv_warp_op(sim::op, mask, v, int(a), width); \
    }
KV_SHUFFLE(__shfl_sync, SHUFFLE_INDEX, int)
KV_SHUFFLE(__shfl_up_sync, SHUFFLE_UP, unsigned)
KV_SHUFFLE(__shfl_down_sync, SHUFFLE_DOWN, unsigned)
KV_SHUFFLE(__shfl_xor_sync, SHUFFLE_XOR, int)

//@ votes: Vote within a warp, and meet
KV_DEVICE unsigned __ballot_sync(unsigned mask, int condition) {
    return unsigned(sim::warp(sim::BALLOT, mask, condition != 0, 0, 32));
}
KV_DEVICE int __any_sync(unsigned mask, int condition) {
    return sim::warp(sim::BALLOT, mask, condition != 0, 0, 32) != 0;
}
KV_DEVICE int __all_sync(unsigned mask, int condition) {
    return sim::warp(sim::BALLOT, mask, condition == 0, 0, 32) == 0;
}
template <class T> KV_DEVICE unsigned __match_any_sync(unsigned mask, T v) {
    uint64_t bits = 0;
    memcpy(&bits, &v, sizeof v);
    return unsigned(sim::warp(sim::MATCH, mask, bits, 0, 32));
}
KV_DEVICE void __syncwarp(unsigned mask = 0xffffffffu) {
    sim::warp(sim::SYNC, mask, 0, 0, 32);
}
KV_DEVICE void __threadfence() { sim::fence(); }
KV_DEVICE void __threadfence_block() { sim::fence_block(); }
KV_DEVICE void __threadfence_system() { sim::fence(); }

//@ all-equal: Tell whether all agree, and who is there
template <class T>
KV_DEVICE unsigned __match_all_sync(unsigned mask, T v, int *all) {
    *all = __match_any_sync(mask, v) == mask;
    return *all ? mask : 0;
}
/* Lanes at the same place of the program count as together. */
KV_DEVICE unsigned __activemask() {
    return unsigned(sim::warp(sim::ACTIVE, 0xffffffffu, 0, 0, 32));
}

//@ atomics: Make the atomics for each type of number
#define KV_ATOMIC(name, op, T, number, U) \
    KV_DEVICE T name(T *p, T v) { \
        return kv_bits<T>( \
            U(sim::atomic(sim::op, sim::number, p, kv_bits<U>(v), 0))); \
    }
#define KV_ATOMICS(name, op) \
    KV_ATOMIC(name, op, int, INT32, uint32_t) \
    KV_ATOMIC(name, op, unsigned, UINT32, uint32_t) \
    KV_ATOMIC(name, op, unsigned long long, UINT64, uint64_t)
KV_ATOMICS(atomicAdd, ADD)
KV_ATOMIC(atomicAdd, ADD, float, FLOAT32, uint32_t)
KV_ATOMIC(atomicAdd, ADD, double, FLOAT64, uint64_t)
KV_ATOMICS(atomicSub, SUBTRACT)
KV_ATOMICS(atomicMin, MINIMUM)
KV_ATOMICS(atomicMax, MAXIMUM)
KV_ATOMICS(atomicAnd, AND)
KV_ATOMICS(atomicOr, OR)
KV_ATOMICS(atomicXor, XOR)
KV_ATOMICS(atomicExch, EXCHANGE)
KV_ATOMIC(atomicExch, EXCHANGE, float, FLOAT32, uint32_t)
KV_ATOMIC(atomicInc, INCREMENT, unsigned, UINT32, uint32_t)
KV_ATOMIC(atomicDec, DECREMENT, unsigned, UINT32, uint32_t)

//@ compare: Make the atomic that compares first
#define KV_COMPARE(T, number, U) \
    KV_DEVICE T atomicCAS(T *p, T compare, T v) { \
        return kv_bits<T>(U(sim::atomic(sim::COMPARE, sim::number, p, \
                                        kv_bits<U>(v), kv_bits<U>(compare)))); \
    }
KV_COMPARE(int, INT32, uint32_t)
KV_COMPARE(unsigned, UINT32, uint32_t)
KV_COMPARE(unsigned long long, UINT64, uint64_t)

//@ copies: Copy asynchronously
template <int AT = 0>
KV_DEVICE void kv_copy16(void *shared, const void *global) {
    sim::copy_async(static_cast<char *>(shared) + AT,
                    static_cast<const char *>(global) + AT, 16, 0);
}
KV_DEVICE void kv_copy_commit() { sim::copy_commit(); }
template <int PENDING> KV_DEVICE void kv_copy_wait() {
    sim::copy_wait(PENDING);
}
KV_DEVICE void __pipeline_memcpy_async(void *to, const void *from, size_t n,
                                       size_t zeros = 0) {
    sim::copy_async(to, from, int(n), int(zeros));
}
KV_DEVICE void __pipeline_commit() { sim::copy_commit(); }
KV_DEVICE void __pipeline_wait_prior(int n) { sim::copy_wait(n); }

//@ bits: Move bits about
template <int TABLE>
KV_DEVICE uint32_t kv_lop3(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t d = 0;
    for (int i = 0; i < 8; i++)
        if (TABLE >> i & 1)
            d |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
    return d;
}

/* Bit 3 of a selector spreads the sign of its byte instead. */
KV_DEVICE uint32_t kv_prmt(uint32_t a, uint32_t b, uint32_t s) {
    uint64_t both = uint64_t(b) << 32 | a;
    uint32_t d = 0;
    for (int i = 0; i < 4; i++) {
        uint32_t n = s >> (4 * i) & 15;
        uint32_t byte = uint32_t(both >> (8 * (n & 7))) & 255;
        d |= (n & 8 ? byte & 128 ? 255u : 0u : byte) << (8 * i);
    }
    return d;
}
KV_DEVICE unsigned __byte_perm(unsigned a, unsigned b, unsigned s) {
    return kv_prmt(a, b, s & 0x7777);
}

//@ integers: Count, shift and multiply integers
KV_DEVICE int __popc(unsigned v) { return __builtin_popcount(v); }
KV_DEVICE int __popcll(unsigned long long v) {
    return __builtin_popcountll(v);
}
KV_DEVICE int __ffs(int v) { return __builtin_ffs(v); }
KV_DEVICE int __ffsll(long long v) { return __builtin_ffsll(v); }
KV_DEVICE int __clz(int v) { return v ? __builtin_clz(unsigned(v)) : 32; }
KV_DEVICE int __clzll(long long v) {
    return v ? __builtin_clzll((unsigned long long)v) : 64;
}
KV_DEVICE unsigned __brev(unsigned v) {
    unsigned r = 0;
    for (int i = 0; i < 32; i++)
        r |= (v >> i & 1) << (31 - i);
    return r;
}
KV_DEVICE unsigned __funnelshift_r(unsigned lo, unsigned hi, unsigned n) {
    return unsigned((uint64_t(hi) << 32 | lo) >> (n & 31));
}
KV_DEVICE unsigned __funnelshift_l(unsigned lo, unsigned hi, unsigned n) {
    return unsigned((uint64_t(hi) << 32 | lo) << (n & 31) >> 32);
}
KV_DEVICE unsigned __umulhi(unsigned a, unsigned b) {
    return unsigned(uint64_t(a) * b >> 32);
}

//@ dot-products: Multiply four pairs of bytes at once
/* c plus the product of four pairs of bytes. */
KV_DEVICE int __dp4a(int a, int b, int c) {
    uint32_t sum = uint32_t(c);
    for (int i = 0; i < 32; i += 8)
        sum += uint32_t(int(int8_t(a >> i)) * int(int8_t(b >> i)));
    return int(sum);
}
KV_DEVICE unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
    for (int i = 0; i < 32; i += 8)
        c += (a >> i & 255) * (b >> i & 255);
    return c;
}

//@ floats: Round single operations, and convert
/* The file is compiled with -ffp-contract=off, so these are what they say. */
KV_DEVICE float __fadd_rn(float a, float b) { return a + b; }
KV_DEVICE float __fsub_rn(float a, float b) { return a - b; }
KV_DEVICE float __fmul_rn(float a, float b) { return a * b; }
KV_DEVICE float __fdiv_rn(float a, float b) { return a / b; }
KV_DEVICE float __frcp_rn(float a) { return 1 / a; }
KV_DEVICE float __fsqrt_rn(float a) { return sqrtf(a); }
KV_DEVICE float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
KV_DEVICE double __dadd_rn(double a, double b) { return a + b; }
KV_DEVICE double __dmul_rn(double a, double b) { return a * b; }

//@ rounding: Round to integers
/* Out of range: the nearest integer; NaN: 0. */
KV_DEVICE int kv_to_int(float x) {
    return x != x ? 0 : x >= 2147483648.0f ? INT32_MAX
           : x <= -2147483648.0f           ? INT32_MIN
                                           : int(x);
}
KV_DEVICE unsigned kv_to_uint(float x) {
    return !(x > 0) ? 0 : x >= 4294967296.0f ? UINT32_MAX : unsigned(x);
}
KV_DEVICE int __float2int_rn(float x) { return kv_to_int(rintf(x)); }
KV_DEVICE int __float2int_rz(float x) { return kv_to_int(truncf(x)); }
KV_DEVICE int __float2int_rd(float x) { return kv_to_int(floorf(x)); }
KV_DEVICE int __float2int_ru(float x) { return kv_to_int(ceilf(x)); }
KV_DEVICE unsigned __float2uint_rn(float x) { return kv_to_uint(rintf(x)); }
KV_DEVICE unsigned __float2uint_rz(float x) { return kv_to_uint(truncf(x)); }
KV_DEVICE float __int2float_rn(int i) { return float(i); }
KV_DEVICE float __uint2float_rn(unsigned i) { return float(i); }
KV_DEVICE int __float_as_int(float x) { return kv_bits<int>(x); }
KV_DEVICE unsigned __float_as_uint(float x) { return kv_bits<unsigned>(x); }
KV_DEVICE float __int_as_float(int i) { return kv_bits<float>(i); }
KV_DEVICE float __uint_as_float(unsigned i) { return kv_bits<float>(i); }

//@ approximations: Be exact where a device is fast
KV_DEVICE float __expf(float x) { return expf(x); }
KV_DEVICE float __exp10f(float x) { return exp10f(x); }
KV_DEVICE float __logf(float x) { return logf(x); }
KV_DEVICE float __log2f(float x) { return log2f(x); }
KV_DEVICE float __sinf(float x) { return sinf(x); }
KV_DEVICE float __cosf(float x) { return cosf(x); }
KV_DEVICE float __fdividef(float a, float b) { return a / b; }
KV_DEVICE float rsqrtf(float x) { return 1 / sqrtf(x); }
KV_DEVICE float __frsqrt_rn(float x) { return float(1 / sqrt(double(x))); }
KV_DEVICE float __saturatef(float x) {
    return !(x > 0) ? 0.0f : x > 1 ? 1.0f : x;
}

//@ choices: Take the smaller and the larger
#define KV_CHOICES(T) \
    KV_DEVICE T min(T a, T b) { return b < a ? b : a; } \
    KV_DEVICE T max(T a, T b) { return a < b ? b : a; }
KV_CHOICES(int)
KV_CHOICES(unsigned)
KV_CHOICES(long)
KV_CHOICES(unsigned long)
KV_CHOICES(long long)
KV_CHOICES(unsigned long long)
KV_DEVICE float min(float a, float b) { return fminf(a, b); }
KV_DEVICE float max(float a, float b) { return fmaxf(a, b); }
using std::isfinite;
using std::isinf;
using std::isnan;
KV_DEVICE double min(double a, double b) { return fmin(a, b); }
KV_DEVICE double max(double a, double b) { return fmax(a, b); }

//@ mixed-choices: Choose between integers of two types, and load past a cache
template <class A, class B>
using kv_mixed = std::enable_if_t<std::is_integral_v<A> &&
                                      std::is_integral_v<B> &&
                                      !std::is_same_v<A, B>,
                                  std::common_type_t<A, B>>;
template <class A, class B> KV_DEVICE kv_mixed<A, B> min(A a, B b) {
    typedef kv_mixed<A, B> T;
    return T(b) < T(a) ? T(b) : T(a);
}
template <class A, class B> KV_DEVICE kv_mixed<A, B> max(A a, B b) {
    typedef kv_mixed<A, B> T;
    return T(a) < T(b) ? T(b) : T(a);
}

template <class T> KV_DEVICE T __ldg(const T *p) { return *p; }
template <class T> KV_DEVICE T __ldcg(const T *p) { return *p; }
template <class T> KV_DEVICE T __ldcs(const T *p) { return *p; }
template <class T> KV_DEVICE void __stcg(T *p, T v) { *p = v; }
template <class T> KV_DEVICE void __stcs(T *p, T v) { *p = v; }

//@ sixteen: Round to sixteen bits, once
/* A number with m bits of mantissa, nearest, ties to even; NaN is 0x7fff. */
inline uint16_t kv_round16(double x, int m, int bias) {
    uint64_t u = kv_bits<uint64_t>(x), one = 1;
    uint16_t sign = uint16_t(u >> 48 & 0x8000);
    u &= ~(one << 63);
    if (u > uint64_t(0x7ff) << 52)
        return 0x7fff;
    int e = int(u >> 52) - 1023 + bias, drop = 52 - m;
    u = (u & ((one << 52) - 1)) | one << 52;
    if (e < 1) {
        drop += 1 - e;
        e = 1;
    }
    if (drop > 63)
        return sign;
    uint64_t q = u >> drop, rest = u & ((one << drop) - 1);
    uint64_t half = one << (drop - 1);
    q += rest > half || (rest == half && (q & 1));
    q += uint64_t(e - 1) << m;
    uint64_t infinity = uint64_t(2 * bias + 1) << m;
    return uint16_t(sign | (q < infinity ? q : infinity));
}

//@ odd: Add so that a later rounding is right
/* a + b in double; if that was not exact, with an odd last bit, so that
 * rounding once more cannot be misled by a tie that is none. */
inline double kv_add_odd(double a, double b) {
    double s = a + b, t = s - a;
    double error = (a - (s - t)) + (b - t);
    uint64_t u = kv_bits<uint64_t>(s);
    if (error == 0 || error != error || (u & 1))
        return s;
    return kv_bits<double>((error > 0) == (s > 0) ? u + 1 : u - 1);
}

//@ halves: Define sixteen-bit numbers, alone and in pairs
template <int M, int BIAS> struct kv_sixteen {
    uint16_t bits;
    kv_sixteen() = default;
    kv_sixteen(float x) : bits(kv_round16(double(x), M, BIAS)) {}
    operator float() const {
        int e = bits >> M & (2 * BIAS + 1), f = bits & ((1 << M) - 1);
        float v = e == 2 * BIAS + 1 ? (f ? NAN : INFINITY)
                  : e ? ldexpf(float(f | 1 << M), e - BIAS - M)
                      : ldexpf(float(f), 1 - BIAS - M);
        return bits >> 15 ? -v : v;
    }
};
typedef kv_sixteen<10, 15> __half;
typedef kv_sixteen<7, 127> __nv_bfloat16;

//@ pairs: Put two of them into one word
template <class S> struct kv_pair {
    uint32_t word; /* the first number is the low half */
    KV_DEVICE S low() const { return kv_bits<S>(uint16_t(word)); }
    KV_DEVICE S high() const { return kv_bits<S>(uint16_t(word >> 16)); }
};
typedef kv_pair<__half> __half2;
typedef kv_pair<__nv_bfloat16> __nv_bfloat162;
typedef __half half;
typedef __half2 half2;

template <class S> KV_DEVICE kv_pair<S> kv_join(S a, S b) {
    return {uint32_t(b.bits) << 16 | a.bits};
}
KV_DEVICE uint32_t kv_word(__half2 h) { return h.word; }
KV_DEVICE __half2 kv_half2(uint32_t w) { return {w}; }
KV_DEVICE uint32_t kv_word(__nv_bfloat162 h) { return h.word; }
KV_DEVICE __nv_bfloat162 kv_bfloat162(uint32_t w) { return {w}; }

//@ half-arithmetic: Calculate with them, rounding once
template <int M, int BIAS>
inline kv_sixteen<M, BIAS> __hfma(kv_sixteen<M, BIAS> a, kv_sixteen<M, BIAS> b,
                                  kv_sixteen<M, BIAS> c) {
    kv_sixteen<M, BIAS> r;
    r.bits = kv_round16(
        kv_add_odd(double(float(a)) * float(b), double(float(c))), M, BIAS);
    return r;
}
template <int M, int BIAS>
inline kv_sixteen<M, BIAS> __hmul(kv_sixteen<M, BIAS> a,
                                  kv_sixteen<M, BIAS> b) {
    kv_sixteen<M, BIAS> r;
    r.bits = kv_round16(double(float(a)) * float(b), M, BIAS);
    return r;
}
template <int M, int BIAS>
inline kv_sixteen<M, BIAS> __hadd(kv_sixteen<M, BIAS> a,
                                  kv_sixteen<M, BIAS> b) {
    kv_sixteen<M, BIAS> r;
    r.bits = kv_round16(kv_add_odd(double(float(a)), double(float(b))), M,
                        BIAS);
    return r;
}
//@ half-differences: Negate and subtract them
template <int M, int BIAS>
inline kv_sixteen<M, BIAS> __hneg(kv_sixteen<M, BIAS> a) {
    a.bits ^= 0x8000;
    return a;
}
template <int M, int BIAS>
inline kv_sixteen<M, BIAS> __hsub(kv_sixteen<M, BIAS> a,
                                  kv_sixteen<M, BIAS> b) {
    return __hadd(a, __hneg(b));
}

//@ pair-arithmetic: Calculate with both halves of a word
template <class S>
inline kv_pair<S> __hfma2(kv_pair<S> a, kv_pair<S> b, kv_pair<S> c) {
    return kv_join(__hfma(a.low(), b.low(), c.low()),
                   __hfma(a.high(), b.high(), c.high()));
}
#define KV_PAIRWISE(name, single) \
    template <class S> inline kv_pair<S> name(kv_pair<S> a, kv_pair<S> b) { \
        return kv_join(single(a.low(), b.low()), \
                       single(a.high(), b.high())); \
    }
KV_PAIRWISE(__hadd2, __hadd)
KV_PAIRWISE(__hsub2, __hsub)
KV_PAIRWISE(__hmul2, __hmul)
KV_PAIRWISE(__hadd2_rn, __hadd)
KV_PAIRWISE(__hmul2_rn, __hmul)
KV_PAIRWISE(operator+, __hadd)
KV_PAIRWISE(operator-, __hsub)
KV_PAIRWISE(operator*, __hmul)
template <class S> KV_DEVICE S kv_smaller(S a, S b) {
    return a != a || b < a ? b : a;
}
template <class S> KV_DEVICE S kv_larger(S a, S b) {
    return a != a || a < b ? b : a;
}
KV_PAIRWISE(__hmin2, kv_smaller)
KV_PAIRWISE(__hmax2, kv_larger)
template <class S> KV_DEVICE bool __hble2(kv_pair<S> a, kv_pair<S> b) {
    return float(a.low()) <= float(b.low()) &&
           float(a.high()) <= float(b.high());
}

//@ half-conversions: Convert to and from sixteen bits
KV_DEVICE __half __float2half_rn(float x) { return __half(x); }
KV_DEVICE __half __float2half(float x) { return __half(x); }
KV_DEVICE float __half2float(__half h) { return float(h); }
KV_DEVICE unsigned short __half_as_ushort(__half h) { return h.bits; }
KV_DEVICE __half __ushort_as_half(unsigned short u) {
    return kv_bits<__half>(u);
}
KV_DEVICE __half2 __halves2half2(__half a, __half b) { return kv_join(a, b); }
KV_DEVICE __half2 __half2half2(__half a) { return kv_join(a, a); }
KV_DEVICE __half2 __float2half2_rn(float x) {
    return kv_join(__half(x), __half(x));
}
KV_DEVICE __half2 __floats2half2_rn(float x, float y) {
    return kv_join(__half(x), __half(y));
}
KV_DEVICE __half2 __float22half2_rn(float2 v) {
    return __floats2half2_rn(v.x, v.y);
}
KV_DEVICE __half __low2half(__half2 h) { return h.low(); }
KV_DEVICE __half __high2half(__half2 h) { return h.high(); }
KV_DEVICE float __low2float(__half2 h) { return float(h.low()); }
KV_DEVICE float __high2float(__half2 h) { return float(h.high()); }
KV_DEVICE float2 __half22float2(__half2 h) {
    return make_float2(float(h.low()), float(h.high()));
}

//@ bf16-conversions: Convert to and from bfloat16
KV_DEVICE __nv_bfloat16 __float2bfloat16_rn(float x) {
    return __nv_bfloat16(x);
}
KV_DEVICE __nv_bfloat16 __float2bfloat16(float x) { return __nv_bfloat16(x); }
KV_DEVICE float __bfloat162float(__nv_bfloat16 h) { return float(h); }
KV_DEVICE unsigned short __bfloat16_as_ushort(__nv_bfloat16 h) {
    return h.bits;
}
KV_DEVICE __nv_bfloat16 __ushort_as_bfloat16(unsigned short u) {
    return kv_bits<__nv_bfloat16>(u);
}
KV_DEVICE __nv_bfloat162 __floats2bfloat162_rn(float x, float y) {
    return kv_join(__nv_bfloat16(x), __nv_bfloat16(y));
}
KV_DEVICE __nv_bfloat162 __bfloat162bfloat162(__nv_bfloat16 a) {
    return kv_join(a, a);
}
KV_DEVICE float2 __bfloat1622float2(__nv_bfloat162 h) {
    return make_float2(float(h.low()), float(h.high()));
}

//@ matrices: Multiply small matrices
/* The device adds in an order of its own, in at least float. */
inline void kv_multiply(float *c, const sim::Gathered &g, int lane) {
    for (int i = 0; i < 4; i++) {
        double sum = c[i];
        int column = lane % 4 * 2 + i % 2, down = i / 2 * 32;
        for (int k = 0; k < 16; k++) {
            int odd = k % 2 * 16, upper = k / 8;
            uint64_t x = g.all[lane / 4 * 4 + k % 8 / 2][upper] >> down;
            uint64_t y = g.all[column * 4 + k % 8 / 2][2] >> (32 * upper);
            sum += double(float(kv_bits<__half>(uint16_t(x >> odd)))) *
                   float(kv_bits<__half>(uint16_t(y >> odd)));
        }
        c[i] = float(sum);
    }
}

KV_DEVICE int kv_own_lane() {
    return int(threadIdx.x + blockDim.x * (threadIdx.y +
                                           blockDim.y * threadIdx.z)) % 32;
}

KV_DEVICE void kv_mma(float *c, const uint32_t *a, uint32_t b0, uint32_t b1) {
    sim::Gathered g;
    g.mine[0] = uint64_t(a[1]) << 32 | a[0];
    g.mine[1] = uint64_t(a[3]) << 32 | a[2];
    g.mine[2] = uint64_t(b1) << 32 | b0;
    sim::gather(&g);
    kv_multiply(c, g, kv_own_lane());
}

//@ transpose: Transpose small matrices, and raise two to a power
inline uint32_t kv_transposed(const sim::Gathered &g, int lane) {
    int r = lane / 4, j = lane % 4, shift = r % 2 * 16;
    uint32_t low = uint32_t(g.all[8 * j + r / 2][0]) >> shift & 0xffff;
    uint32_t high = uint32_t(g.all[8 * j + 4 + r / 2][0]) >> shift & 0xffff;
    return high << 16 | low;
}

KV_DEVICE uint32_t kv_transpose(uint32_t a) {
    sim::Gathered g;
    g.mine[0] = a;
    g.mine[1] = g.mine[2] = 0;
    sim::gather(&g);
    return kv_transposed(g, kv_own_lane());
}

KV_DEVICE uint32_t kv_mul2(uint32_t a, uint32_t b) {
    return kv_word(__hmul2(kv_half2(a), kv_half2(b)));
}

KV_DEVICE float kv_exp2(float x) {
    float y = exp2f(x);
    return y < 1.17549435e-38f ? 0 : y;
}

//@ host-twins: Stand in for the runtime's host functions
enum cudaError_t {
    cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorMemoryAllocation = 2,
    cudaErrorInvalidConfiguration = 9, cudaErrorLaunchFailure = 719
};
enum cudaMemcpyKind {
    cudaMemcpyHostToHost, cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost,
    cudaMemcpyDeviceToDevice, cudaMemcpyDefault
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
typedef struct CUstream_st *cudaStream_t;

template <class T> cudaError_t cudaMalloc(T **p, size_t bytes) {
    *p = static_cast<T *>(sim::allocate(bytes, nullptr));
    sim::name(*p, nullptr, sim::argument(*p).element);
    return *p ? cudaSuccess : cudaErrorMemoryAllocation;
}
inline cudaError_t cudaFree(void *p) {
    return sim::release(p) ? cudaSuccess : cudaErrorInvalidValue;
}
inline cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes,
                              cudaMemcpyKind) {
    return sim::copy(to, from, bytes) ? cudaSuccess : cudaErrorInvalidValue;
}
//@ host-copies: Stand in for copies on streams
inline cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes,
                                   cudaMemcpyKind, cudaStream_t = nullptr) {
    return sim::copy(to, from, bytes) ? cudaSuccess : cudaErrorInvalidValue;
}
inline cudaError_t cudaMemset(void *p, int byte, size_t bytes) {
    return sim::fill(p, byte, bytes) ? cudaSuccess : cudaErrorInvalidValue;
}
inline cudaError_t cudaMemsetAsync(void *p, int byte, size_t bytes,
                                   cudaStream_t = nullptr) {
    return sim::fill(p, byte, bytes) ? cudaSuccess : cudaErrorInvalidValue;
}

//@ host-errors: Report a refused launch as the runtime does
inline cudaError_t cudaPeekAtLastError() {
    return sim::last_error(false) ? cudaErrorLaunchFailure : cudaSuccess;
}
inline cudaError_t cudaGetLastError() {
    return sim::last_error(true) ? cudaErrorLaunchFailure : cudaSuccess;
}
inline const char *cudaGetErrorString(cudaError_t e) {
    return e == cudaSuccess                 ? "no error"
           : e == cudaErrorMemoryAllocation ? "out of memory"
           : e == cudaErrorInvalidValue     ? "invalid argument"
                                            : "the launch failed";
}
inline cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
//@ symbols: Copy to and from the variables of a file
template <class S>
cudaError_t cudaMemcpyToSymbol(S &symbol, const void *from, size_t bytes) {
    memcpy(static_cast<void *>(&symbol), from, bytes);
    return cudaSuccess;
}
template <class S>
cudaError_t cudaMemcpyFromSymbol(void *to, const S &symbol, size_t bytes) {
    memcpy(to, &symbol, bytes);
    return cudaSuccess;
}
template <class K>
cudaError_t cudaFuncSetAttribute(K, cudaFuncAttribute, int) {
    return cudaSuccess;
}
inline void kv_describe_device(char *text, size_t size) {
    snprintf(text, size, "simulator");
}
#endif

//@ finite: Tell numbers from what is none
KV_DEVICE bool kv_is_finite(float x) { return fabsf(x) <= 3.402823466e38f; }

//@ sums: Sum and find extremes within a warp
/* All lanes receive the result, the same on every device: the order of the
 * additions is fixed. */
KV_DEVICE float kv_warp_sum(float x) {
#pragma unroll
    for (int i = 16; i; i >>= 1)
        x += __shfl_xor_sync(0xffffffffu, x, i);
    return x;
}

KV_DEVICE float kv_warp_max(float x) {
#pragma unroll
    for (int i = 16; i; i >>= 1)
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, i));
    return x;
}

//@ scan: Count what stands before each thread of a block
/* Each thread gets the sum of x over the threads before it and its own, and
 * all get the total. part has a place for each warp. All threads of the block
 * call it; it may be called again at once. */
template <int WARPS>
KV_DEVICE int kv_block_scan(int x, int *part, int &total) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int i = 1; i < 32; i *= 2) {
        int before = __shfl_up_sync(0xffffffffu, x, i);
        x += lane >= i ? before : 0;
    }
    if (lane == 31)
        part[warp] = x;
    __syncthreads();
    total = 0;
#pragma unroll
    for (int w = 0; w < WARPS; w++) {
        x += w < warp ? part[w] : 0;
        total += part[w];
    }
    __syncthreads();
    return x;
}

#endif
