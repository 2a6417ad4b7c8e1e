/* Reading what nobody wrote, and copies that nobody waited for. */
#include "kv.cuh"

//sim launch bad_sum grid=1 block=32 args=y:float[32],x:float[32]=random
__global__ void bad_sum(float *y, const float *x) {
    y[threadIdx.x] += x[threadIdx.x]; // expect: uninitialised
}
//sim launch good_sum grid=1 block=32 args=y:float[32]=zero,x:float[32]=random
__global__ void good_sum(float *y, const float *x) {
    y[threadIdx.x] += x[threadIdx.x];
}

/* A counter that nobody set to zero. */
//sim launch bad_counter grid=1 block=32 args=n:int[1]
__global__ void bad_counter(int *n) {
    atomicAdd(n, 1); // expect: uninitialised
}
//sim launch good_counter grid=1 block=32 args=n:int[1]=zero
__global__ void good_counter(int *n) {
    atomicAdd(n, 1);
}

/* Three of the four warps leave a partial sum; four are added. */
//sim launch bad_partial grid=1 block=96 args=y:float[1]
__global__ void bad_partial(float *y) {
    __shared__ float s[4];
    if (threadIdx.x % 32 == 0)
        s[threadIdx.x / 32] = 1;
    __syncthreads();
    if (threadIdx.x == 0)
        y[0] = s[0] + s[1] + s[2] +
               s[3]; // expect: uninitialised
}
//sim launch good_partial grid=1 block=96 args=y:float[1]
__global__ void good_partial(float *y) {
    __shared__ float s[4];
    if (threadIdx.x % 32 == 0)
        s[threadIdx.x / 32] = 1;
    __syncthreads();
    if (threadIdx.x == 0)
        y[0] = s[0] + s[1] + s[2];
}

/* Shared memory of the next block does not keep what this one wrote. */
//sim launch bad_carry grid=20 block=32 args=y:int[640]
__global__ void bad_carry(int *y) {
    extern __shared__ int unused[];
    __shared__ int s[32];
    if (blockIdx.x % 2 == 0)
        s[threadIdx.x] = 1;
    y[blockIdx.x * 32 + threadIdx.x] =
        s[threadIdx.x]; // expect: uninitialised
}
//sim launch good_carry grid=20 block=32 args=y:int[640]
__global__ void good_carry(int *y) {
    extern __shared__ int unused[];
    __shared__ int s[32];
    s[threadIdx.x] = 1;
    y[blockIdx.x * 32 + threadIdx.x] =
        s[threadIdx.x];
}

/* Bytes: every fourth is missing. */
//sim launch bad_fourth grid=1 block=32 args=y:unsigned[32]
__global__ void bad_fourth(unsigned *y) {
    __shared__ uint8_t s[128];
    for (int k = 0; k < 3; k++)
        s[4 * threadIdx.x + k] = 1;
    y[threadIdx.x] = s[4 * threadIdx.x] +
        s[4 * threadIdx.x + 3]; // expect: uninitialised
}
//sim launch good_fourth grid=1 block=32 args=y:unsigned[32]
__global__ void good_fourth(unsigned *y) {
    __shared__ uint8_t s[128];
    for (int k = 0; k < 3; k++)
        s[4 * threadIdx.x + k] = 1;
    y[threadIdx.x] = s[4 * threadIdx.x] +
        s[4 * threadIdx.x + 2];
}

/* No wait at all. */
//sim launch bad_no_wait grid=1 block=32 args=y:float4[32],x:float4[32]
__global__ void bad_no_wait(float4 *y, const float4 *x) {
    __shared__ float4 s[32];
    kv_copy16(&s[threadIdx.x], &x[threadIdx.x]); // expect: race uninitialised
    kv_copy_commit();
    y[threadIdx.x] = s[threadIdx.x]; // expect: race
}
/* A wait for one group too few: of a pipeline of two stages. */
//sim launch bad_stage grid=1 block=32 args=y:float[32],x:float[512]=random
__global__ void bad_stage(float *y, const float *x) {
    __shared__ float4 s[2][32];
    int i = threadIdx.x;
    float sum = 0;
    kv_copy16(&s[0][i], x + 4 * i); // expect: race
    kv_copy_commit();
    for (int k = 0; k < 4; k++) {
        if (k < 3)
            kv_copy16(&s[(k + 1) % 2][i], x + 128 * (k + 1) + 4 * i); // expect: race
        kv_copy_commit();
        kv_copy_wait<2>();
        sum += s[k % 2][i].x; // expect: race
    }
    y[i] = sum;
}
//sim launch good_stage grid=1 block=32 args=y:float[32],x:float[512]=random
__global__ void good_stage(float *y, const float *x) {
    __shared__ float4 s[2][32];
    int i = threadIdx.x;
    float sum = 0;
    kv_copy16(&s[0][i], x + 4 * i);
    kv_copy_commit();
    for (int k = 0; k < 4; k++) {
        if (k < 3)
            kv_copy16(&s[(k + 1) % 2][i], x + 128 * (k + 1) + 4 * i);
        kv_copy_commit();
        kv_copy_wait<1>();
        sum += s[k % 2][i].x;
    }
    y[i] = sum;
}

/* The thread has waited for its own copy; the others do not know. */
//sim launch bad_no_barrier grid=1 block=64 args=y:float[64],x:float4[64]=1
__global__ void bad_no_barrier(float *y, const float4 *x) {
    __shared__ float4 s[64];
    __pipeline_memcpy_async(&s[threadIdx.x], &x[threadIdx.x], 16); // expect: race
    __pipeline_commit();
    __pipeline_wait_prior(0);
    y[threadIdx.x] = s[63 - threadIdx.x].x; // expect: race uninitialised
}
//sim launch good_no_barrier grid=1 block=64 args=y:float[64],x:float4[64]=1
__global__ void good_no_barrier(float *y, const float4 *x) {
    __shared__ float4 s[64];
    __pipeline_memcpy_async(&s[threadIdx.x], &x[threadIdx.x], 16);
    __pipeline_commit();
    __pipeline_wait_prior(0);
    __syncthreads();
    y[threadIdx.x] = s[63 - threadIdx.x].x;
}
