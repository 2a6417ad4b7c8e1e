/* Words of CUDA, and ways to say a thing, that this book's own kernels have no use for. */
#include "kv.cuh"

__device__ __noinline__ float squared(float a) { return a * a; }

//sim launch good_choices grid=3 block=32 args=x:int[90]=index,y:float[90],n:int=90
__global__ void good_choices(const int *x, float *y, int n) {
    int left = min(n - blockIdx.x * blockDim.x, blockDim.x), t = max(threadIdx.x, 0);
    bool odd = isnan(float(t)) || isinf(float(t)) || !isfinite(float(t));
    if (t < min(left, 32u) && !odd)
        y[blockIdx.x * 32 + t] = squared(float(x[blockIdx.x * 32 + t]));
}

//sim launch good_integers block=64 args=error:int[1]=zero
__global__ void good_integers(int *error) {
    long long v = 1ll << threadIdx.x;
    if (__ffsll(v) != int(threadIdx.x) + 1 || __clzll(v) != 63 - int(threadIdx.x) || __ffsll(0) ||
        __clzll(0) != 64)
        error[-1] = 1; /* found, if it happens */
}

//sim launch good_lanes block=64 args=n:int[1]=zero,y:int[64]=zero
__global__ void good_lanes(int *n, int *y) {
    int t = int(threadIdx.x), lane = t % 32, all;
    if (lane % 3 == 0) {
        unsigned mask = __activemask();
        int leader = __ffs(int(mask)) - 1, base = 0;
        if (lane == leader)
            base = atomicAdd(n, __popc(mask));
        y[__shfl_sync(mask, base, leader) + __popc(mask & ((1u << lane) - 1))] = t;
    }
    unsigned same = __match_all_sync(0xffffffffu, t / 32, &all);
    unsigned other = __match_all_sync(0xffffffffu, t, &all);
    if (same != 0xffffffffu || other || all)
        n[-1] = 1;
}

//sim launch good_shared<float> block=32 args=y:float[32]
template <class T> __global__ void good_shared(T *y) {
    __shared__ struct {
        int n; // of something; and
        T f[2];
    } s;
    T __shared__ a[32];
    alignas(16) __shared__ T b[2][32], c;
    __shared__ union {
        int i[32];
        float f[32];
    } u;
    int t = int(threadIdx.x);
    a[t] = T(t);
    b[0][t] = b[1][t] = T(1);
    u.f[t] = 1;
    if (t == 0) {
        s.n = 3;
        s.f[1] = c = T(2);
    }
    __syncthreads();
    y[t] = a[31 - t] + b[1][31 - t] + c + s.f[1] + T(s.n + u.i[31 - t]);
}

/* Between c and v, and after s, lie bytes that belong to nobody. */
struct Mixed {
    char c;
    double v;
    short s;
};
//sim launch good_gaps block=32 args=a:Mixed[32],b:Mixed[32]
__global__ void good_gaps(Mixed *a, Mixed *b) {
    a[threadIdx.x].c = 'x';
    a[threadIdx.x].v = 1;
    a[threadIdx.x].s = 3;
    b[threadIdx.x] = a[threadIdx.x];
}
//sim launch bad_gaps block=32 args=a:Mixed[32],b:Mixed[32]
__global__ void bad_gaps(Mixed *a, Mixed *b) {
    b[threadIdx.x] = a[threadIdx.x]; // expect: uninitialised
}

//sim launch good_pairs block=32 args=x:half2[32]=random,y:half2[32]
__global__ void good_pairs(const half2 *x, half2 *y) {
    half2 v = x[threadIdx.x];
    y[threadIdx.x] = v * v + v - v;
}

//sim launch good_bytes grid=3,2 block=8,4 args=y:unsigned char[192]=7,w:int=24
__global__ void good_bytes(unsigned char *y, int w) {
    int i = (blockIdx.y * 4 + threadIdx.y) * w + blockIdx.x * 8 + threadIdx.x;
    y[i] = 255 - y[i];
}
