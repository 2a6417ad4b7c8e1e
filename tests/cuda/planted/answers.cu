/* Kernels that check their own answers: what lanes exchange, what atomics
 * leave, where copies arrive. A wrong answer writes outside of y. */
#include "kv.cuh"

KV_DEVICE void check(int *y, bool right) {
    if (!right)
        y[1000000] = 1;
}

//sim launch good_shuffles grid=1 block=64 args=y:int[1]
__global__ void good_shuffles(int *y) {
    const unsigned all = 0xffffffffu;
    int i = threadIdx.x % 32, s = i & ~7;
    check(y, __shfl_sync(all, i * i, 5) == 25);
    check(y, __shfl_sync(all, i, i + 9) == (i + 9) % 32);
    check(y, __shfl_sync(all, i, 3, 8) == s + 3);
    check(y, __shfl_up_sync(all, i, 3) == (i < 3 ? i : i - 3));
    check(y, __shfl_up_sync(all, i, 2, 8) == (i - 2 < s ? i : i - 2));
    check(y, __shfl_down_sync(all, i, 5) == (i + 5 > 31 ? i : i + 5));
    check(y, __shfl_down_sync(all, i, 5, 8) == (i + 5 > s + 7 ? i : i + 5));
    check(y, __shfl_xor_sync(all, i, 21) == (i ^ 21));
    check(y, __shfl_xor_sync(all, i, 12, 8) == ((i ^ 12) < s + 8 ? i ^ 12 : i));
    check(y, __shfl_xor_sync(all, double(i), 1) == double(i ^ 1));
    long long big = 1234567890123ll * i;
    check(y, __shfl_sync(all, big, 7) == 1234567890123ll * 7);
    check(y, kv_warp_sum(float(i)) == 496);
    check(y, kv_warp_max(float(i) - 40) == -9);
}

//sim launch good_votes grid=1 block=48 args=y:int[1]
__global__ void good_votes(int *y) {
    int i = threadIdx.x % 32, lanes = threadIdx.x < 32 ? 32 : 16;
    unsigned all = lanes == 32 ? 0xffffffffu : 0xffffu;
    check(y, __ballot_sync(all, i % 3 == 0) == (0x49249249u & all));
    check(y, __any_sync(all, i == 9) && !__any_sync(all, i == 40));
    check(y, __all_sync(all, i < 32) && !__all_sync(all, i != 9));
    unsigned same = __match_any_sync(all, i / 4);
    check(y, same == 15u << (i / 4 * 4));
    check(y, __syncthreads_count(threadIdx.x < 20) == 20);
    check(y, __syncthreads_or(threadIdx.x == 47) != 0);
    check(y, __syncthreads_and(threadIdx.x != 47) == 0);
    if (i % 2)
        check(y, __ballot_sync(0xaaaaaaaau & all, 1) == (0xaaaaaaaau & all));
}

//sim launch good_atomics grid=5 block=64 args=n:int[8]=zero,f:float[1]=zero,u:unsigned[2]=zero,y:int[1]
__global__ void good_atomics(int *n, float *f, unsigned *u, int *y) {
    int i = blockIdx.x * 64 + threadIdx.x;
    atomicAdd(&n[0], 1);
    atomicMax(&n[1], i);
    atomicMin(&n[2], -i);
    atomicOr(&n[3], 1 << i % 20);
    atomicXor(&n[4], 1 << i % 20);
    atomicSub(&n[5], 2);
    atomicAdd(f, 0.5f);
    atomicInc(&u[0], 6);
    int old = 0, seen;
    do {
        seen = old;
        old = atomicCAS(&n[6], seen, seen + 3);
    } while (old != seen);
    check(y, atomicExch(&n[7], i) < 320);
}
//sim launch good_atomic_results grid=1 block=1 args=n,f,u,y:int[1]
__global__ void good_atomic_results(const int *n, const float *f,
                                    const unsigned *u, int *y) {
    check(y, n[0] == 320 && n[1] == 319 && n[2] == -319);
    check(y, n[3] == (1 << 20) - 1 && n[4] == 0 && n[5] == -640);
    check(y, n[6] == 960 && f[0] == 160 && u[0] == 320 % 7);
}

/* A lock that the next block waits for: several are in flight. */
//sim launch good_turns grid=6 block=1 args=turn:unsigned[1]=zero,y:int[1]
__global__ void good_turns(unsigned *turn, int *y) {
    while (atomicAdd(turn, 0u) % 6 != blockIdx.x && gridDim.x < 7)
        ;
    check(y, atomicAdd(turn, 1u) % 6 == blockIdx.x);
}

//sim launch good_arrival grid=2 block=32 args=y:int[1],x:int4[64]=index
__global__ void good_arrival(int *y, const int4 *x) {
    __shared__ int4 s[2][32];
    int i = threadIdx.x, b = 32 * blockIdx.x;
    __pipeline_memcpy_async(&s[0][i], &x[b + i], 16);
    __pipeline_commit();
    __pipeline_memcpy_async(&s[1][i], &x[b + 31 - i], 16, 8);
    __pipeline_commit();
    __pipeline_wait_prior(1);
    check(y, s[0][i].x == b + i && s[0][i].w == b + i);
    __pipeline_wait_prior(0);
    __syncthreads();
    check(y, s[1][31 - i].y == b + i && s[1][31 - i].z == 0);
}

template <int A, int B> struct pair_of { int a[A], b[B]; };

/* Declarations of shared memory in all their forms. */
//sim launch good_forms<4,8> grid=3,2 block=8,4 smem=64 args=y:int[1]
template <int A, int B> __global__ void __launch_bounds__(32)
good_forms(int *y) {
    volatile __shared__ int v[A], w[A][B + 1];
    __shared__ __align__(16) pair_of<A, B> p;
    __shared__ float2 one;
    extern __shared__ __align__(16) short d[];
    int i = threadIdx.x, j = threadIdx.y;
    d[8 * j + i] = short(i);
    w[j][i] = i + j;
    if (i == 0) {
        v[j] = p.a[j] = int(blockIdx.x);
        p.b[j] = int(blockIdx.y);
    }
    if (i == 0 && j == 0)
        one = make_float2(1, 2);
    __syncthreads();
    check(y, v[A - 1 - j] == int(blockIdx.x) && w[3 - j][7 - i] == 10 - i - j);
    check(y, p.b[(j + 1) % 4] == int(blockIdx.y) && one.y == 2);
    check(y, d[8 * (3 - j) + i] == i && sizeof w == A * (B + 1) * 4);
    check(y, blockDim.x == 8 && gridDim.y == 2 && gridDim.z == 1);
}

//sim launch good_half grid=1 block=32 args=y:int[1],h:half2[32]=zero
__global__ void good_half(int *y, half2 *h) {
    int i = threadIdx.x;
    h[i] = __floats2half2_rn(float(i), 0.5f); // expect: sectors=4
    __syncwarp();
    half2 v = h[i ^ 1];                       // expect: sectors=4
    i ^= 1;
    float2 f = __half22float2(__hfma2(v, v, __float2half2_rn(1)));
    check(y, f.x == float(i * i + 1) && f.y == 1.25f);
    check(y, __low2float(v) == float(i) && __high2float(v) == 0.5f);
}
