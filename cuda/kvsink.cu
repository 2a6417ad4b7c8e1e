//@ top: Predict sinks while the residual is written
/* KVSink needs one number of each token, H[t, c] of one channel after one
 * layer, and of these the k largest. The layer's last step, h += add, has that
 * number in a register. Reading it again later would cost a sector of 32 bytes
 * for each token, because neighbours in a channel lie C floats apart; written
 * down at once, the numbers lie side by side.
 *
 *   k01  one thread an element; a second kernel gathers the channel from h
 *   k02  one warp a token; the lane that has the channel writes the number
 *   k03  loads of 16 bytes, and the last block to finish merges the numbers
 *        into the running top-k, so that one launch does it all
 *
 * A prompt may come in chunks, so the top-k is a running one. What must be
 * remembered is not just k values: by the rule for ties (kv_top_magnitudes)
 * those within a thousandth of the k-th count as equal to it, and among equals
 * the lower positions win; and the k-th may still grow. Remembered are
 * CANDIDATES, in the order of positions. A new value is one if it is larger
 * than the k-th so far. (If not, k earlier ones are at least as large; at any
 * later time, if it is among the equals, so are those, or they are larger: they
 * take all the places.) A candidate goes when the k-th has left it behind by
 * more than a thousandth, for the k-th never shrinks. So the selection from the
 * candidates is exactly that from all values. Their number is small except in
 * prompts made to be awkward, and memory has room for all.
 *
 * The rule with a threshold (kv_above_threshold) is a top-k as well: k is the
 * most it may keep, and how many values reach the threshold is counted. If they
 * are no more than k they are all among the candidates. */
#include "launch.h"

enum { WARPS = 8, BLOCK = 32 * WARPS };

//@ state: Remember candidates
/* Behind the header lie the magnitudes (bits of |h|) and positions. The values
 * of the chunk under way are written behind the candidates. */
struct Header {
    int candidates;
    unsigned kth;    /* bits of the K-th largest; 0 while there are fewer */
    unsigned ticket; /* blocks that have finished */
    int over;        /* values that reach the threshold */
};

struct State {
    Header *header;
    unsigned *size;
    int *position;
    int K, seen;
    double threshold; /* 0: none */
};

static State state_of(const kv_cuda_topk *top) {
    if (!top)
        return State{};
    Header *header = static_cast<Header *>(top->memory);
    unsigned *size = reinterpret_cast<unsigned *>(header + 1);
    kv_name(size, "size");
    return State{header, size, reinterpret_cast<int *>(size + top->tokens),
                 top->K, top->seen, top->threshold};
}

//@ rule: Compare with the k-th as ref/ does
/* In double, product and difference each rounded once. */
KV_DEVICE bool is_larger(unsigned size, unsigned kth) {
    return double(__uint_as_float(size)) >
           __dmul_rn(1.001, double(__uint_as_float(kth)));
}

KV_DEVICE bool is_equal(unsigned size, unsigned kth) {
    double k = double(__uint_as_float(kth));
    return k - double(__uint_as_float(size)) <= __dmul_rn(0.001, k);
}

KV_DEVICE bool reaches(unsigned size, double threshold) {
    return double(__uint_as_float(size)) >= threshold;
}

//@ block: Call from a whole block, with memory that it shares
struct Shared {
    unsigned histogram[256];
    int part[WARPS];
    unsigned digit;
    int rank;
};

//@ kth: Find the k-th largest of n numbers, eight bits at a time
/* The histogram counts the next digit of those whose leading bits are known.
 * Thread i takes digit 255 - i, so that a sum over threads runs from above. */
KV_DEVICE unsigned kth_largest(const unsigned *size, int n, int K,
                               Shared &sh) {
    unsigned known = 0;
    int rank = K; /* among those that share the known bits, from 1 */
    for (int shift = 24; shift >= 0; shift -= 8) {
        sh.histogram[threadIdx.x] = 0;
        __syncthreads();
        for (int i = threadIdx.x; i < n; i += BLOCK)
            if (shift == 24 || size[i] >> (shift + 8) == known)
                atomicAdd(&sh.histogram[size[i] >> shift & 255], 1u);
        __syncthreads();
        int mine = int(sh.histogram[255 - threadIdx.x]), total;
        int upto = kv_block_scan<WARPS>(mine, sh.part, total);
        if (rank <= upto && rank > upto - mine) {
            sh.digit = 255 - threadIdx.x;
            sh.rank = rank - (upto - mine);
        }
        __syncthreads();
        known = known << 8 | sh.digit;
        rank = sh.rank;
    }
    return known;
}

//@ compact: Move the candidates that stay to the front, in order
/* Elements first..n-1 are looked at; `out` are before them already. Element i
 * beyond the old candidates is a new one, whose position is i - offset. An
 * element moves to its own place or to an earlier one that has been read. */
template <class Stays>
KV_DEVICE int compact(State s, int first, int n, int out, int old, int offset,
                      Stays stays, Shared &sh) {
    for (int base = first; base < n; base += BLOCK) {
        int i = base + int(threadIdx.x), total;
        unsigned size = i < n ? s.size[i] : 0;
        int position = i >= n ? 0 : i < old ? s.position[i] : i - offset;
        int stay = i < n && stays(size);
        int to = out + kv_block_scan<WARPS>(stay, sh.part, total) - 1;
        if (stay) {
            s.size[to] = size;
            s.position[to] = position;
        }
        out += total;
        __syncthreads();
    }
    return out;
}

//@ over: Count the new values that reach the threshold
KV_DEVICE int count_over(State s, int first, int n, Shared &sh) {
    int over = 0, total;
    for (int base = first; base < n && s.threshold > 0; base += BLOCK) {
        int i = base + int(threadIdx.x);
        kv_block_scan<WARPS>(i < n && reaches(s.size[i], s.threshold), sh.part,
                             total);
        over += total;
    }
    return over;
}

//@ merge: Let n new values join the candidates
KV_DEVICE void merge(State s, int n, Shared &sh) {
    int old = s.header->candidates, over = count_over(s, old, old + n, sh);
    unsigned kth = s.header->kth;
    bool full = s.seen >= s.K; /* there is a K-th */
    int now = compact(s, old, old + n, old, old, old - s.seen,
                      [=](unsigned size) { return !full || size > kth; }, sh);
    if (s.K == 0)
        now = 0;
    else if (now > old && s.seen + n >= s.K) {
        kth = kth_largest(s.size, now, s.K, sh);
        now = compact(s, 0, now, 0, now, 0,
                      [=](unsigned size) {
                          return is_larger(size, kth) || is_equal(size, kth);
                      }, sh);
    }
    if (threadIdx.x == 0) {
        s.header->candidates = now;
        s.header->kth = kth;
        s.header->over += over;
    }
}

__global__ void merge_alone(State s, int n) {
    __shared__ Shared sh;
    merge(s, n, sh);
}

//@ note: Write down the magnitude of a new value of the channel
KV_DEVICE void note(State s, int t, float h) {
    s.size[s.header->candidates + t] = __float_as_uint(fabsf(h));
}

KV_DEVICE float updated(float h, float add, size_t index, kv_fault *fault) {
    float sum = __fadd_rn(h, add);
    if (!kv_is_finite(sum))
        atomicMin(fault, kv_fault(index));
    return sum;
}

//@ k01: Update one element a thread, and gather the channel afterwards
__global__ void k01(float *h, const float *add, int n, int C, int channel,
                    State s, kv_fault *fault) {
    size_t i = size_t(blockIdx.x) * BLOCK + threadIdx.x;
    if (i < size_t(n) * C)
        h[i] = updated(h[i], add[i], i, fault);
}

__global__ void gather(const float *h, int n, int C, int channel, State s) {
    int t = blockIdx.x * BLOCK + threadIdx.x;
    if (t < n)
        note(s, t, h[size_t(t) * C + channel]);
}

//@ k02: Let the lane that updates the channel note it
__global__ void k02(float *h, const float *add, int n, int C, int channel,
                    State s, kv_fault *fault) {
    int t = blockIdx.x * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (t >= n)
        return;
    for (int c = lane; c < C; c += 32) {
        size_t i = size_t(t) * C + c;
        float sum = updated(h[i], add[i], i, fault);
        h[i] = sum;
        if (c == channel && s.header)
            note(s, t, sum);
    }
}

//@ last: Know whether this block is the last to finish
/* What each block wrote is published by a fence before its ticket is drawn;
 * who draws the last one may read it all. The counter starts over by itself. */
KV_DEVICE bool is_last_block(unsigned *ticket) {
    __shared__ bool last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        last = atomicInc(ticket, gridDim.x - 1) == gridDim.x - 1;
        __threadfence();
    }
    __syncthreads();
    return last;
}

//@ k03: Move 16 bytes a lane, and merge in the same launch
__global__ void k03(float *h, const float *add, int n, int C, int channel,
                    State s, kv_fault *fault) {
    __shared__ Shared sh;
    int t = blockIdx.x * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;
    for (int c = 4 * lane; c < C && t < n; c += 128) {
        size_t i = size_t(t) * C + c;
        float4 a = *reinterpret_cast<const float4 *>(h + i);
        float4 b = *reinterpret_cast<const float4 *>(add + i);
        a.x = updated(a.x, b.x, i, fault);
        a.y = updated(a.y, b.y, i + 1, fault);
        a.z = updated(a.z, b.z, i + 2, fault);
        a.w = updated(a.w, b.w, i + 3, fault);
        *reinterpret_cast<float4 *>(h + i) = a;
        int j = channel - c;
        if (j >= 0 && j < 4 && s.header)
            note(s, t, j == 0 ? a.x : j == 1 ? a.y : j == 2 ? a.z : a.w);
    }
    if (s.header && is_last_block(&s.header->ticket))
        merge(s, n, sh);
}

//@ read: Select from the candidates by the rule for ties
/* The candidates are in the order of positions. All that are larger than the
 * k-th are taken, and of the equals as many of the first as there is room. With
 * a threshold that no more than K reach, those that do. */
__global__ void read(int *position, int *count, State s) {
    __shared__ Shared sh;
    int n = s.header->candidates, larger = 0, out = 0, equals = 0;
    unsigned kth = s.header->kth;
    bool all = s.seen <= s.K, some = s.threshold > 0 && s.header->over <= s.K;
    for (int base = 0; base < n; base += BLOCK) {
        int i = base + int(threadIdx.x), total;
        kv_block_scan<WARPS>(i < n && is_larger(s.size[i], kth), sh.part,
                             total);
        larger += total;
    }
    for (int base = 0; base < n; base += BLOCK) {
        int i = base + int(threadIdx.x), total;
        bool more = i < n && (some ? reaches(s.size[i], s.threshold)
                                   : all || is_larger(s.size[i], kth));
        bool equal = i < n && !more && !some && is_equal(s.size[i], kth);
        int rank = equals + kv_block_scan<WARPS>(equal, sh.part, total);
        equals += total;
        bool take = more || (equal && rank <= s.K - larger);
        int to = out + kv_block_scan<WARPS>(take, sh.part, total) - 1;
        if (take)
            position[to] = s.position[i];
        out += total;
    }
    if (threadIdx.x == 0) {
        count[0] = out;
        if (s.threshold > 0)
            count[1] = s.header->over > s.K;
    }
}

//@ start: Set up a running top-k
extern "C" size_t kv_cuda_topk_bytes(int tokens) {
    size_t each = sizeof(unsigned) + sizeof(int);
    return tokens < 0 ? 0 : sizeof(Header) + size_t(tokens) * each;
}

extern "C" int kv_cuda_topk_start(kv_cuda_topk *top, void *memory, int K,
                                  int tokens, kv_error *err) {
    const char *what = "top-k";
    const kv_size size[] = {{"K", K, 0},
                            {"the number of tokens", tokens, 0}};
    if (kv_check_pointer(what, "top", top, alignof(kv_cuda_topk), err) ||
        kv_check_pointer(what, "memory", memory, 16, err) ||
        kv_check_sizes(what, size, 1, err) ||
        kv_check_sizes(what, size + 1, 1, err))
        return KV_FAIL_USAGE;
    if (tokens > KV_INDEX_MAX)
        return kv_refuse(err, KV_FAIL_USAGE, "%s: %d tokens; at most %d", what,
                         tokens, KV_INDEX_MAX);
    *top = kv_cuda_topk{K, tokens, 0, memory, 0};
    cudaMemsetAsync(memory, 0, sizeof(Header));
    return kv_launched(what, err);
}

//@ start-threshold: Set up the rule with a threshold
extern "C" int kv_cuda_above_start(kv_cuda_topk *top, void *memory,
                                   double threshold, int tokens,
                                   kv_error *err) {
    if (!(threshold > 0))
        return kv_refuse(err, KV_FAIL_USAGE, "top-k: a threshold of %g; it is "
                         "more than 0", threshold);
    int K = tokens / 20 > 5 ? tokens / 20 : 5;
    int bad = kv_cuda_topk_start(top, memory, K, tokens, err);
    if (!bad)
        top->threshold = threshold;
    return bad;
}

//@ check: Refuse an update of what cannot be
static int check(int n, int C, int version, kv_error *err) {
    const char *what = "residual";
    const kv_size size[] = {{"the number of tokens", n, 0},
                            {"the width", C, 1}};
    if (kv_check_sizes(what, size, 2, err) ||
        kv_check_version(what, version, KV_CUDA_RESIDUAL_VERSIONS, err))
        return KV_FAIL_USAGE;
    if (n > KV_INDEX_MAX || C > KV_INDEX_MAX ||
        (double)n * C > KV_INDEX_MAX * (double)BLOCK)
        return kv_refuse(err, KV_FAIL_USAGE, "%s: %d x %d; at most %.0f "
                         "elements", what, n, C, KV_INDEX_MAX * (double)BLOCK);
    if (version == 3 && C % 4)
        return kv_refuse(err, KV_FAIL_USAGE, "%s: version 3 needs a width of a "
                         "multiple of 4, not %d", what, C);
    return KV_OK;
}

//@ check-top: Refuse a channel or a top-k that does not fit
static int check_top(const float *h, const float *add, int n, int C,
                     int channel, const kv_cuda_topk *top,
                     const kv_fault *fault, int version, kv_error *err) {
    const char *what = "residual";
    size_t align = version == 3 ? 16 : 4;
    if (top && (channel < 0 || channel >= C))
        return kv_refuse(err, KV_FAIL_USAGE, "%s: channel %d; there are %d",
                         what, channel, C);
    if (top && n > top->tokens - top->seen)
        return kv_refuse(err, KV_FAIL_USAGE, "%s: the top-k has room for %d "
                         "tokens, and %d more come after %d", what,
                         top->tokens, n, top->seen);
    return n && (kv_check_pointer(what, "h", h, align, err) ||
                 kv_check_pointer(what, "add", add, align, err) ||
                 kv_check_pointer(what, "fault", fault, 8, err))
               ? KV_FAIL_USAGE
               : KV_OK;
}

//@ start-version: Start a version, and what it leaves to others
static void start(int version, float *h, const float *add, int n, int C,
                  int channel, State s, kv_fault *fault) {
    unsigned blocks = kv_blocks(n, WARPS);
    if (version == 1)
        k01<<<kv_blocks(size_t(n) * C, BLOCK), BLOCK>>>(h, add, n, C, channel,
                                                        s, fault);
    else if (version == 2)
        k02<<<blocks, BLOCK>>>(h, add, n, C, channel, s, fault);
    else
        k03<<<blocks, BLOCK>>>(h, add, n, C, channel, s, fault);
    if (s.header && version == 1)
        gather<<<kv_blocks(n, BLOCK), BLOCK>>>(h, n, C, channel, s);
    if (s.header && version < 3)
        merge_alone<<<1, BLOCK>>>(s, n);
}

//@ launcher: Choose a version, start it, and count the tokens
extern "C" int kv_cuda_residual(float *h, const float *add, int n, int C,
                                int channel, kv_cuda_topk *top,
                                kv_fault *fault, int version, kv_error *err) {
    if (check(n, C, version, err) ||
        check_top(h, add, n, C, channel, top, fault, version, err))
        return KV_FAIL_USAGE;
    if (n == 0)
        return KV_OK;
    uintptr_t both = reinterpret_cast<uintptr_t>(h) |
                     reinterpret_cast<uintptr_t>(add);
    if (!version)
        version = C % 4 == 0 && both % 16 == 0 ? 3 : 2;
    State s = state_of(top);
    start(version, h, add, n, C, channel, s, fault);
    if (top)
        top->seen += n;
    return kv_launched("residual", err);
}

//@ read-launcher: Read the selection
extern "C" int kv_cuda_topk_read(int *position, int *count,
                                 const kv_cuda_topk *top, kv_error *err) {
    const char *what = "top-k";
    if (kv_check_pointer(what, "top", top, alignof(kv_cuda_topk), err) ||
        kv_check_pointer(what, "count", count, 4, err) ||
        (top->K && kv_check_pointer(what, "position", position, 4, err)))
        return KV_FAIL_USAGE;
    read<<<1, BLOCK>>>(position, count, state_of(top));
    return kv_launched(what, err);
}
