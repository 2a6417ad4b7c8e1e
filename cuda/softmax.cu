//@ top: Turn rows of scores into weights
/* The work of a softmax is memory traffic: a row is read, a row is written,
 * and exp costs little. So the versions differ in how often they read a row,
 * and in how many lanes of a warp share a sector.
 *
 *   k01  one thread a row, as one would write it in C
 *   k02  one warp a row: neighbouring lanes read neighbouring scores
 *   k03  one block a row, which stays in registers: one read of memory
 *   k04  rows of any length in two reads: maximum and sum in one go (online)
 *
 * Rows are those of attention: query i of n sees the keys 0..past+i. The sink
 * is one more logit without a key. It takes part in the maximum and in the
 * sum, and its share is the rest that the keys do not get. Plain softmax is
 * the one whose extra logit is minus infinity. */
#include "launch.h"

//@ row: Find a row, and the logit of its sink
/* Rows of all heads are numbered through: row = h * n + i. */
enum { BLOCK = 256, WARPS = BLOCK / 32, KEPT = 16 };

struct Row {
    const float *s;
    float *p;
    int visible, T;
    float logit;
    size_t at; /* index of s[0] in the whole array */
};

KV_DEVICE Row find_row(float *p, const float *s, const float *sink, int one,
                       int rows, int n, int past, size_t row,
                       kv_fault *fault) {
    Row r;
    r.T = past + n;
    r.at = row * r.T;
    r.s = s + r.at;
    r.p = p + r.at;
    r.visible = past + int(row % n) + 1;
    r.logit = sink ? sink[row / n] : one ? 0 : -INFINITY;
    if (sink && !kv_is_finite(r.logit))
        atomicMin(fault, kv_fault(rows) * r.T + row / n);
    return r;
}

//@ checked: Read a visible score and note one that is not finite
KV_DEVICE float score(const Row &r, int t, kv_fault *fault) {
    float s = r.s[t];
    if (!kv_is_finite(s))
        atomicMin(fault, kv_fault(r.at + t));
    return s;
}

/* exp(s - max); max is minus infinity where nothing is visible. */
KV_DEVICE float weight(float s, float max) {
    return s == -INFINITY ? 0 : expf(s - max);
}

//@ k01: Let one thread go through a row, three times
__global__ void k01(float *p, float *rest, const float *s, const float *sink,
                    int one, int rows, int n, int past,
                    kv_fault *fault) {
    size_t row = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (row >= size_t(rows))
        return;
    Row r = find_row(p, s, sink, one, rows, n, past, row, fault);
    float max = r.logit, sum;
    for (int t = 0; t < r.visible; t++)
        max = fmaxf(max, score(r, t, fault));
    float extra = weight(r.logit, max);
    sum = extra;
    for (int t = 0; t < r.visible; t++)
        sum += weight(r.s[t], max);
    for (int t = 0; t < r.T; t++)
        r.p[t] = t < r.visible ? weight(r.s[t], max) / sum : 0;
    if (rest)
        rest[row] = extra / sum;
}

//@ k02: Let the lanes of a warp share a row, so that sectors are used whole
__global__ void k02(float *p, float *rest, const float *s, const float *sink,
                    int one, int rows, int n, int past,
                    kv_fault *fault) {
    int lane = threadIdx.x % 32;
    size_t row = size_t(blockIdx.x) * WARPS + threadIdx.x / 32;
    if (row >= size_t(rows))
        return;
    Row r = find_row(p, s, sink, one, rows, n, past, row, fault);
    float max = r.logit, sum = 0;
    for (int t = lane; t < r.visible; t += 32)
        max = fmaxf(max, score(r, t, fault));
    max = kv_warp_max(max);
    for (int t = lane; t < r.visible; t += 32)
        sum += weight(r.s[t], max);
    float extra = weight(r.logit, max);
    sum = kv_warp_sum(sum) + extra;
    for (int t = lane; t < r.T; t += 32)
        r.p[t] = t < r.visible ? weight(r.s[t], max) / sum : 0;
    if (rest && lane == 0)
        rest[row] = extra / sum;
}

//@ block: Sum and find extremes within a block of 256 threads
/* Each warp leaves its result in shared memory, and all add up the eight in
 * the same order. part is used again by the next call, hence two barriers. */
KV_DEVICE float block_max(float x, float *part) {
    x = kv_warp_max(x);
    if (threadIdx.x % 32 == 0)
        part[threadIdx.x / 32] = x;
    __syncthreads();
    x = part[0];
    for (int i = 1; i < WARPS; i++)
        x = fmaxf(x, part[i]);
    __syncthreads();
    return x;
}

KV_DEVICE float block_sum(float x, float *part) {
    x = kv_warp_sum(x);
    if (threadIdx.x % 32 == 0)
        part[threadIdx.x / 32] = x;
    __syncthreads();
    x = part[0];
    for (int i = 1; i < WARPS; i++)
        x += part[i];
    __syncthreads();
    return x;
}

//@ k03: Keep the row in the registers of a block: one read
/* For rows of at most 256 x 16 scores. Beyond the visible ones a register
 * holds minus infinity, whose weight is 0. */
__global__ void k03(float *p, float *rest, const float *s, const float *sink,
                    int one, int rows, int n, int past,
                    kv_fault *fault) {
    __shared__ float part[WARPS];
    size_t row = blockIdx.x;
    Row r = find_row(p, s, sink, one, rows, n, past, row, fault);
    float x[KEPT], max = r.logit, sum = 0;
#pragma unroll
    for (int j = 0; j < KEPT; j++) {
        int t = j * BLOCK + threadIdx.x;
        x[j] = t < r.visible ? score(r, t, fault) : -INFINITY;
        max = fmaxf(max, x[j]);
    }
    max = block_max(max, part);
#pragma unroll
    for (int j = 0; j < KEPT; j++)
        sum += x[j] = weight(x[j], max);
    float extra = weight(r.logit, max);
    sum = block_sum(sum, part) + extra;
#pragma unroll
    for (int j = 0; j < KEPT; j++)
        if (j * BLOCK + int(threadIdx.x) < r.T)
            r.p[j * BLOCK + threadIdx.x] = x[j] / sum;
    if (rest && threadIdx.x == 0)
        rest[row] = extra / sum;
}

//@ online: Join two partial softmaxes
/* A pair (max, sum of exp(s - max)) stands for the scores seen so far. To
 * join two, the sum of the smaller maximum is scaled down. */
KV_DEVICE void join(float &max, float &sum, float other, float other_sum) {
    float most = fmaxf(max, other);
    sum = sum * weight(max, most) + other_sum * weight(other, most);
    max = most;
}

//@ k04: Find maximum and sum in one read, for rows of any length
__global__ void k04(float *p, float *rest, const float *s, const float *sink,
                    int one, int rows, int n, int past,
                    kv_fault *fault) {
    __shared__ float part[WARPS];
    size_t row = blockIdx.x;
    Row r = find_row(p, s, sink, one, rows, n, past, row, fault);
    float max = -INFINITY, sum = 0;
    for (int t = threadIdx.x; t < r.visible; t += BLOCK) {
        float x = score(r, t, fault);
        if (x > max)
            join(max, sum, x, 1);
        else
            sum += weight(x, max);
    }
    float most = block_max(fmaxf(max, r.logit), part);
    float extra = weight(r.logit, most);
    sum = block_sum(sum * weight(max, most), part) + extra;
    for (int t = threadIdx.x; t < r.T; t += BLOCK)
        r.p[t] = t < r.visible ? weight(r.s[t], most) / sum : 0;
    if (rest && threadIdx.x == 0)
        rest[row] = extra / sum;
}

//@ check: Refuse what cannot be launched
static int check_shape(int H, int n, int past, int version, kv_error *err) {
    const char *what = "softmax";
    const kv_size size[] = {{"the number of heads", H, 0},
                            {"the number of queries", n, 0},
                            {"the number of past tokens", past, 0}};
    const kv_size all[] = {{"heads", H, 0}, {"queries", n, 0},
                           {"scores in a row", (long long)past + n, 0}};
    if (kv_check_sizes(what, size, 3, err) ||
        kv_check_sizes(what, all, 3, err) ||
        kv_check_version(what, version, KV_CUDA_SOFTMAX_VERSIONS, err))
        return KV_FAIL_USAGE;
    long long T = (long long)past + n, rows = (long long)H * n;
    if (T > KV_INDEX_MAX || rows > KV_INDEX_MAX)
        return kv_refuse(err, KV_FAIL_USAGE, "softmax: %lld rows of %lld "
                         "scores; at most %d of each", rows, T, KV_INDEX_MAX);
    if (version == 3 && T > BLOCK * KEPT)
        return kv_refuse(err, KV_FAIL_USAGE, "softmax: version 3 keeps a row "
                         "of at most %d scores, not %lld", BLOCK * KEPT, T);
    return KV_OK;
}

//@ start: Start a version
static void start(int version, float *p, float *rest, const float *s,
                  const float *sink, int one, int rows, int n, int past,
                  kv_fault *fault) {
    if (version == 1)
        k01<<<kv_blocks(rows, BLOCK), BLOCK>>>(p, rest, s, sink, one, rows, n,
                                               past, fault);
    else if (version == 2)
        k02<<<kv_blocks(rows, WARPS), BLOCK>>>(p, rest, s, sink, one, rows, n,
                                               past, fault);
    else if (version == 3)
        k03<<<rows, BLOCK>>>(p, rest, s, sink, one, rows, n, past, fault);
    else
        k04<<<rows, BLOCK>>>(p, rest, s, sink, one, rows, n, past, fault);
}

//@ launcher: Choose a version by the length of a row
/* A warp has enough to do with short rows; longer ones occupy a block. */
extern "C" int kv_cuda_softmax(float *p, float *rest, const float *s,
                               const float *sink, kv_softmax_kind kind, int H,
                               int n, int past, kv_fault *fault, int version,
                               kv_error *err) {
    const char *what = "softmax";
    if (check_shape(H, n, past, version, err))
        return KV_FAIL_USAGE;
    if (H == 0 || n == 0)
        return KV_OK;
    if (kind < KV_SOFTMAX_PLAIN || kind > KV_SOFTMAX_LEARNED)
        return kv_refuse(err, KV_FAIL_USAGE, "softmax: there is no kind %d",
                         int(kind));
    if ((kind == KV_SOFTMAX_LEARNED) != (sink != nullptr))
        return kv_refuse(err, KV_FAIL_USAGE, "softmax: sink logits are given "
                         "for the learned kind, and for no other");
    if (kv_check_pointer(what, "p", p, 4, err) ||
        kv_check_pointer(what, "s", s, 4, err) ||
        kv_check_pointer(what, "fault", fault, 8, err))
        return KV_FAIL_USAGE;
    int T = past + n, rows = H * n, one = kind == KV_SOFTMAX_ONE;
    if (!version)
        version = T <= 256 ? 2 : T <= BLOCK * KEPT ? 3 : 4;
    start(version, p, rest, s, sink, one, rows, n, past, fault);
    return kv_launched(what, err);
}
