//@ top: Find extreme activations, and the median they tower over
/* Two questions about the hidden states x [rows][cols] of a layer: which is
 * the largest magnitude of each token and of each channel, and what is the
 * median of all magnitudes. Both are asked of every layer, so both should
 * read x as few times as possible.
 *
 * Peaks. A maximum does not depend on the order of its comparisons if no two
 * candidates are equal. So a magnitude, its place and its sign are put into
 * one 64-bit number (kv_peak in kv_cuda.h), and atomicMax does the rest.
 *
 *   k01  one thread an element, two atomics each
 *   k02  one warp a token: its maximum is found by shuffles, one atomic
 *   k03  a block takes a tile of tokens and channels with loads of 16 bytes;
 *        a channel's maximum stays in registers until the tile ends
 *
 * Median. The bits of a float without its sign, read as an integer, order
 * magnitudes. So the median is found digit by digit, without sorting: count
 * how often each leading digit occurs, see in which the median must lie, and
 * go on with the next digit among those. Three digits of 11, 10 and 10 bits.
 *
 *   m01  one atomic on the global histogram for each element
 *   m02  a histogram in shared memory for each block, added up at its end
 *   m03  loads of 16 bytes, and lanes with the same digit count together */
#include "launch.h"

enum { WARPS = 8, BLOCK = 32 * WARPS };

//@ key: Put magnitude, place and sign into one number
KV_DEVICE kv_peak key_of(float x, int place) {
    unsigned size = __float_as_uint(fabsf(x));
    unsigned rest = (0x7fffffffu - unsigned(place)) << 1 | (x < 0 ? 1 : 0);
    return kv_peak(size) << 32 | rest;
}

KV_DEVICE kv_peak warp_max_key(kv_peak key) {
#pragma unroll
    for (int i = 16; i; i >>= 1)
        key = max(key, __shfl_xor_sync(0xffffffffu, key, i));
    return key;
}

KV_DEVICE float checked(float x, size_t index, kv_fault *fault) {
    if (!kv_is_finite(x))
        atomicMin(fault, kv_fault(index));
    return x;
}

//@ k01: Let every element try for both maxima
__global__ void k01(kv_peak *token, kv_peak *channel, const float *x, int rows,
                    int cols, kv_fault *fault) {
    size_t i = size_t(blockIdx.x) * BLOCK + threadIdx.x;
    if (i >= size_t(rows) * cols)
        return;
    int t = int(i / cols), c = int(i % cols);
    float v = checked(x[i], i, fault);
    atomicMax(&token[t], key_of(v, c));
    atomicMax(&channel[c], key_of(v, t));
}

//@ k02: Let a warp find the maximum of its token
__global__ void k02(kv_peak *token, kv_peak *channel, const float *x, int rows,
                    int cols, kv_fault *fault) {
    int t = blockIdx.x * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (t >= rows)
        return;
    kv_peak best = 0;
    for (int c = lane; c < cols; c += 32) {
        size_t i = size_t(t) * cols + c;
        float v = checked(x[i], i, fault);
        best = max(best, key_of(v, c));
        atomicMax(&channel[c], key_of(v, t));
    }
    best = warp_max_key(best);
    if (lane == 0)
        token[t] = best;
}

//@ tile: Take four channels of one token
enum { TILE_TOKENS = 64, TILE_CHANNELS = 128 };

struct Four {
    kv_peak key[4];
};

/* The best of four for the token; each of the four for its channel. */
KV_DEVICE kv_peak take_four(Four &best, float4 v, int t, int c, size_t index,
                            kv_fault *fault) {
    const float x[4] = {v.x, v.y, v.z, v.w};
    kv_peak here = 0;
#pragma unroll
    for (int j = 0; j < 4; j++) {
        float y = checked(x[j], index + j, fault);
        best.key[j] = max(best.key[j], key_of(y, t));
        here = max(here, key_of(y, c + j));
    }
    return here;
}

//@ finish-tile: Join the maxima of a tile's channels
typedef kv_peak Part[WARPS][4][36]; /* 36: four rows, four banks */

KV_DEVICE void finish_tile(kv_peak *channel, const Four &best, Part part,
                           int cols) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, i = threadIdx.x;
    int c = blockIdx.x * TILE_CHANNELS + i;
#pragma unroll
    for (int j = 0; j < 4; j++)
        part[warp][j][lane] = best.key[j];
    __syncthreads();
    if (i >= TILE_CHANNELS || c >= cols)
        return;
    kv_peak most = part[0][i % 4][i / 4];
    for (int w = 1; w < WARPS; w++)
        most = max(most, part[w][i % 4][i / 4]);
    atomicMax(&channel[c], most);
}

//@ k03: Let a block take a tile, and touch each maximum once
__global__ void k03(kv_peak *token, kv_peak *channel, const float *x, int rows,
                    int cols, kv_fault *fault) {
    __shared__ Part part;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int c = blockIdx.x * TILE_CHANNELS + 4 * lane;
    Four best = {};
    for (int i = warp; i < TILE_TOKENS; i += WARPS) {
        int t = blockIdx.y * TILE_TOKENS + i;
        if (t >= rows)
            break;
        kv_peak here = 0;
        size_t at = size_t(t) * cols + c;
        if (c < cols)
            here = take_four(best, *reinterpret_cast<const float4 *>(x + at),
                             t, c, at, fault);
        here = warp_max_key(here);
        if (lane == 0)
            atomicMax(&token[t], here);
    }
    finish_tile(channel, best, part, cols);
}

//@ peaks-check: Refuse peaks of what cannot be
static int check_peaks(const kv_peak *token, const kv_peak *channel,
                       const float *x, int rows, int cols,
                       const kv_fault *fault, int version, kv_error *err) {
    const char *what = "peaks";
    const kv_size size[] = {{"the number of tokens", rows, 0},
                            {"the number of channels", cols, 0}};
    if (kv_check_sizes(what, size, 2, err) ||
        kv_check_version(what, version, KV_CUDA_PEAKS_VERSIONS, err))
        return KV_FAIL_USAGE;
    if (rows > TILE_TOKENS * 65535 || cols > KV_INDEX_MAX ||
        (double)rows * cols > KV_INDEX_MAX * (double)BLOCK)
        return kv_refuse(err, KV_FAIL_USAGE, "%s: %d x %d; at most %d tokens, "
                         "and %.0f elements", what, rows, cols,
                         TILE_TOKENS * 65535, KV_INDEX_MAX * (double)BLOCK);
    if (version == 3 && cols % 4)
        return kv_refuse(err, KV_FAIL_USAGE, "%s: version 3 needs a multiple "
                         "of 4 channels, not %d", what, cols);
    if (rows == 0 || cols == 0)
        return KV_OK;
    return kv_check_pointer(what, "token", token, 8, err) ||
                   kv_check_pointer(what, "channel", channel, 8, err) ||
                   kv_check_pointer(what, "x", x, version == 3 ? 16 : 4,
                                    err) ||
                   kv_check_pointer(what, "fault", fault, 8, err)
               ? KV_FAIL_USAGE
               : KV_OK;
}

//@ peaks-launcher: Empty the maxima, choose a version and start
extern "C" int kv_cuda_peaks(kv_peak *token, kv_peak *channel, const float *x,
                             int rows, int cols, kv_fault *fault, int version,
                             kv_error *err) {
    if (check_peaks(token, channel, x, rows, cols, fault, version, err))
        return KV_FAIL_USAGE;
    if (rows == 0 || cols == 0)
        return KV_OK;
    cudaMemsetAsync(token, 0, size_t(rows) * sizeof *token);
    cudaMemsetAsync(channel, 0, size_t(cols) * sizeof *channel);
    bool wide = cols % 4 == 0 && reinterpret_cast<uintptr_t>(x) % 16 == 0;
    if (!version)
        version = wide ? 3 : 2;
    dim3 tiles(kv_blocks(cols, TILE_CHANNELS), kv_blocks(rows, TILE_TOKENS));
    if (version == 1)
        k01<<<kv_blocks(size_t(rows) * cols, BLOCK), BLOCK>>>(
            token, channel, x, rows, cols, fault);
    else if (version == 2)
        k02<<<kv_blocks(rows, WARPS), BLOCK>>>(token, channel, x, rows, cols,
                                               fault);
    else
        k03<<<tiles, BLOCK>>>(token, channel, x, rows, cols, fault);
    return kv_launched("peaks", err);
}

//@ select: Hold what is known about the two middle magnitudes
/* An odd count has one middle element, which is then looked for twice. Known
 * of each: its leading bits, and its rank among the elements that share them.
 * While the bits are the same, one histogram serves both. */
enum { BINS = 2048 };

struct Select {
    unsigned prefix[2];
    unsigned rank[2];
};

struct Work {
    unsigned histogram[2][BINS];
    Select select;
};

static_assert(sizeof(Work) <= KV_CUDA_MEDIAN_WORK, "");

/* The digit of x, and in which histograms it counts (bits 0 and 1). */
KV_DEVICE int digit_of(float x, const Select &s, int shift, int width,
                       int *which) {
    unsigned size = __float_as_uint(fabsf(x)), high = size >> (shift + width);
    *which = (high == s.prefix[0] ? 1 : 0) |
             (high == s.prefix[1] && s.prefix[0] != s.prefix[1] ? 2 : 0);
    return int(size >> shift & ((1u << width) - 1));
}

//@ m01: Count each element in global memory
__global__ void m01(Work *work, const float *x, size_t n, int shift, int width,
                    kv_fault *fault) {
    size_t i = size_t(blockIdx.x) * BLOCK + threadIdx.x;
    if (i >= n)
        return;
    int which, digit = digit_of(checked(x[i], i, fault), work->select, shift,
                                width, &which);
    if (which & 1)
        atomicAdd(&work->histogram[0][digit], 1u);
    if (which & 2)
        atomicAdd(&work->histogram[1][digit], 1u);
}

//@ shared-histogram: Keep a histogram in shared memory
KV_DEVICE void empty(unsigned *histogram) {
    for (int i = threadIdx.x; i < 2 * BINS; i += BLOCK)
        histogram[i] = 0;
    __syncthreads();
}

KV_DEVICE void add_up(Work *work, const unsigned *histogram) {
    __syncthreads();
    for (int i = threadIdx.x; i < 2 * BINS; i += BLOCK)
        if (histogram[i])
            atomicAdd(&work->histogram[0][0] + i, histogram[i]);
}

//@ m02: Count in shared memory
/* A block walks over the array with the stride of the grid, so that few
 * histograms have to be added up. */
__global__ void m02(Work *work, const float *x, size_t n, int shift, int width,
                    kv_fault *fault) {
    __shared__ unsigned histogram[2 * BINS];
    empty(histogram);
    const Select s = work->select;
    size_t step = size_t(gridDim.x) * BLOCK;
    for (size_t i = size_t(blockIdx.x) * BLOCK + threadIdx.x; i < n;
         i += step) {
        int which, digit = digit_of(checked(x[i], i, fault), s, shift, width,
                                    &which);
        if (which & 1)
            atomicAdd(&histogram[digit], 1u);
        if (which & 2)
            atomicAdd(&histogram[BINS + digit], 1u);
    }
    add_up(work, histogram);
}

//@ together: Let lanes with the same digit count as one
/* Most magnitudes have one of a few exponents, so most lanes of a warp want
 * the same bin, and atomics on one address queue up. */
KV_DEVICE void count_together(unsigned *histogram, float x, const Select &s,
                              int shift, int width, bool there) {
    int which = 0, digit = 0;
    if (there)
        digit = digit_of(x, s, shift, width, &which);
    int bin = which == 0 ? -1 : which == 1 ? digit : BINS + digit;
    unsigned same = __match_any_sync(0xffffffffu, bin);
    if (bin >= 0 && __ffs(int(same)) - 1 == int(threadIdx.x % 32))
        atomicAdd(&histogram[bin], unsigned(__popc(same)));
}

//@ m03: Load 16 bytes a lane, and count together
/* n / 4 vectors, and the up to three elements behind them, which the first
 * block looks at. Loops run equally often for all lanes of a warp. */
__global__ void m03(Work *work, const float *x, size_t n, int shift, int width,
                    kv_fault *fault) {
    __shared__ unsigned histogram[2 * BINS];
    empty(histogram);
    const Select s = work->select;
    size_t vectors = n / 4, step = size_t(gridDim.x) * BLOCK;
    size_t i = size_t(blockIdx.x) * BLOCK + threadIdx.x;
    for (size_t first = i - threadIdx.x % 32; first < vectors;
         first += step, i += step) {
        bool there = i < vectors;
        float4 v = make_float4(0, 0, 0, 0);
        if (there)
            v = reinterpret_cast<const float4 *>(x)[i];
        const float y[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int j = 0; j < 4; j++)
            count_together(histogram, checked(y[j], 4 * i + j, fault), s,
                           shift, width, there);
    }
    size_t last = 4 * vectors + threadIdx.x;
    if (blockIdx.x == 0 && threadIdx.x < 32)
        count_together(histogram, last < n ? checked(x[last], last, fault) : 0,
                       s, shift, width, last < n);
    add_up(work, histogram);
}

//@ find-bin: Find the bin in which a rank lies
enum { EACH = BINS / BLOCK }; /* bins of a thread */

/* Rank counts from 0. Returns to one thread only that it has found it. */
KV_DEVICE bool find_bin(const unsigned *histogram, unsigned rank, int *part,
                        unsigned *bin, unsigned *left) {
    unsigned mine = 0;
    for (int i = 0; i < EACH; i++)
        mine += histogram[threadIdx.x * EACH + i];
    int total;
    unsigned before =
        unsigned(kv_block_scan<WARPS>(int(mine), part, total)) - mine;
    if (rank < before || rank - before >= mine)
        return false;
    rank -= before;
    int i = 0;
    while (rank >= histogram[threadIdx.x * EACH + i])
        rank -= histogram[threadIdx.x * EACH + i++];
    *bin = threadIdx.x * EACH + i;
    *left = rank;
    return true;
}

//@ pick: Add a digit to what is known, and empty the histograms
/* After the last digit the prefixes are the two middle magnitudes. */
__global__ void pick(Work *work, float *median, int width, int last) {
    __shared__ int part[WARPS];
    __shared__ Select next;
    const Select s = work->select;
    for (int j = 0; j < 2; j++) {
        int which = s.prefix[0] == s.prefix[1] ? 0 : j;
        unsigned bin, left;
        if (find_bin(work->histogram[which], s.rank[j], part, &bin, &left)) {
            next.prefix[j] = s.prefix[j] << width | bin;
            next.rank[j] = left;
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < 2 * BINS; i += BLOCK)
        (&work->histogram[0][0])[i] = 0;
    if (threadIdx.x)
        return;
    work->select = next;
    double lower = double(__uint_as_float(next.prefix[0]));
    if (last)
        *median = float((lower + __uint_as_float(next.prefix[1])) / 2);
}

//@ begin: Set the ranks of the two middle elements
__global__ void begin(Work *work, unsigned n) {
    for (int i = threadIdx.x; i < 2 * BINS; i += BLOCK)
        (&work->histogram[0][0])[i] = 0;
    if (threadIdx.x == 0)
        work->select = Select{{0, 0}, {(n - 1) / 2, n / 2}};
}

//@ median-check: Refuse a median of what cannot be
static int check_median(const float *median, const float *x, size_t n,
                        const void *work, const kv_fault *fault, int version,
                        kv_error *err) {
    const char *what = "median";
    if (kv_check_version(what, version, KV_CUDA_MEDIAN_VERSIONS, err))
        return KV_FAIL_USAGE;
    if (n > size_t(KV_INDEX_MAX))
        return kv_refuse(err, KV_FAIL_USAGE, "median of %zu elements; at most "
                         "%d", n, KV_INDEX_MAX);
    return kv_check_pointer(what, "median", median, 4, err) ||
                   kv_check_pointer(what, "work", work, 8, err) ||
                   kv_check_pointer(what, "fault", fault, 8, err) ||
                   (n && kv_check_pointer(what, "x", x, version == 3 ? 16 : 4,
                                          err))
               ? KV_FAIL_USAGE
               : KV_OK;
}

//@ count: Start a version of counting
/* At most 1024 blocks, so that few histograms are added up. */
static void count(int version, Work *work, const float *x, size_t n, int shift,
                  int width, kv_fault *fault) {
    unsigned blocks = kv_blocks(n, version == 3 ? 4 * BLOCK : BLOCK);
    unsigned few = blocks < 1024 ? blocks : 1024;
    if (version == 1)
        m01<<<blocks, BLOCK>>>(work, x, n, shift, width, fault);
    else if (version == 2)
        m02<<<few, BLOCK>>>(work, x, n, shift, width, fault);
    else
        m03<<<few, BLOCK>>>(work, x, n, shift, width, fault);
}

//@ median-launcher: Count and pick three times
extern "C" int kv_cuda_median(float *median, const float *x, size_t n,
                              void *space, kv_fault *fault, int version,
                              kv_error *err) {
    if (check_median(median, x, n, space, fault, version, err))
        return KV_FAIL_USAGE;
    Work *work = static_cast<Work *>(space);
    if (n == 0) {
        cudaMemsetAsync(median, 0, sizeof *median);
        return kv_launched("median", err);
    }
    if (!version)
        version = reinterpret_cast<uintptr_t>(x) % 16 ? 2 : 3;
    begin<<<1, BLOCK>>>(work, unsigned(n));
    const int widths[3] = {11, 10, 10};
    for (int digit = 0, shift = 31; digit < 3; digit++) {
        shift -= widths[digit];
        count(version, work, x, n, shift, widths[digit], fault);
        pick<<<1, BLOCK>>>(work, median, widths[digit], digit == 2);
    }
    return kv_launched("median", err);
}
