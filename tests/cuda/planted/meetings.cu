/* Barriers that some threads do not reach, and lanes that are not there. */
#include "kv.cuh"

//sim launch bad_branch grid=1 block=64 args=y:int[64]
__global__ void bad_branch(int *y) {
    if (threadIdx.x < 40) {
        y[threadIdx.x] = 1;
        __syncthreads(); // expect: divergent-barrier
    }
}
//sim launch good_branch grid=1 block=64 args=y:int[64]
__global__ void good_branch(int *y) {
    if (threadIdx.x < 40)
        y[threadIdx.x] = 1;
    __syncthreads();
}

/* All threads wait, but not for each other. */
//sim launch bad_two_barriers grid=1 block=64 args=y:int[64]
__global__ void bad_two_barriers(int *y) {
    if (threadIdx.x < 32) {
        y[threadIdx.x] = 1;
        __syncthreads(); // expect: divergent-barrier
    } else {
        y[threadIdx.x] = 2;
        __syncthreads(); // expect: divergent-barrier
    }
}
//sim launch good_two_barriers grid=1 block=64 args=y:int[64]
__global__ void good_two_barriers(int *y) {
    y[threadIdx.x] = threadIdx.x < 32 ? 1 : 2;
    __syncthreads();
}

/* Threads past the end leave before the barrier. */
//sim launch bad_return grid=2 block=64 args=y:int[100],n:int=100
__global__ void bad_return(int *y, int n) {
    int i = blockIdx.x * 64 + threadIdx.x;
    if (i >= n)
        return;
    __syncthreads(); // expect: divergent-barrier
    y[i] = 1;
}
//sim launch good_return grid=2 block=64 args=y:int[100],n:int=100
__global__ void good_return(int *y, int n) {
    int i = blockIdx.x * 64 + threadIdx.x;
    __syncthreads();
    if (i >= n)
        return;
    y[i] = 1;
}

/* A loop whose length depends on the thread. */
//sim launch bad_loop grid=1 block=64 args=y:int[64]
__global__ void bad_loop(int *y) {
    int i = threadIdx.x;
    for (int k = 0; k < 2 + (i == 63); k++) {
        y[i] = k;
        __syncthreads(); // expect: divergent-barrier
    }
}
//sim launch good_loop grid=1 block=64 args=y:int[64]
__global__ void good_loop(int *y) {
    int i = threadIdx.x;
    for (int k = 0; k < 3; k++) {
        y[i] = k;
        __syncthreads();
    }
}

//sim launch bad_tail_shuffle grid=1 block=32 args=y:float[1],x:float[24]=random,n:int=24
__global__ void bad_tail_shuffle(float *y, const float *x, int n) {
    int i = threadIdx.x;
    if (i < n) {
        float v = x[i];
        for (int k = 16; k; k >>= 1)
            v += __shfl_down_sync(0xffffffffu, v, k); // expect: absent-lane
        if (i == 0)
            y[0] = v;
    }
}
//sim launch good_tail_shuffle grid=1 block=32 args=y:float[1],x:float[24]=random,n:int=24
__global__ void good_tail_shuffle(float *y, const float *x, int n) {
    int i = threadIdx.x;
    float v = i < n ? x[i] : 0;
    for (int k = 16; k; k >>= 1)
        v += __shfl_down_sync(0xffffffffu, v, k);
    if (i == 0)
        y[0] = v;
}

/* A lane reads from one that its mask leaves out. */
//sim launch bad_mask grid=1 block=32 args=y:int[32]
__global__ void bad_mask(int *y) {
    int i = threadIdx.x;
    if (i < 16)
        y[i] = __shfl_xor_sync(0x0000ffffu, i, 16); // expect: absent-lane
    else
        y[i] = i;
}
//sim launch good_mask grid=1 block=32 args=y:int[32]
__global__ void good_mask(int *y) {
    int i = threadIdx.x;
    if (i < 16)
        y[i] = __shfl_xor_sync(0x0000ffffu, i, 8);
    else
        y[i] = i;
}

/* A lane takes part that its own mask leaves out. */
//sim launch bad_own_mask grid=1 block=32 args=y:unsigned[32]
__global__ void bad_own_mask(unsigned *y) {
    y[threadIdx.x] =
        __ballot_sync(0xfffffffeu, threadIdx.x & 1); // expect: absent-lane
}
//sim launch good_own_mask grid=1 block=32 args=y:unsigned[32]
__global__ void good_own_mask(unsigned *y) {
    y[threadIdx.x] =
        __ballot_sync(0xffffffffu, threadIdx.x & 1);
}

/* Half of the warp votes while the other half waits at a barrier. */
//sim launch bad_vote grid=1 block=32 args=y:int[32]
__global__ void bad_vote(int *y) {
    int v = 0;
    if (threadIdx.x < 8)
        v = __any_sync(0xffffffffu, threadIdx.x == 3); // expect: absent-lane
    __syncthreads();
    y[threadIdx.x] = v;
}
//sim launch good_vote grid=1 block=32 args=y:int[32]
__global__ void good_vote(int *y) {
    int v = 0;
    if (threadIdx.x < 8)
        v = __any_sync(0x000000ffu, threadIdx.x == 3);
    __syncthreads();
    y[threadIdx.x] = v;
}

//sim launch bad_syncwarp grid=1 block=32 args=y:int[32]
__global__ void bad_syncwarp(int *y) {
    if (threadIdx.x & 1)
        __syncwarp(); // expect: absent-lane
    else
        y[threadIdx.x] = __popc(__ballot_sync(0x55555555u, 1));
    __syncthreads();
}
//sim launch good_syncwarp grid=1 block=32 args=y:int[32]
__global__ void good_syncwarp(int *y) {
    if (threadIdx.x & 1)
        __syncwarp(0xaaaaaaaau);
    else
        y[threadIdx.x] = __popc(__ballot_sync(0x55555555u, 1));
    __syncthreads();
}

/* Half of the warp brings its part of a matrix. */
//sim launch bad_matrix grid=1 block=32 args=y:float[32]
__global__ void bad_matrix(float *y) {
    float c[4] = {0, 0, 0, 0};
    uint32_t a[4] = {0, 0, 0, 0};
    if (threadIdx.x < 16)
        kv_mma(c, a, 0, 0); // expect: absent-lane
    y[threadIdx.x] = c[0];
}
//sim launch good_matrix grid=1 block=32 args=y:float[32]
__global__ void good_matrix(float *y) {
    float c[4] = {0, 0, 0, 0};
    uint32_t a[4] = {0, 0, 0, 0};
    kv_mma(c, a, 0, 0);
    y[threadIdx.x] = c[0];
}
