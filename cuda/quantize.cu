//@ top: Quantize keys and values, and pack them for the decode kernel
/* Codes must be those of ref/, bit for bit: a cache that one program fills
 * and another reads is no place for "nearly". So each step that decides a
 * code is one operation of float32, rounded to nearest (__fsub_rn, __fdiv_rn),
 * whatever the compiler's flags say, and scale and minimum are rounded to
 * binary16 before codes are decided with them.
 *
 * Arrays (kv_cuda_quantize): one thread a group, for checks and experiments.
 *
 * Caches (kv_cuda_append): rows arrive, some of them stop being recent, and
 * whole groups become codes in the tiles of layout.h. What is recent stays in
 * 16 bits in the window, kept rows go to the side table. Four kernels: note
 * what is kept, quantize keys, quantize values, store rows. The middle two
 * come in versions:
 *
 *   k01  one thread a group, which puts each code into its word by an atomic
 *   k02  one block a unit of 64 or 128 tokens of a head: its rows are staged
 *        in shared memory, and each thread builds whole words of codes
 *   k03  rows are staged with loads of 16 bytes
 *
 * A new row is read once, from where the caller put it; a row that has waited
 * is read from the window. */
#include "launch.h"
#include "layout.cuh"

#include <vector>

enum { BLOCK = 128, WARPS = BLOCK / 32 };

//@ range: Follow the extremes of a group
/* Minus and plus infinity until a number comes. Of equal ones the first stays,
 * which shows in the sign of a minimum of zero. */
struct Range {
    float lo, hi;
};

KV_DEVICE Range no_range() { return {INFINITY, -INFINITY}; }

KV_DEVICE void extend(Range &r, float x) {
    r.lo = x < r.lo ? x : r.lo;
    r.hi = x > r.hi ? x : r.hi;
}

//@ scale: Choose scale and minimum and round both to binary16
struct Scale {
    unsigned short scale, min;
    float s, m; /* what the two say */
};

KV_DEVICE Scale scale_of(Range r, int bits, int symmetric) {
    if (r.lo > r.hi)
        r.lo = r.hi = 0; /* nothing counted */
    float step;
    if (symmetric)
        step = __fdiv_rn(fmaxf(fabsf(r.lo), fabsf(r.hi)),
                         float((1 << (bits - 1)) - 1));
    else
        step = __fdiv_rn(__fsub_rn(r.hi, r.lo), float((1 << bits) - 1));
    __half s = __float2half_rn(step);
    __half m = __float2half_rn(symmetric ? 0.0f : r.lo);
    return {__half_as_ushort(s), __half_as_ushort(m), __half2float(s),
            __half2float(m)};
}

//@ code: Round to the nearest level, ties to even, and clamp
KV_DEVICE int code_of(float x, float s, float m, int bits, int symmetric) {
    int zero = symmetric ? 1 << (bits - 1) : 0;
    if (s == 0)
        return zero;
    float q = rintf(__fdiv_rn(__fsub_rn(x, m), s));
    q = fminf(fmaxf(q, float(-zero)), float((1 << bits) - 1 - zero));
    return int(q) + zero;
}

/* What binary16 cannot hold, NaN included, is an element that is no good. */
KV_DEVICE float checked(float x, kv_fault index, kv_fault *fault) {
    if (!(fabsf(x) < 65520))
        atomicMin(fault, index);
    return x;
}

//@ array: Describe an array and its groups
/* As kv_grouping: n elements, `stride` apart; per token a kept one leaves
 * nothing of its groups. */
struct Array {
    uint8_t *codes;
    uint16_t *scale, *min;
    const float *x;
    const uint8_t *kept;
    int T, row, length, across, per_token, bits, symmetric;
};

struct Group {
    int token, n, stride; /* of the first element; elements, their distance */
    size_t at;            /* index of the first */
};

KV_DEVICE Group group_of(const Array &a, size_t g) {
    int run = int(g / a.across), across = int(g % a.across);
    if (a.per_token)
        return {run, a.length, 1,
                size_t(run) * a.row + size_t(across) * a.length};
    int first = run * a.length;
    return {first, min(a.length, a.T - first), a.row,
            size_t(first) * a.row + across};
}

KV_DEVICE bool is_kept(const Array &a, const Group &g, int j) {
    return a.kept && a.kept[a.per_token ? g.token : g.token + j];
}

//@ array-kernel: Quantize the groups of an array, one thread each
__global__ void array(Array a, size_t groups, kv_fault *fault) {
    size_t i = size_t(blockIdx.x) * BLOCK + threadIdx.x;
    if (i >= groups)
        return;
    Group g = group_of(a, i);
    Range r = no_range();
    for (int j = 0; j < g.n; j++) {
        size_t at = g.at + size_t(j) * g.stride;
        float x = checked(a.x[at], at, fault);
        if (!is_kept(a, g, j))
            extend(r, x);
    }
    Scale s = scale_of(r, a.bits, a.symmetric);
    a.scale[i] = s.scale;
    a.min[i] = s.min;
    for (int j = 0; j < g.n; j++) {
        size_t at = g.at + size_t(j) * g.stride;
        int code = code_of(a.x[at], s.s, s.m, a.bits, a.symmetric);
        a.codes[at] = uint8_t(is_kept(a, g, j) ? 0 : code);
    }
}

//@ array-check: Refuse an array's format
static int check_array(const kv_format *f, kv_shape s, int T, kv_error *err) {
    const char *what = "quantize";
    const kv_size size[] = {{"the number of tokens", T, 0},
                            {"the number of KV heads", s.kv_heads, 1},
                            {"the head size", s.head_size, 1}};
    bool bits = f->bits == 2 || f->bits == 3 || f->bits == 4 || f->bits == 8;
    if (f->kind != KV_INT || !bits || f->hadamard || f->norm ||
        f->is_static || f->sparse || f->kivi || f->exclusion)
        return kv_refuse(err, KV_FAIL_USAGE, "%s: the device quantizes to "
                         "plain integers of 2, 3, 4 or 8 bits", what);
    if (kv_check_sizes(what, size, 3, err))
        return KV_FAIL_USAGE;
    if (f->group < 0 || f->group > 1 << 20)
        return kv_refuse(err, KV_FAIL_USAGE, "%s: a group of %d; expected 1 to "
                         "1048576, or 0 for all", what, f->group);
    if (f->axis == KV_PER_TOKEN && f->group && s.head_size % f->group)
        return kv_refuse(err, KV_FAIL_USAGE, "%s: a group of %d channels does "
                         "not divide the head size %d", what, f->group,
                         s.head_size);
    return KV_OK;
}

//@ array-launcher: Work out the groups and start
extern "C" int kv_cuda_quantize(uint8_t *codes, uint16_t *scale, uint16_t *min,
                                const float *x, const uint8_t *kept,
                                const kv_format *f, kv_shape s, int T,
                                kv_fault *fault, kv_error *err) {
    const char *what = "quantize";
    if (check_array(f, s, T, err))
        return KV_FAIL_USAGE;
    if (T == 0)
        return KV_OK;
    if (kv_check_pointer(what, "codes", codes, 1, err) ||
        kv_check_pointer(what, "scale", scale, 2, err) ||
        kv_check_pointer(what, "min", min, 2, err) ||
        kv_check_pointer(what, "x", x, 4, err) ||
        kv_check_pointer(what, "fault", fault, 8, err))
        return KV_FAIL_USAGE;
    long long row = (long long)s.kv_heads * s.head_size;
    bool per_token = f->axis == KV_PER_TOKEN;
    long long length = f->group ? f->group : per_token ? row : T;
    long long across = per_token ? row / length : row;
    long long runs = per_token ? T : (T + length - 1) / length;
    if (row > KV_INDEX_MAX || runs * across > KV_INDEX_MAX)
        return kv_refuse(err, KV_FAIL_USAGE, "%s: %lld groups in rows of %lld; "
                         "at most %d of each", what, runs * across, row,
                         KV_INDEX_MAX);
    Array a = {codes, scale, min, x, kept, T, int(row), int(length),
               int(across), per_token, f->bits, f->symmetric};
    array<<<kv_blocks(runs * across, BLOCK), BLOCK>>>(a, runs * across, fault);
    return kv_launched(what, err);
}

//@ step: Say what one append does to a sequence
/* Tokens before..after-1 are new; keys of from_keys..to_keys-1 and values of
 * from_values..to_values-1 become codes. */
struct Step {
    long long first; /* row of token `before` in k and v */
    int before, after;
    int from_keys, to_keys, from_values, to_values;
    int kept_before, kept_after;
    int list; /* where its newly kept positions begin */
};

struct Job {
    kv_pool pool;
    const Step *step;
    const int *list;
    const void *k, *v;
    int is_half;
    long long rows; /* of k, and of v */
    kv_fault *fault;
};

//@ side: Choose between keys and values
struct Side {
    int bits, group, symmetric;
    int codes, params; /* offsets in a tile, in bytes */
    uint16_t *kept, *window;
    const void *x;
    int from, to;
    long long first, at; /* row of token `before`; its fault index at x */
    int before;
};

KV_DEVICE Side side_of(const Job &job, const Step &t, bool values) {
    const kv_pool &p = job.pool;
    const kv_tile &l = p.tile;
    long long row = (long long)p.kv_heads * l.head_size;
    if (values)
        return {l.value_bits, l.value_group, l.value_symmetric, l.value_codes,
                l.value_params, p.kept_values, p.window_values, job.v,
                t.from_values, t.to_values, t.first, job.rows * row, t.before};
    return {l.key_bits, l.key_group, l.key_symmetric, 0, l.key_params,
            p.kept_keys, p.window_keys, job.k, t.from_keys, t.to_keys,
            t.first, 0, t.before};
}

//@ fetch: Bring a sequence's step to a block, once
KV_DEVICE const Step &fetch_step(const Job &job, int s) {
    __shared__ Step step;
    constexpr int words = sizeof(Step) / 4;
    if (threadIdx.x < words)
        reinterpret_cast<int *>(&step)[threadIdx.x] =
            reinterpret_cast<const int *>(&job.step[s])[threadIdx.x];
    __syncthreads();
    return step;
}

//@ tile-or-fault: Find a tile, unless its page does not exist
KV_DEVICE uint8_t *find_tile(const Job &job, int s, int head, int tile) {
    const kv_pool &p = job.pool;
    if (p.pages) {
        int page = p.pages[s * p.max_tiles + tile];
        if (page < 0 || page >= p.page_count) {
            kv_fault row = kv_fault(p.kv_heads) * p.tile.head_size;
            atomicMin(job.fault, 2 * kv_fault(job.rows) * row + s);
            return nullptr;
        }
    }
    return kv_tile_of(&p, s, head, tile);
}

KV_DEVICE bool is_kept(const kv_pool &p, int s, int t) {
    if (!p.holes)
        return false;
    size_t tile = size_t(s) * p.max_tiles + t / KV_TILE;
    return p.holes[tile * 4 + t % KV_TILE / 32] >> t % 32 & 1;
}

//@ element: Read one number of a token, as binary16 has it
/* A new row comes from the caller and is rounded, one that has waited lies in
 * the window. */
KV_DEVICE float element(const Job &job, const Side &d, int s, int head, int t,
                        int c) {
    const kv_pool &p = job.pool;
    int D = p.tile.head_size;
    if (t < d.before) {
        size_t row = size_t(s) * p.window + t % p.window;
        return __half2float(__ushort_as_half(
            d.window[(row * p.kv_heads + head) * D + c]));
    }
    size_t row = size_t(d.first + t - d.before);
    size_t i = (row * p.kv_heads + head) * D + c;
    float x = job.is_half
                  ? __half2float(__ushort_as_half(
                        static_cast<const unsigned short *>(d.x)[i]))
                  : static_cast<const float *>(d.x)[i];
    return __half2float(
        __float2half_rn(checked(x, kv_fault(d.at) + i, job.fault)));
}

//@ k01-element: Put a code into its word by an atomic
KV_DEVICE void put_code(uint8_t *tile, const Side &d, kv_spot spot, int code) {
    uint32_t *codes = reinterpret_cast<uint32_t *>(tile + d.codes);
    if (!kv_is_split(spot, d.bits)) {
        kv_place at = kv_code_place(spot, d.bits);
        atomicOr(&codes[at.word], unsigned(code) << at.bit);
        return;
    }
    for (int k = 0; k < 3; k++) {
        kv_place at = kv_split_place(spot, k);
        atomicOr(&codes[at.word], unsigned(code >> k & 1) << at.bit);
    }
}

KV_DEVICE void put_scale(uint8_t *tile, const Side &d, int at, int min,
                         Scale v) {
    uint16_t *params = reinterpret_cast<uint16_t *>(tile + d.params);
    params[at] = v.scale;
    if (!d.symmetric)
        params[at + min] = v.min;
}

//@ k01-keys: Quantize one channel of a group of tokens
KV_DEVICE void one_key_group(const Job &job, const Side &d, int s, int head,
                             int first, int c) {
    const kv_tile &l = job.pool.tile;
    int end = min(first + d.group, d.to);
    uint8_t *tile = find_tile(job, s, head, first / KV_TILE);
    if (!tile)
        return;
    Range r = no_range();
    for (int t = first; t < end; t++)
        if (!is_kept(job.pool, s, t))
            extend(r, element(job, d, s, head, t, c));
    Scale v = scale_of(r, d.bits, d.symmetric);
    put_scale(tile, d, kv_key_param_at(&l, first % KV_TILE, c),
              kv_key_min(&l), v);
    for (int t = first; t < end; t++)
        if (!is_kept(job.pool, s, t))
            put_code(tile, d, kv_key_spot(l.head_size, t % KV_TILE, c),
                     code_of(element(job, d, s, head, t, c), v.s, v.m, d.bits,
                             d.symmetric));
}

//@ k01-values: Quantize some channels of one token
KV_DEVICE void one_value_group(const Job &job, const Side &d, int s, int head,
                               int t, int first) {
    const kv_tile &l = job.pool.tile;
    uint8_t *tile = find_tile(job, s, head, t / KV_TILE);
    if (!tile)
        return;
    bool kept = is_kept(job.pool, s, t);
    Range r = no_range();
    for (int c = first; c < first + d.group && !kept; c++)
        extend(r, element(job, d, s, head, t, c));
    Scale v = scale_of(r, d.bits, d.symmetric);
    put_scale(tile, d, kv_value_param_at(&l, t % KV_TILE, first),
              kv_value_min(&l), v);
    for (int c = first; c < first + d.group && !kept; c++)
        put_code(tile, d, kv_value_spot(l.head_size, t % KV_TILE, c),
                 code_of(element(job, d, s, head, t, c), v.s, v.m, d.bits,
                         d.symmetric));
}

//@ k01: Let one thread quantize a group
/* Grid: groups of a head, heads, sequences. */
template <bool VALUES> __global__ void k01(Job job) {
    int s = blockIdx.z, head = blockIdx.y, D = job.pool.tile.head_size;
    long long i = (long long)blockIdx.x * BLOCK + threadIdx.x;
    Side d = side_of(job, fetch_step(job, s), VALUES);
    if (VALUES) {
        int groups = D / d.group;
        long long t = d.from + i / groups;
        if (t < d.to)
            one_value_group(job, d, s, head, int(t),
                            int(i % groups) * d.group);
    } else {
        long long first = d.from + i / D * d.group;
        if (first < d.to)
            one_key_group(job, d, s, head, int(first), int(i % D));
    }
}

//@ unit: Give a block some tokens of one head
/* A unit begins at a multiple of its tokens, so that it lies within a tile and
 * words do not cross from one unit to the next. Of its tokens from..to-1 are to
 * be coded; those of them that are not kept are `live`.
 *
 * Rows in shared memory are padded so that what the lanes of a warp read at
 * once lies in different banks: keys are read 16 bytes from each of two rows,
 * values 8 or 16 bytes from each of eight. */
struct Unit {
    int s, head, first, tokens; /* first: token in the sequence */
    int from, to;
    uint8_t *tile;
};

struct __align__(16) Shared {
    float s[256], m[256]; /* keys [group][channel], values [group][token] */
    uint32_t live[4];
};

KV_DEVICE int unit_tokens(const kv_tile &l, bool values) {
    return !values && l.key_group == 128 ? 128 : 64;
}
KV_DEVICE int pitch(int D, bool values) { /* words of a row */
    return D / 2 + (values ? 4 : 16);
}
KV_DEVICE bool is_live(const Shared &sh, int i) {
    return sh.live[i / 32] >> i % 32 & 1;
}

//@ find-unit: Find the unit of this block, and its live tokens
/* False if the block has nothing to do. */
template <bool VALUES>
KV_DEVICE bool find_unit(const Job &job, const Side &d, Unit &u, Shared &sh) {
    u.s = blockIdx.z, u.head = blockIdx.y;
    u.tokens = unit_tokens(job.pool.tile, VALUES);
    long long first = ((long long)d.from / u.tokens + blockIdx.x) * u.tokens;
    if (first >= d.to || d.from >= d.to)
        return false;
    u.first = int(first);
    u.from = max(d.from, u.first);
    u.to = min(d.to, u.first + u.tokens);
    u.tile = find_tile(job, u.s, u.head, u.first / KV_TILE);
    if (!u.tile)
        return false;
    int t = u.first + int(threadIdx.x);
    bool live = t >= u.from && t < u.to && !is_kept(job.pool, u.s, t);
    unsigned ballot = __ballot_sync(0xffffffffu, live);
    if (threadIdx.x % 32 == 0)
        sh.live[threadIdx.x / 32] = ballot;
    __syncthreads();
    return true;
}

//@ stage: Copy the live rows to shared memory, number by number
template <bool VALUES>
KV_DEVICE void stage(const Job &job, const Side &d, const Unit &u,
                     const Shared &sh, uint32_t *rows) {
    int D = job.pool.tile.head_size, step = 2 * pitch(D, VALUES);
    unsigned short *to = reinterpret_cast<unsigned short *>(rows);
    for (int i = threadIdx.x; i < u.tokens * D; i += BLOCK)
        if (is_live(sh, i / D))
            to[i / D * step + i % D] = __half_as_ushort(__float2half_rn(
                element(job, d, u.s, u.head, u.first + i / D, i % D)));
    __syncthreads();
}

//@ eight: Read eight numbers of a row in 16 bytes of binary16
KV_DEVICE uint32_t two_halves(float a, float b, kv_fault at, kv_fault *fault) {
    return kv_word(__floats2half2_rn(checked(a, at, fault),
                                     checked(b, at + 1, fault)));
}

KV_DEVICE uint32_t check_two(uint32_t w, kv_fault at, kv_fault *fault) {
    float2 v = __half22float2(kv_half2(w));
    checked(v.x, at, fault);
    checked(v.y, at + 1, fault);
    return w;
}

//@ new-eight: Read those of a new row, and round them
/* The eight numbers from i on of the caller's rows. */
KV_DEVICE uint4 new_eight(const void *x, size_t i, int is_half, kv_fault at,
                          kv_fault *fault) {
    at += i;
    if (is_half) {
        uint4 v = *reinterpret_cast<const uint4 *>(
            static_cast<const uint16_t *>(x) + i);
        return make_uint4(check_two(v.x, at, fault),
                          check_two(v.y, at + 2, fault),
                          check_two(v.z, at + 4, fault),
                          check_two(v.w, at + 6, fault));
    }
    const float4 *p = reinterpret_cast<const float4 *>(
        static_cast<const float *>(x) + i);
    float4 a = p[0], b = p[1];
    return make_uint4(two_halves(a.x, a.y, at, fault),
                      two_halves(a.z, a.w, at + 2, fault),
                      two_halves(b.x, b.y, at + 4, fault),
                      two_halves(b.z, b.w, at + 6, fault));
}

//@ any-eight: Read those of any row that is to be coded
KV_DEVICE uint4 eight(const Job &job, const Side &d, int s, int head, int t,
                      int c) {
    const kv_pool &p = job.pool;
    int D = p.tile.head_size;
    if (t < d.before) {
        size_t row = size_t(s) * p.window + t % p.window;
        return *reinterpret_cast<const uint4 *>(
            d.window + (row * p.kv_heads + head) * D + c);
    }
    size_t row = size_t(d.first + t - d.before);
    return new_eight(d.x, (row * p.kv_heads + head) * D + c, job.is_half,
                     kv_fault(d.at), job.fault);
}

//@ stage-wide: Copy the live rows 16 bytes at a time
template <bool VALUES>
KV_DEVICE void stage_wide(const Job &job, const Side &d, const Unit &u,
                          const Shared &sh, uint32_t *rows) {
    int D = job.pool.tile.head_size, step = pitch(D, VALUES);
    int each = D / 8; /* pieces of a row */
    for (int i = threadIdx.x; i < u.tokens * each; i += BLOCK) {
        int t = i / each, c = i % each * 8;
        if (is_live(sh, t))
            *reinterpret_cast<uint4 *>(rows + t * step + c / 2) =
                eight(job, d, u.s, u.head, u.first + t, c);
    }
    __syncthreads();
}

//@ key-scales: Choose the scales of keys, two channels a thread
KV_DEVICE void put_pair(float *to, float a, float b) {
    *reinterpret_cast<float2 *>(to) = make_float2(a, b);
}

/* Two numbers of binary16 side by side. */
KV_DEVICE unsigned side_by_side(unsigned short a, unsigned short b) {
    return unsigned(b) << 16 | a;
}

KV_DEVICE void two_ranges(Range &a, Range &b, const uint32_t *rows, int step,
                          int first, int n, const Shared &sh) {
    for (int t = first; t < first + n; t++)
        if (is_live(sh, t)) {
            float2 v = __half22float2(kv_half2(rows[t * step]));
            extend(a, v.x);
            extend(b, v.y);
        }
}

//@ all-key-scales: Do so for the groups of a unit
/* Groups begin and end with a unit's tokens, or with those to be coded. */
KV_DEVICE void key_scales(const Side &d, const Unit &u, int D, Shared &sh,
                          const uint32_t *rows) {
    int words = D / 2, step = pitch(D, false);
    uint32_t *params = reinterpret_cast<uint32_t *>(u.tile + d.params);
    int arrays = d.symmetric ? 1 : 2;
    for (int i = threadIdx.x; i < u.tokens / d.group * words; i += BLOCK) {
        int g = i / words, w = i % words, t = g * d.group;
        if (u.first + t < u.from || u.first + t >= u.to)
            continue;
        Range a = no_range(), b = no_range();
        two_ranges(a, b, rows + w, step, t, d.group, sh);
        Scale x = scale_of(a, d.bits, d.symmetric);
        Scale y = scale_of(b, d.bits, d.symmetric);
        put_pair(sh.s + g * D + 2 * w, x.s, y.s);
        put_pair(sh.m + g * D + 2 * w, x.m, y.m);
        int at = (u.first % KV_TILE + t) / d.group * arrays * words + w;
        params[at] = side_by_side(x.scale, y.scale);
        if (!d.symmetric)
            params[at + words] = side_by_side(x.min, y.min);
    }
    __syncthreads();
}

//@ extend-eight: Take eight numbers into account
KV_DEVICE void extend_eight(Range &r, uint4 v) {
    const uint32_t w[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float2 x = __half22float2(kv_half2(w[i]));
        extend(r, x.x);
        extend(r, x.y);
    }
}

//@ value-scales: Choose the scales of values, one token and group a thread
/* A kept token gets a scale of zero, as in ref/. */
KV_DEVICE void value_scales(const Side &d, const Unit &u, const kv_tile &l,
                            Shared &sh, const uint32_t *rows) {
    int D = l.head_size, step = pitch(D, true);
    for (int i = threadIdx.x; i < u.tokens * (D / d.group); i += BLOCK) {
        int t = i % u.tokens, g = i / u.tokens;
        if (u.first + t < u.from || u.first + t >= u.to)
            continue;
        Range r = no_range();
        for (int c = g * d.group; c < (g + 1) * d.group; c += 8)
            if (is_live(sh, t))
                extend_eight(r, *reinterpret_cast<const uint4 *>(
                                    rows + t * step + c / 2));
        Scale v = scale_of(r, d.bits, d.symmetric);
        sh.s[g * u.tokens + t] = v.s;
        sh.m[g * u.tokens + t] = v.m;
        put_scale(u.tile, d,
                  kv_value_param_at(&l, u.first % KV_TILE + t, g * d.group),
                  kv_value_min(&l), v);
    }
    __syncthreads();
}

//@ set: Build a few quads of codes at a time
/* A SET is the least number of fields that fill whole quads: 16/b fields and
 * one quad, or 16 and three at 3 bits. word[k] is a lane's quad k. */
template <int BITS> struct Set {
    static constexpr int fields = BITS == 3 ? 16 : 16 / BITS;
    static constexpr int quads = BITS == 3 ? 3 : 1;
    uint32_t word[quads][4];

    KV_DEVICE void put(int field, int w, int half, int code) {
        if (BITS == 3 && field == 15) {
            for (int k = 0; k < quads; k++)
                word[k][w] |= uint32_t(code >> k & 1) << (16 * half + 15);
        } else {
            int k = BITS == 3 ? field / 5 : 0;
            int at = BITS == 3 ? field % 5 : field;
            word[k][w] |= uint32_t(code) << (16 * half + at * BITS);
        }
    }
};

//@ key-pair: Code the keys of two fields
/* Lane 4r+j reads 16 bytes of rows r and r+8: eight channels, four for each
 * field. t: first of the 16 tokens; c: first of the 32 channels. */
template <int BITS>
KV_DEVICE void key_pair(Set<BITS> &set, int field, const Side &d, int D, int t,
                        int c, const Shared &sh, const uint32_t *rows) {
    int lane = threadIdx.x % 32;
    c += lane % 4 * 8;
    const float *s = sh.s + t / d.group * D + c;
    const float *m = sh.m + t / d.group * D + c;
#pragma unroll
    for (int upper = 0; upper < 2; upper++) {
        int row = t + lane / 4 + 8 * upper;
        if (!is_live(sh, row))
            continue;
        uint4 v = *reinterpret_cast<const uint4 *>(
            rows + row * pitch(D, false) + c / 2);
        const uint32_t w[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int i = 0; i < 8; i++) {
            float2 x = __half22float2(kv_half2(w[i / 2]));
            int code = code_of(i % 2 ? x.y : x.x, s[i], m[i], BITS,
                               d.symmetric);
            set.put(field + i / 4, upper + i % 4 / 2 * 2, i % 2, code);
        }
    }
}

//@ value-pair: Code the values of two fields
/* Lane 4r+j reads 8 bytes of rows 2j, 2j+1, 2j+8, 2j+9: four channels, two for
 * each field. */
template <int BITS>
KV_DEVICE void value_pair(Set<BITS> &set, int field, const Side &d, int D,
                          int t, int c, const Unit &u, const Shared &sh,
                          const uint32_t *rows) {
    int lane = threadIdx.x % 32;
    c += lane / 4 * 4;
#pragma unroll
    for (int k = 0; k < 4; k++) {
        int row = t + lane % 4 * 2 + k % 2 + k / 2 * 8;
        if (!is_live(sh, row))
            continue;
        uint2 v = *reinterpret_cast<const uint2 *>(
            rows + row * pitch(D, true) + c / 2);
        const uint32_t w[2] = {v.x, v.y};
        float s = sh.s[c / d.group * u.tokens + row];
        float m = sh.m[c / d.group * u.tokens + row];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float2 x = __half22float2(kv_half2(w[i / 2]));
            int code = code_of(i % 2 ? x.y : x.x, s, m, BITS, d.symmetric);
            set.put(field + i / 2, i % 2 + k / 2 * 2, k % 2, code);
        }
    }
}

//@ write-set: Write the quads of a set
/* If earlier tokens of it have been coded before, their bits stay. */
template <int BITS>
KV_DEVICE void write_set(const Set<BITS> &set, uint4 *quad, bool joins) {
#pragma unroll
    for (int k = 0; k < Set<BITS>::quads; k++) {
        const uint32_t *w = set.word[k];
        uint4 v = make_uint4(w[0], w[1], w[2], w[3]);
        if (joins) {
            uint4 old = quad[32 * k];
            v = make_uint4(v.x | old.x, v.y | old.y, v.z | old.z, v.w | old.w);
        }
        quad[32 * k] = v;
    }
}

//@ codes: Build all words of a unit
template <bool VALUES, int BITS>
KV_DEVICE void build(const Side &d, const Unit &u, int D, const Shared &sh,
                     const uint32_t *rows) {
    typedef Set<BITS> S;
    int across = D / 16, sets = u.tokens / 16 * across / S::fields;
    int before = u.first % KV_TILE / 16 * across / S::fields;
    uint4 *quads = reinterpret_cast<uint4 *>(u.tile + d.codes) +
                   before * S::quads * 32 + threadIdx.x % 32;
    for (int i = threadIdx.x / 32; i < sets; i += WARPS) {
        S set = {};
        int first = i * S::fields / across * 16;
        int last = ((i + 1) * S::fields - 1) / across * 16 + 16;
        if (u.first + last <= u.from || u.first + first >= u.to)
            continue;
#pragma unroll
        for (int f = 0; f < S::fields; f += 2) {
            int field = i * S::fields + f;
            int t = field / across * 16, c = field % across * 16;
            if (VALUES)
                value_pair<BITS>(set, f, d, D, t, c, u, sh, rows);
            else
                key_pair<BITS>(set, f, d, D, t, c, sh, rows);
        }
        write_set<BITS>(set, quads + i * S::quads * 32,
                        u.first + first < u.from);
    }
}

//@ k02: Let a block quantize a unit, staged in shared memory
template <bool VALUES, int BITS>
__global__ void __launch_bounds__(BLOCK, 6) k02(Job job) {
    extern __shared__ __align__(16) uint32_t rows[];
    __shared__ Shared sh;
    Side d = side_of(job, fetch_step(job, blockIdx.z), VALUES);
    Unit u;
    if (!find_unit<VALUES>(job, d, u, sh))
        return;
    int D = job.pool.tile.head_size;
    stage<VALUES>(job, d, u, sh, rows);
    if (VALUES)
        value_scales(d, u, job.pool.tile, sh, rows);
    else
        key_scales(d, u, D, sh, rows);
    build<VALUES, BITS>(d, u, D, sh, rows);
}

//@ k03: Stage 16 bytes at a time
template <bool VALUES, int BITS>
__global__ void __launch_bounds__(BLOCK, 6) k03(Job job) {
    extern __shared__ __align__(16) uint32_t rows[];
    __shared__ Shared sh;
    Side d = side_of(job, fetch_step(job, blockIdx.z), VALUES);
    Unit u;
    if (!find_unit<VALUES>(job, d, u, sh))
        return;
    int D = job.pool.tile.head_size;
    stage_wide<VALUES>(job, d, u, sh, rows);
    if (VALUES)
        value_scales(d, u, job.pool.tile, sh, rows);
    else
        key_scales(d, u, D, sh, rows);
    build<VALUES, BITS>(d, u, D, sh, rows);
}

//@ mark: Note which of the new tokens are kept
/* One block a sequence. Several of them may share a word of holes. */
__global__ void mark(Job job) {
    const kv_pool &p = job.pool;
    int s = blockIdx.x;
    const Step &step = job.step[s];
    for (int i = threadIdx.x; i < step.kept_after - step.kept_before;
         i += BLOCK) {
        int t = job.list[step.list + i];
        size_t at = size_t(s) * p.kept_capacity + step.kept_before + i;
        p.position[at] = t;
        size_t tile = size_t(s) * p.max_tiles + t / KV_TILE;
        atomicOr(&p.holes[tile * 4 + t % KV_TILE / 32], 1u << t % 32);
    }
}

//@ store-eight: Store eight numbers of a row that stays in 16 bits
/* to: row of the side table or of the window; e: element of the row. */
KV_DEVICE void store_eight(const Job &job, const Side &d, uint16_t *rows,
                           size_t to, int t, int e) {
    size_t row = size_t(job.pool.kv_heads) * job.pool.tile.head_size;
    size_t from = size_t(d.first + t - d.before) * row + e;
    *reinterpret_cast<uint4 *>(rows + to * row + e) =
        new_eight(d.x, from, job.is_half, kv_fault(d.at), job.fault);
}

KV_DEVICE void store_kept(const Job &job, const Step &step, int s, int i,
                          int e) {
    const kv_pool &p = job.pool;
    int t = job.list[step.list + i];
    size_t to = size_t(s) * p.kept_capacity + step.kept_before + i;
    store_eight(job, side_of(job, step, false), p.kept_keys, to, t, e);
    store_eight(job, side_of(job, step, true), p.kept_values, to, t, e);
}

KV_DEVICE void store_waiting(const Job &job, const Step &step, int s, int t,
                             int e) {
    const kv_pool &p = job.pool;
    if (is_kept(p, s, t))
        return;
    size_t to = size_t(s) * p.window + t % p.window;
    store_eight(job, side_of(job, step, false), p.window_keys, to, t, e);
    if (t >= step.to_values)
        store_eight(job, side_of(job, step, true), p.window_values, to, t, e);
}

//@ store: Store all such rows, and the lengths
/* First the newly kept rows, then those that wait; keys wait at least as long
 * as values. */
__global__ void store(Job job) {
    const kv_pool &p = job.pool;
    int s = blockIdx.y;
    const Step &step = fetch_step(job, s);
    int each = p.kv_heads * p.tile.head_size / 8;
    long long i = (long long)blockIdx.x * BLOCK + threadIdx.x;
    if (i == 0) {
        p.tokens[s] = step.after;
        p.quantized_keys[s] = step.to_keys;
        p.quantized_values[s] = step.to_values;
        p.kept[s] = step.kept_after;
    }
    int e = int(i % each) * 8, kept = step.kept_after - step.kept_before;
    i /= each;
    if (i < kept)
        store_kept(job, step, s, int(i), e);
    long long t = max(step.before, step.to_keys) + i - kept;
    if (i >= kept && t < step.after)
        store_waiting(job, step, s, int(t), e);
}

//@ plan-bytes: Say how much room a plan takes
static bool makes_sense(const kv_pool *p) {
    return p && p->sequences >= 0 && p->sequences <= 65535 &&
           p->kept_capacity >= 0 && p->kv_heads > 0 && p->kv_heads <= 65535 &&
           p->max_tiles >= 0 && p->max_tiles <= KV_INDEX_MAX / KV_TILE &&
           p->window >= 0;
}

extern "C" size_t kv_cuda_plan_bytes(const kv_pool *p) {
    if (!makes_sense(p))
        return 0;
    return size_t(p->sequences) *
           (sizeof(Step) + size_t(p->kept_capacity) * sizeof(int));
}

//@ check-pool: Refuse a pool that cannot be
static int check_pool(const kv_cuda_cache *c, int version, kv_error *err) {
    const char *what = "append";
    if (!c || !makes_sense(&c->pool) || c->recent < 0)
        return kv_refuse(err, KV_FAIL_USAGE, "%s: a pool has 0 to 65535 "
                         "sequences, 1 to 65535 KV heads, and no negative "
                         "size", what);
    const kv_pool *p = &c->pool;
    if (kv_check_version(what, version, KV_CUDA_APPEND_VERSIONS, err))
        return KV_FAIL_USAGE;
    if (p->sequences == 0)
        return KV_OK;
    const struct { const char *name; const void *p; size_t align; } all[] = {
        {"length", c->length, 4}, {"plan", c->plan, 8},
        {"tiles", p->max_tiles ? p->tiles : (void *)p, 16},
        {"window_keys", p->window ? p->window_keys : (void *)p, 16},
        {"window_values", p->window ? p->window_values : (void *)p, 16},
        {"kept_keys", p->kept_capacity ? p->kept_keys : (void *)p, 16},
        {"kept_values", p->kept_capacity ? p->kept_values : (void *)p, 16},
        {"position", p->kept_capacity ? p->position : (void *)p, 4},
        {"holes", p->kept_capacity ? p->holes : (void *)p, 4},
        {"tokens", p->tokens, 4}, {"quantized_keys", p->quantized_keys, 4},
        {"quantized_values", p->quantized_values, 4}, {"kept", p->kept, 4}};
    for (const auto &a : all)
        if (kv_check_pointer(what, a.name, a.p, a.p == p ? 1 : a.align, err))
            return KV_FAIL_USAGE;
    return KV_OK;
}

//@ check-length: Refuse a sequence that cannot be, or is sealed
static int check_length(const kv_cuda_cache *c, int s, int n, kv_error *err) {
    const kv_length *l = &c->length[s];
    const kv_pool *p = &c->pool;
    int room = p->max_tiles * KV_TILE;
    if (l->tokens < 0 || l->tokens > room || l->quantized_keys < 0 ||
        l->quantized_keys > l->quantized_values ||
        l->quantized_values > l->tokens || l->kept < 0 ||
        l->kept > p->kept_capacity ||
        l->tokens - l->quantized_keys > p->window)
        return kv_refuse(err, KV_FAIL_USAGE, "append: the length of sequence "
                         "%d cannot be", s);
    if (n < 0 || n > room - l->tokens)
        return kv_refuse(err, KV_FAIL_USAGE, "append: sequence %d has room for "
                         "%d tokens; %d are there and %d more do not fit", s,
                         room, l->tokens, n);
    if (l->quantized_keys % p->tile.key_group)
        return kv_refuse(err, KV_FAIL_USAGE, "append: sequence %d is sealed: "
                         "its last group is short and nothing can follow it",
                         s);
    return KV_OK;
}

//@ plan-step: Work out what becomes of a sequence
static int plan_step(Step *t, const kv_cuda_cache *c, int s, int n, int seal,
                     kv_error *err) {
    if (check_length(c, s, n, err))
        return KV_FAIL_USAGE;
    const kv_length *l = &c->length[s];
    int G = c->pool.tile.key_group;
    t->before = l->tokens;
    t->after = l->tokens + n;
    int old = seal ? t->after : t->after - c->recent; /* not recent */
    t->from_keys = l->quantized_keys;
    t->from_values = l->quantized_values;
    t->to_values = old > t->from_values ? old : t->from_values;
    int keys = old > 0 ? (seal ? old : old / G * G) : 0;
    t->to_keys = keys > t->from_keys ? keys : t->from_keys;
    t->kept_before = t->kept_after = l->kept;
    if (t->after - t->to_keys > c->pool.window)
        return kv_refuse(err, KV_FAIL_USAGE, "append: %d tokens of sequence "
                         "%d would wait, and the window has room for %d",
                         t->after - t->to_keys, s, c->pool.window);
    return KV_OK;
}

//@ plan-kept: Take the positions that are new
static int plan_kept(Step *t, std::vector<int> &list, const kv_cuda_cache *c,
                     int s, const int *kept, int n, kv_error *err) {
    t->list = int(list.size());
    int last = -1;
    for (int i = 0; i < n; i++) {
        if (kept[i] <= last)
            return kv_refuse(err, KV_FAIL_USAGE, "append: kept positions of "
                             "sequence %d do not ascend: %d after %d", s,
                             kept[i], last);
        last = kept[i];
        if (kept[i] >= t->before && kept[i] < t->after)
            list.push_back(kept[i]);
    }
    t->kept_after += int(list.size()) - t->list;
    if (t->kept_after > c->pool.kept_capacity)
        return kv_refuse(err, KV_FAIL_USAGE, "append: room for %d kept tokens; "
                         "sequence %d would have %d", c->pool.kept_capacity, s,
                         t->kept_after);
    return KV_OK;
}

//@ widest: See how many blocks the largest sequence needs
struct Widest {
    long long keys, values; /* tokens */
    long long rows;         /* that stay in 16 bits */
};

static Widest widest(const std::vector<Step> &step) {
    Widest w = {0, 0, 0};
    for (const Step &t : step) {
        long long keys = t.to_keys - t.from_keys;
        long long values = t.to_values - t.from_values;
        int wait = t.to_keys > t.before ? t.to_keys : t.before;
        long long rows = t.kept_after - t.kept_before + t.after - wait;
        w.keys = keys > w.keys ? keys : w.keys;
        w.values = values > w.values ? values : w.values;
        w.rows = rows > w.rows ? rows : w.rows;
    }
    return w;
}

//@ start-side: Start the kernel for keys or for values
template <bool VALUES, int BITS>
static void start_wide(const Job &job, dim3 grid, size_t bytes, int version) {
    if (version == 2)
        k02<VALUES, BITS><<<grid, BLOCK, bytes>>>(job);
    else
        k03<VALUES, BITS><<<grid, BLOCK, bytes>>>(job);
}

template <bool VALUES>
static void start_units(const Job &job, long long tokens, int version) {
    const kv_tile &l = job.pool.tile;
    int D = l.head_size, unit = !VALUES && l.key_group == 128 ? 128 : 64;
    int bits = VALUES ? l.value_bits : l.key_bits;
    dim3 grid(1, job.pool.kv_heads, job.pool.sequences);
    grid.x = kv_blocks(tokens, unit) + 1; /* the first may be half done */
    size_t bytes = size_t(unit) * (D / 2 + (VALUES ? 4 : 16)) * 4;
    if (bits == 2)
        start_wide<VALUES, 2>(job, grid, bytes, version);
    else if (bits == 3)
        start_wide<VALUES, 3>(job, grid, bytes, version);
    else if (bits == 4)
        start_wide<VALUES, 4>(job, grid, bytes, version);
    else
        start_wide<VALUES, 8>(job, grid, bytes, version);
}

//@ start-groups: Start a thread for each group, or blocks for units
template <bool VALUES>
static void start_side(const Job &job, long long tokens, int version) {
    const kv_tile &l = job.pool.tile;
    int group = VALUES ? l.value_group : l.key_group;
    long long more = VALUES ? 0 : group; /* the last group may be short */
    size_t threads = size_t(tokens + more) * l.head_size / group;
    dim3 grid(kv_blocks(threads, BLOCK), job.pool.kv_heads,
              job.pool.sequences);
    if (tokens && version == 1)
        k01<VALUES><<<grid, BLOCK>>>(job);
    else if (tokens)
        start_units<VALUES>(job, tokens, version);
}

//@ run-plan: Copy the plan to the device and start the kernels
static int run_plan(kv_cuda_cache *c, const std::vector<Step> &step,
                    const std::vector<int> &list, Job job, int version,
                    kv_error *err) {
    char *plan = static_cast<char *>(c->plan);
    size_t steps = step.size() * sizeof(Step);
    if (kv_cuda_upload(plan, step.data(), steps, err) ||
        kv_cuda_upload(plan + steps, list.data(), list.size() * sizeof(int),
                       err))
        return KV_FAIL_RUN;
    job.pool = c->pool;
    job.step = reinterpret_cast<const Step *>(plan);
    job.list = reinterpret_cast<const int *>(plan + steps);
    Widest w = widest(step);
    unsigned S = unsigned(step.size());
    if (!list.empty())
        mark<<<S, BLOCK>>>(job);
    start_side<false>(job, w.keys, version ? version : 3);
    start_side<true>(job, w.values, version ? version : 3);
    size_t each = size_t(job.pool.kv_heads) * job.pool.tile.head_size / 8;
    unsigned blocks = kv_blocks(size_t(w.rows) * each, BLOCK);
    store<<<dim3(blocks ? blocks : 1, S), BLOCK>>>(job);
    for (size_t s = 0; s < step.size(); s++)
        c->length[s] = kv_length{step[s].after, step[s].to_keys,
                                 step[s].to_values, step[s].kept_after};
    return kv_launched("append", err);
}

//@ kept-lists: Refuse one list without the other
static int check_kept(const int *kept, const int *n_kept, kv_error *err) {
    if ((kept == nullptr) == (n_kept == nullptr))
        return KV_OK;
    return kv_refuse(err, KV_FAIL_USAGE, "append: kept and n_kept are given "
                     "together, or neither");
}

//@ append: Append rows to all sequences
extern "C" int kv_cuda_append(kv_cuda_cache *c, const void *k, const void *v,
                              int is_half, const int *n, const int *kept,
                              const int *n_kept, kv_fault *fault, int version,
                              kv_error *err) {
    const char *what = "append";
    if (check_pool(c, version, err) ||
        kv_check_pointer(what, "fault", fault, 8, err))
        return KV_FAIL_USAGE;
    if (c->pool.sequences == 0)
        return KV_OK;
    if (kv_check_pointer(what, "n", n, 4, err) || check_kept(kept, n_kept, err))
        return KV_FAIL_USAGE;
    std::vector<Step> step(size_t(c->pool.sequences));
    std::vector<int> list;
    long long rows = 0;
    for (int s = 0; s < c->pool.sequences; s++) {
        step[s].first = rows;
        if (plan_step(&step[s], c, s, n[s], 0, err) ||
            plan_kept(&step[s], list, c, s, kept, kept ? n_kept[s] : 0, err))
            return KV_FAIL_USAGE;
        kept = kept ? kept + n_kept[s] : nullptr;
        rows += n[s];
    }
    if (rows && (kv_check_pointer(what, "k", k, 16, err) ||
                 kv_check_pointer(what, "v", v, 16, err)))
        return KV_FAIL_USAGE;
    Job job = {{}, nullptr, nullptr, k, v, is_half, rows, fault};
    return rows ? run_plan(c, step, list, job, version, err) : KV_OK;
}

//@ seal: Quantize what waits
extern "C" int kv_cuda_seal(kv_cuda_cache *c, kv_fault *fault, int version,
                            kv_error *err) {
    if (check_pool(c, version, err) ||
        kv_check_pointer("seal", "fault", fault, 8, err))
        return KV_FAIL_USAGE;
    if (c->pool.sequences == 0)
        return KV_OK;
    std::vector<Step> step(size_t(c->pool.sequences));
    for (int s = 0; s < c->pool.sequences; s++) {
        step[s].first = 0;
        step[s].list = 0;
        if (plan_step(&step[s], c, s, 0, 1, err))
            return KV_FAIL_USAGE;
    }
    Job job = {};
    job.fault = fault;
    return run_plan(c, step, std::vector<int>(), job, version, err);
}
