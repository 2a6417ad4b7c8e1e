/* Arrays that nobody allocates: variables of the file, arrays of a thread, rows of a matrix. */
#include "kv.cuh"

__device__ int counter;
//sim launch bad_counter grid=2 block=32 args=y:int[64]
__global__ void bad_counter(int *y) {
    int i = counter;                          // expect: race
    counter = i + 1;                          // expect: race
    y[blockIdx.x * 32 + threadIdx.x] = i;
}
//sim launch good_counter grid=2 block=32 args=y:int[64]
__global__ void good_counter(int *y) {
    y[blockIdx.x * 32 + threadIdx.x] = atomicAdd(&counter, 1);
}

__device__ unsigned long long least = ~0ull;
//sim launch bad_least grid=2 block=64 args=x:int[128]=index
__global__ void bad_least(const int *x) {
    unsigned long long v = x[blockIdx.x * 64 + threadIdx.x];
    if (v < least)                            // expect: race
        atomicMin(&least, v);                 // expect: race
}
//sim launch good_least grid=2 block=64 args=x:int[128]=index
__global__ void good_least(const int *x) {
    unsigned long long v = x[blockIdx.x * 64 + threadIdx.x], old = atomicAdd(&least, 0ull), seen;
    do {
        seen = old;
        if (seen > v)
            old = atomicCAS(&least, seen, v);
    } while (old != seen);
}

__device__ float table[64];
//sim launch bad_table block=65
__global__ void bad_table() {
    table[threadIdx.x] = 1;                   // expect: out-of-bounds
}
//sim launch good_table block=64 args=y:float[64]
__global__ void good_table(float *y) {
    table[threadIdx.x] = 1;                   // expect: sectors=4
    __syncthreads();
    y[threadIdx.x] = table[63 - threadIdx.x];
}

__constant__ float weight[4] = {1, 2, 3, 4};
//sim launch bad_weight block=32 args=y:float[32],k:int=4
__global__ void bad_weight(float *y, int k) {
    float s = 0;
    for (int i = 0; i <= k; i++)
        s += weight[i] * threadIdx.x;         // expect: out-of-bounds
    y[threadIdx.x] = s;
}
//sim launch good_weight block=32 args=y:float[32],k:int=4
__global__ void good_weight(float *y, int k) {
    float s = 0;
    for (int i = 0; i < k; i++)
        s += weight[i] * threadIdx.x;
    y[threadIdx.x] = s;
}

//sim launch bad_local block=32 args=x:int[32]=index,y:int[32],n:int=8
__global__ void bad_local(const int *x, int *y, int n) {
    int h[8], s = 0;
    for (int i = 0; i <= n; i++)
        h[i] = x[threadIdx.x] + i;            // expect: out-of-bounds
    for (int i = 0; i < n; i++)
        s += h[i * 3 % 8];
    y[threadIdx.x] = s;
}
//sim launch good_local block=32 args=x:int[32]=index,y:int[32],n:int=8
__global__ void good_local(const int *x, int *y, int n) {
    int h[8], s = 0;
    for (int i = 0; i < n; i++)
        h[i] = x[threadIdx.x] + i;
    for (int i = 0; i < n; i++)
        s += h[i * 3 % 8];
    y[threadIdx.x] = s;
}
//sim launch bad_left_of_local block=32 args=x:int[32]=index,y:int[32]
__global__ void bad_left_of_local(const int *x, int *y) {
    int h[4] = {0, 0, 0, 0};
    h[x[threadIdx.x] % 5 - 1] += 1;           // expect: out-of-bounds
    y[threadIdx.x] = h[x[threadIdx.x] % 4];
}

/* The matrix goes on where its row ends. */
//sim launch bad_row block=32 args=y:float[32]
__global__ void bad_row(float *y) {
    __shared__ float t[4][33];
    for (int i = 0; i < 4; i++) {
        t[i][threadIdx.x] = float(i);
        t[i][32] = 0;                         // expect: race
    }
    __syncthreads();
    y[threadIdx.x] = t[1][threadIdx.x + 2];   // expect: out-of-bounds
}
//sim launch good_row block=32 args=y:float[32]
__global__ void good_row(float *y) {
    __shared__ float t[4][33];
    for (int i = 0; i < 4; i++) {
        t[i][threadIdx.x] = float(i);
        if (threadIdx.x == 0)
            t[i][32] = 0;
    }
    __syncthreads();
    y[threadIdx.x] = t[1][threadIdx.x + 1];
}

/* A plain write that atomics have covered since is still in a race with them. */
//sim launch bad_clear block=64 args=x:int[64]=index,y:int[16]
__global__ void bad_clear(const int *x, int *y) {
    __shared__ int bins[16];
    if (threadIdx.x < 16)
        bins[threadIdx.x] = 0;                // expect: race
    atomicAdd(&bins[x[threadIdx.x] & 15], 1); // expect: race uninitialised
    __syncthreads();
    if (threadIdx.x < 16)
        y[threadIdx.x] = bins[threadIdx.x];
}
//sim launch good_clear block=64 args=x:int[64]=index,y:int[16]
__global__ void good_clear(const int *x, int *y) {
    __shared__ int bins[16];
    if (threadIdx.x < 16)
        bins[threadIdx.x] = 0;
    __syncthreads();
    atomicAdd(&bins[x[threadIdx.x] & 15], 1);
    __syncthreads();
    if (threadIdx.x < 16)
        y[threadIdx.x] = bins[threadIdx.x];
}
