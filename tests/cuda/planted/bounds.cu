/* Accesses outside of arrays, and misaligned ones. In these files a kernel
 * bad_X has one mistake, on the lines marked "expect: KIND", and good_X is the
 * same without it. */
#include "kv.cuh"

//sim launch bad_tail grid=4 block=32 args=y:float[100],x:float[128]=random,n:int=100
__global__ void bad_tail(float *y, const float *x, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i <= n)
        y[i] = x[i]; // expect: out-of-bounds
}
//sim launch good_tail grid=4 block=32 args=y:float[100],x:float[128]=random,n:int=100
__global__ void good_tail(float *y, const float *x, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        y[i] = x[i];
}

//sim launch bad_left grid=1 block=32 args=y:float[32],x:float[32]=random
__global__ void bad_left(float *y, const float *x) {
    int i = threadIdx.x;
    y[i] = x[i - 1]; // expect: out-of-bounds
}
//sim launch good_left grid=1 block=32 args=y:float[32],x:float[32]=random
__global__ void good_left(float *y, const float *x) {
    int i = threadIdx.x;
    y[i] = i ? x[i - 1] : 0;
}

/* 99 floats are not 25 groups of four. */
//sim launch bad_group grid=1 block=32 args=y:float[128],x:float[99]=random
__global__ void bad_group(float *y, const float *x) {
    int i = threadIdx.x;
    const float4 *from = reinterpret_cast<const float4 *>(x);
    if (i < 25)
        reinterpret_cast<float4 *>(y)[i] = from[i]; // expect: out-of-bounds
}
//sim launch good_group grid=1 block=32 args=y:float[128],x:float[99]=random
__global__ void good_group(float *y, const float *x) {
    int i = threadIdx.x;
    const float4 *from = reinterpret_cast<const float4 *>(x);
    if (i < 24)
        reinterpret_cast<float4 *>(y)[i] = from[i];
}

//sim launch bad_bytes grid=1 block=64 args=y:uint8_t[63]
__global__ void bad_bytes(uint8_t *y) {
    y[threadIdx.x] = uint8_t(threadIdx.x); // expect: out-of-bounds
}
//sim launch good_bytes grid=1 block=64 args=y:uint8_t[64]
__global__ void good_bytes(uint8_t *y) {
    y[threadIdx.x] = uint8_t(threadIdx.x);
}

/* A tile of 32 by 32 with an index of 33. */
//sim launch bad_shared grid=1 block=32,2 args=y:float[64]
__global__ void bad_shared(float *y) {
    __shared__ float tile[31][33], other[64];
    int i = threadIdx.x, j = threadIdx.y;
    other[j * 32 + i] = 1;
    tile[j * 31][i] = 2; // expect: out-of-bounds
    y[j * 32 + i] = other[j * 32 + i];
}
//sim launch good_shared grid=1 block=32,2 args=y:float[64]
__global__ void good_shared(float *y) {
    __shared__ float tile[32][33], other[64];
    int i = threadIdx.x, j = threadIdx.y;
    other[j * 32 + i] = 1;
    tile[j * 31][i] = 2;
    y[j * 32 + i] = other[j * 32 + i];
}

/* The launch asks for less dynamic memory than the kernel uses. */
//sim launch bad_dynamic grid=2 block=64 smem=252 args=y:int[64]
__global__ void bad_dynamic(int *y) {
    extern __shared__ int s[];
    s[threadIdx.x] = 1; // expect: out-of-bounds
    if (blockIdx.x == 0)
        y[threadIdx.x] = 1;
}
//sim launch good_dynamic grid=2 block=64 smem=256 args=y:int[64]
__global__ void good_dynamic(int *y) {
    extern __shared__ int s[];
    s[threadIdx.x] = 1;
    if (blockIdx.x == 0)
        y[threadIdx.x] = 1;
}

//sim launch bad_null grid=1 block=32 args=y:float*=nullptr
__global__ void bad_null(float *y) {
    y[threadIdx.x] = 1; // expect: out-of-bounds
}

//sim launch bad_atomic grid=1 block=32 args=bins:int[16]=zero
__global__ void bad_atomic(int *bins) {
    atomicAdd(&bins[threadIdx.x % 17], 1); // expect: out-of-bounds
}
//sim launch good_atomic grid=1 block=32 args=bins:int[16]=zero
__global__ void good_atomic(int *bins) {
    atomicAdd(&bins[threadIdx.x % 16], 1);
}

//sim launch bad_float4 grid=1 block=8 args=y:float[64],x:float[64]=random
__global__ void bad_float4(float *y, const float *x) {
    const float4 *from =
        reinterpret_cast<const float4 *>(x + threadIdx.x); // one float on
    float4 v = *from;                        // expect: misaligned
    y[threadIdx.x] = v.x + v.w;
}
//sim launch good_float4 grid=1 block=8 args=y:float[64],x:float[64]=random
__global__ void good_float4(float *y, const float *x) {
    const float4 *from =
        reinterpret_cast<const float4 *>(x + 4 * threadIdx.x);
    float4 v = *from;
    y[threadIdx.x] = v.x + v.w;
}

//sim launch bad_uint2 grid=1 block=8 args=y:unsigned[64]
__global__ void bad_uint2(unsigned *y) {
    *reinterpret_cast<uint2 *>(y + 1 + 2 * threadIdx.x) =
        make_uint2(1, 2); // expect: misaligned
}
//sim launch good_uint2 grid=1 block=8 args=y:unsigned[64]
__global__ void good_uint2(unsigned *y) {
    *reinterpret_cast<uint2 *>(y + 2 * threadIdx.x) =
        make_uint2(1, 2);
}

//sim launch bad_word grid=1 block=32 args=y:unsigned[32],x:uint8_t[131]=zero
__global__ void bad_word(unsigned *y, const uint8_t *x) {
    const uint8_t *p = x + 4 * threadIdx.x + 3;
    y[threadIdx.x] = *reinterpret_cast<const unsigned *>(p); // expect: misaligned
}
//sim launch good_word grid=1 block=32 args=y:unsigned[32],x:uint8_t[131]=zero
__global__ void good_word(unsigned *y, const uint8_t *x) {
    const uint8_t *p = x + 4 * threadIdx.x;
    y[threadIdx.x] = *reinterpret_cast<const unsigned *>(p);
}

/* cp.async of 16 bytes from rows of 17 bytes. */
//sim launch bad_copy grid=1 block=4 args=y:uint8_t[4],x:uint8_t[80]=zero
__global__ void bad_copy(uint8_t *y, const uint8_t *x) {
    __shared__ uint4 s[4];
    kv_copy16(&s[threadIdx.x], x + 17 * threadIdx.x); // expect: misaligned
    kv_copy_commit();
    kv_copy_wait<0>();
    y[threadIdx.x] = uint8_t(s[threadIdx.x].x);
}
//sim launch good_copy grid=1 block=4 args=y:uint8_t[4],x:uint8_t[80]=zero
__global__ void good_copy(uint8_t *y, const uint8_t *x) {
    __shared__ uint4 s[4];
    kv_copy16(&s[threadIdx.x], x + 16 * threadIdx.x);
    kv_copy_commit();
    kv_copy_wait<0>();
    y[threadIdx.x] = uint8_t(s[threadIdx.x].x);
}
