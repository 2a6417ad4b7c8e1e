/* Missing barriers, and what blocks must not expect of each other. */
#include "kv.cuh"

//sim launch bad_reverse grid=2 block=96 args=y:int[192]
__global__ void bad_reverse(int *y) {
    __shared__ int s[96];
    s[threadIdx.x] = int(threadIdx.x); // expect: race
    y[blockIdx.x * 96 + threadIdx.x] =
        s[95 - threadIdx.x]; // expect: race uninitialised
}
//sim launch good_reverse grid=2 block=96 args=y:int[192]
__global__ void good_reverse(int *y) {
    __shared__ int s[96];
    s[threadIdx.x] = int(threadIdx.x);
    __syncthreads();
    y[blockIdx.x * 96 + threadIdx.x] =
        s[95 - threadIdx.x];
}

/* Read and write the same buffer with one barrier where two are needed. */
//sim launch bad_shift grid=1 block=64 args=y:int[64]
__global__ void bad_shift(int *y) {
    __shared__ int s[64];
    int i = threadIdx.x;
    s[i] = i;
    for (int k = 0; k < 3; k++) {
        __syncthreads();
        int v = s[(i + 1) % 64]; // expect: race
        s[i] = v; // expect: race
    }
    y[i] = s[i];
}
//sim launch good_shift grid=1 block=64 args=y:int[64]
__global__ void good_shift(int *y) {
    __shared__ int s[64];
    int i = threadIdx.x;
    s[i] = i;
    for (int k = 0; k < 3; k++) {
        __syncthreads();
        int v = s[(i + 1) % 64];
        __syncthreads();
        s[i] = v;
    }
    y[i] = s[i];
}

/* The last warp of a tree sum without __syncwarp, as was once taught. */
//sim launch bad_warp_sum grid=1 block=64 args=y:int[1]
__global__ void bad_warp_sum(int *y) {
    __shared__ int s[64];
    int i = threadIdx.x;
    s[i] = 1;
    __syncthreads();
    if (i < 32) {
        for (int k = 32; k; k >>= 1)
            if (i < k)
                s[i] += s[i + k]; // expect: race
    }
    if (i == 0)
        y[0] = s[0];
}
//sim launch good_warp_sum grid=1 block=64 args=y:int[1]
__global__ void good_warp_sum(int *y) {
    __shared__ int s[64];
    int i = threadIdx.x;
    s[i] = 1;
    __syncthreads();
    if (i < 32) {
        for (int k = 32; k; k >>= 1) {
            if (i < k)
                s[i] += s[i + k];
            __syncwarp();
        }
    }
    if (i == 0)
        y[0] = s[0];
}

/* A shuffle exchanges registers; it orders no memory. */
//sim launch bad_shuffle_orders grid=1 block=32 args=y:int[32]
__global__ void bad_shuffle_orders(int *y) {
    __shared__ int s[32];
    int i = threadIdx.x;
    s[i] = i; // expect: race
    int v = __shfl_xor_sync(0xffffffffu, i, 1);
    y[i] = v + s[i ^ 1]; // expect: race
}
//sim launch good_shuffle_orders grid=1 block=32 args=y:int[32]
__global__ void good_shuffle_orders(int *y) {
    __shared__ int s[32];
    int i = threadIdx.x;
    s[i] = i;
    int v = __shfl_xor_sync(0xffffffffu, i, 1);
    __syncwarp();
    y[i] = v + s[i ^ 1];
}

/* Half a warp meets; the other half does not know. */
//sim launch bad_half_warp grid=1 block=32 args=y:int[32]
__global__ void bad_half_warp(int *y) {
    __shared__ int s[32];
    int i = threadIdx.x;
    s[i] = i; // expect: race
    __syncwarp(i < 16 ? 0x0000ffffu : 0xffff0000u);
    y[i] = s[31 - i]; // expect: race
}
//sim launch good_half_warp grid=1 block=32 args=y:int[32]
__global__ void good_half_warp(int *y) {
    __shared__ int s[32];
    int i = threadIdx.x;
    s[i] = i;
    __syncwarp(i < 16 ? 0x0000ffffu : 0xffff0000u);
    y[i] = s[(i & 16) + 15 - (i & 15)];
}

//sim launch bad_same_place grid=1 block=64 args=y:int[4]
__global__ void bad_same_place(int *y) {
    y[threadIdx.x / 16] = int(threadIdx.x); // expect: race
}
//sim launch good_same_place grid=1 block=64 args=y:int[4]
__global__ void good_same_place(int *y) {
    if (threadIdx.x % 16 == 0)
        y[threadIdx.x / 16] = int(threadIdx.x);
}

//sim launch bad_count grid=2 block=32 args=bins:int[8]=zero
__global__ void bad_count(int *bins) {
    bins[threadIdx.x % 8] += 1; // expect: race
}
//sim launch good_count grid=2 block=32 args=bins:int[8]=zero
__global__ void good_count(int *bins) {
    atomicAdd(&bins[threadIdx.x % 8], 1);
}

/* An atomic on one side only. */
//sim launch bad_mixed grid=1 block=64 args=n:int[1]=zero
__global__ void bad_mixed(int *n) {
    if (threadIdx.x == 40)
        n[0] = 7; // expect: race
    else
        atomicAdd(n, 1); // expect: race
}
//sim launch good_mixed grid=1 block=64 args=n:int[1]=zero
__global__ void good_mixed(int *n) {
    if (threadIdx.x == 40)
        n[0] = 7;
    __syncthreads();
    if (threadIdx.x != 40)
        atomicAdd(n, 1);
}

/* Blocks that add to the same element, and that read their neighbour's. */
//sim launch bad_blocks grid=3 block=32 args=y:float[32]=zero,x:float[96]=random
__global__ void bad_blocks(float *y, const float *x) {
    y[threadIdx.x] +=                            // expect: race
        x[blockIdx.x * 32 + threadIdx.x];
}
//sim launch good_blocks grid=3 block=32 args=y:float[32]=zero,x:float[96]=random
__global__ void good_blocks(float *y, const float *x) {
    atomicAdd(&y[threadIdx.x],
              x[blockIdx.x * 32 + threadIdx.x]);
}

//sim launch bad_neighbour grid=4 block=32 args=y:int[128]=zero,z:int[128]
__global__ void bad_neighbour(int *y, int *z) {
    int i = blockIdx.x * 32 + threadIdx.x;
    y[i] = i; // expect: race
    __syncthreads();
    z[i] = y[(i + 32) % 128]; // expect: race
}
//sim launch good_neighbour grid=4 block=32 args=y:int[128]=zero,z:int[128]
__global__ void good_neighbour(int *y, int *z) {
    int i = blockIdx.x * 32 + threadIdx.x;
    y[i] = i;
    __syncthreads();
    z[i] = y[blockIdx.x * 32 + (i + 1) % 32];
}

/* The last block to finish adds up what all have written: right only with a
 * fence between the writing and the counting. */
//sim launch bad_last_block grid=6 block=64 args=part:float[6],sum:float[1],done:unsigned[1]=zero
__global__ void bad_last_block(float *part, float *sum, unsigned *done) {
    __shared__ bool last;
    if (threadIdx.x == 0) {
        part[blockIdx.x] = float(blockIdx.x); // expect: race
        last = atomicAdd(done, 1u) == gridDim.x - 1;
    }
    __syncthreads();
    if (last && threadIdx.x == 33) {
        sum[0] = 0;
        for (unsigned b = 0; b < gridDim.x; b++)
            sum[0] += part[b]; // expect: race
    }
}
//sim launch good_last_block grid=6 block=64 args=part:float[6],sum:float[1],done:unsigned[1]=zero
__global__ void good_last_block(float *part, float *sum, unsigned *done) {
    __shared__ bool last;
    if (threadIdx.x == 0) {
        part[blockIdx.x] = float(blockIdx.x);
        __threadfence();
        last = atomicAdd(done, 1u) == gridDim.x - 1;
    }
    __syncthreads();
    if (last && threadIdx.x == 33) {
        sum[0] = 0;
        for (unsigned b = 0; b < gridDim.x; b++)
            sum[0] += part[b];
    }
}

/* The same with every thread writing, and thread 0 counting for all. */
//sim launch bad_all_write grid=5 block=64 args=part:float[320],sum:float[1],done:unsigned[1]=zero
__global__ void bad_all_write(float *part, float *sum, unsigned *done) {
    __shared__ unsigned place;
    part[blockIdx.x * 64 + threadIdx.x] = 1; // expect: race
    __threadfence();
    if (threadIdx.x == 0)
        place = atomicAdd(done, 1u);
    __syncthreads();
    if (place == gridDim.x - 1 && threadIdx.x == 0) {
        sum[0] = 0;
        for (unsigned i = 0; i < gridDim.x * 64; i++)
            sum[0] += part[i]; // expect: race
    }
}
//sim launch good_all_write grid=5 block=64 args=part:float[320],sum:float[1],done:unsigned[1]=zero
__global__ void good_all_write(float *part, float *sum, unsigned *done) {
    __shared__ unsigned place;
    part[blockIdx.x * 64 + threadIdx.x] = 1;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0)
        place = atomicAdd(done, 1u);
    __syncthreads();
    if (place == gridDim.x - 1 && threadIdx.x == 0) {
        sum[0] = 0;
        for (unsigned i = 0; i < gridDim.x * 64; i++)
            sum[0] += part[i];
    }
}

/* One thread of each warp takes the lock. */
//sim launch bad_lock grid=2 block=128 args=lock:int[1]=zero,n:int[2]=zero
__global__ void bad_lock(int *lock, int *n) {
    if (threadIdx.x % 32 == 0) {
        while (atomicCAS(lock, 0, 1) != 0)
            ;
        n[threadIdx.x / 64] += 1; // expect: race
        atomicExch(lock, 0);
    }
}
//sim launch good_lock grid=2 block=128 args=lock:int[1]=zero,n:int[2]=zero
__global__ void good_lock(int *lock, int *n) {
    if (threadIdx.x % 32 == 0) {
        while (atomicCAS(lock, 0, 1) != 0)
            ;
        __threadfence();
        n[threadIdx.x / 64] += 1;
        __threadfence();
        atomicExch(lock, 0);
    }
}

/* A warp hands 32 numbers to another one of its block, which waits for a flag; all lanes must have
 * written before one of them raises it. */
//sim launch bad_near_flag block=64 args=data:int[32],flag:int[1]=zero,y:int[32]
__global__ void bad_near_flag(int *data, int *flag, int *y) {
    int lane = threadIdx.x % 32;
    if (threadIdx.x / 32 == 1) {
        data[lane] = lane; // expect: race
        if (lane == 0) {
            __threadfence_block();
            atomicExch(flag, 1);
        }
    } else {
        while (lane == 0 && atomicAdd(flag, 0) == 0)
            ;
        __threadfence_block();
        __syncwarp();
        y[lane] = data[31 - lane]; // expect: race
    }
}

//sim launch good_near_flag block=64 args=data:int[32],flag:int[1]=zero,y:int[32]
__global__ void good_near_flag(int *data, int *flag, int *y) {
    int lane = threadIdx.x % 32;
    if (threadIdx.x / 32 == 1) {
        data[lane] = lane;
        __syncwarp();
        if (lane == 0) {
            __threadfence_block();
            atomicExch(flag, 1);
        }
    } else {
        while (lane == 0 && atomicAdd(flag, 0) == 0)
            ;
        __threadfence_block();
        __syncwarp();
        y[lane] = data[31 - lane];
    }
}

/* The same across blocks: a fence for the block is too little. */
//sim launch bad_far_flag grid=2 block=32 args=data:int[32],flag:int[1]=zero,y:int[32]
__global__ void bad_far_flag(int *data, int *flag, int *y) {
    int lane = threadIdx.x % 32;
    if (blockIdx.x == 1) {
        data[lane] = lane; // expect: race
        __syncwarp();
        if (lane == 0) {
            __threadfence_block();
            atomicExch(flag, 1);
        }
    } else {
        while (lane == 0 && atomicAdd(flag, 0) == 0)
            ;
        __threadfence_block();
        __syncwarp();
        y[lane] = data[31 - lane]; // expect: race
    }
}

//sim launch good_far_flag grid=2 block=32 args=data:int[32],flag:int[1]=zero,y:int[32]
__global__ void good_far_flag(int *data, int *flag, int *y) {
    int lane = threadIdx.x % 32;
    if (blockIdx.x == 1) {
        data[lane] = lane;
        __syncwarp();
        if (lane == 0) {
            __threadfence();
            atomicExch(flag, 1);
        }
    } else {
        while (lane == 0 && atomicAdd(flag, 0) == 0)
            ;
        __threadfence();
        __syncwarp();
        y[lane] = data[31 - lane];
    }
}
