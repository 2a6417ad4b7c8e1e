//@ top: Measure the attention that each key receives
/* alpha of a key is the mean of its column of the attention matrix, from the
 * diagonal down: a sum per column, over rows that lie T floats apart. Columns
 * of neighbouring keys are neighbours in memory, so lanes take one column
 * each, and warps share the queries.
 *
 *   k01  one thread a key: it walks down its column
 *   k02  eight warps share a column's queries, so eight times the loads are
 *        under way
 *   k03  each lane takes four columns, with loads of 16 bytes
 *
 * The sums are in double. Memory is what limits, and the order of additions
 * then shows in the last digits only. */
#include "launch.h"

enum { WARPS = 8, BLOCK = 32 * WARPS };

//@ checked: Read a weight and note one that is not finite
KV_DEVICE double checked(float weight, size_t index, kv_fault *fault) {
    if (!kv_is_finite(weight))
        atomicMin(fault, kv_fault(index));
    return double(weight);
}

//@ k01: Let one thread walk down a column
/* Each lane starts at its own diagonal, so that lanes are in 32 different rows
 * and share no sector. */
__global__ void k01(double *alpha, const float *rows, int T, kv_fault *fault) {
    int k = blockIdx.x * BLOCK + threadIdx.x;
    size_t h = blockIdx.y, at = h * T * T;
    if (k >= T)
        return;
    double sum = 0;
    for (int i = k; i < T; i++)
        sum += checked(rows[at + size_t(i) * T + k], at + size_t(i) * T + k,
                       fault);
    alpha[h * T + k] = sum / (T - k);
}

//@ k02: Let eight warps share the queries of 32 keys
/* Queries before the first of these keys see none of them: the walk starts
 * at the diagonal. */
__global__ void k02(double *alpha, const float *rows, int T, kv_fault *fault) {
    __shared__ double part[WARPS][32];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int first = blockIdx.x * 32, k = first + lane;
    size_t h = blockIdx.y, at = h * T * T;
    double sum = 0;
    for (int i = first + warp; i < T; i += WARPS)
        if (k <= i)
            sum += checked(rows[at + size_t(i) * T + k],
                           at + size_t(i) * T + k, fault);
    part[warp][lane] = sum;
    __syncthreads();
    if (warp || k >= T)
        return;
    for (int w = 1; w < WARPS; w++)
        sum += part[w][lane];
    alpha[h * T + k] = sum / (T - k);
}

//@ four: Add four weights of a row, those beyond the diagonal left out
struct Four {
    double x[4];
};

KV_DEVICE void add_four(Four &sum, float4 w, int k, int i, size_t index,
                        kv_fault *fault) {
    const float x[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
    for (int j = 0; j < 4; j++)
        if (k + j <= i)
            sum.x[j] += checked(x[j], index + j, fault);
}

//@ k03: Load 16 bytes a lane
/* T is a multiple of 4, so that every row starts at a multiple of 16 bytes. A
 * row of 36 doubles in shared memory puts four lanes of each warp, and the
 * four sums of a lane, into different banks.
 * The blocks of a head's late keys have little to do and those of the first
 * keys much, so blocks start with the first keys. */
__global__ void k03(double *alpha, const float *rows, int T, kv_fault *fault) {
    __shared__ double part[WARPS][4][36];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int first = blockIdx.x * 128, k = first + 4 * lane;
    size_t h = blockIdx.y, at = h * T * T;
    Four sum = {};
    for (int i = first + warp; i < T; i += WARPS) {
        size_t index = at + size_t(i) * T + k;
        if (k <= i)
            add_four(sum, *reinterpret_cast<const float4 *>(rows + index), k,
                     i, index, fault);
    }
#pragma unroll
    for (int j = 0; j < 4; j++)
        part[warp][j][lane] = sum.x[j];
    __syncthreads();
    k = first + int(threadIdx.x);
    if (threadIdx.x >= 128 || k >= T)
        return;
    double all = 0;
    for (int w = 0; w < WARPS; w++)
        all += part[w][threadIdx.x % 4][threadIdx.x / 4];
    alpha[h * T + k] = all / (T - k);
}

//@ start: Start a version
static void start(int version, double *alpha, const float *rows, int H, int T,
                  kv_fault *fault) {
    if (version == 1)
        k01<<<dim3(kv_blocks(T, BLOCK), H), BLOCK>>>(alpha, rows, T, fault);
    else if (version == 2)
        k02<<<dim3(kv_blocks(T, 32), H), BLOCK>>>(alpha, rows, T, fault);
    else
        k03<<<dim3(kv_blocks(T, 128), H), BLOCK>>>(alpha, rows, T, fault);
}

//@ launcher: Choose by shape and start
/* A grid's second axis ends at 65535 blocks. */
extern "C" int kv_cuda_sink_alpha(double *alpha, const float *rows, int H,
                                  int T, kv_fault *fault, int version,
                                  kv_error *err) {
    const char *what = "sink metric";
    const kv_size size[] = {{"the number of heads", H, 0},
                            {"the number of tokens", T, 0},
                            {"the number of tokens", T, 0}};
    if (kv_check_sizes(what, size, 3, err) ||
        kv_check_version(what, version, KV_CUDA_ALPHA_VERSIONS, err))
        return KV_FAIL_USAGE;
    if (H == 0 || T == 0)
        return KV_OK;
    if (H > 65535)
        return kv_refuse(err, KV_FAIL_USAGE, "%s: %d heads; at most 65535 at "
                         "once", what, H);
    if (version == 3 && T % 4)
        return kv_refuse(err, KV_FAIL_USAGE, "%s: version 3 needs rows of a "
                         "multiple of 4 keys, not %d", what, T);
    if (kv_check_pointer(what, "alpha", alpha, 8, err) ||
        kv_check_pointer(what, "rows", rows, version == 3 ? 16 : 4, err) ||
        kv_check_pointer(what, "fault", fault, 8, err))
        return KV_FAIL_USAGE;
    bool wide = T % 4 == 0 && reinterpret_cast<uintptr_t>(rows) % 16 == 0;
    if (!version)
        version = wide ? 3 : 2;
    start(version, alpha, rows, H, T, fault);
    return kv_launched(what, err);
}
