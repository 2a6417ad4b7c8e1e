//@ top: Attend straight from codes
/* One new query token per sequence against its whole cache. Nothing is
 * unpacked to memory: codes, rows that are kept and rows that wait are read
 * once, in one pass with an online softmax, and the values are averaged with
 * weights that are corrected whenever a larger score turns up.
 *
 *   k01  one warp walks all tokens of a query head, one element at a time
 *   k02  many warps share the tokens; a second kernel joins what they found
 *   k03  tensor cores multiply, codes being their operands as they lie there;
 *        query heads that share a KV head are columns of one matrix
 *   k04  the same, with tiles copied to shared memory two ahead, each byte
 *        asked for once
 *
 * layout.h says where everything lies. Each version answers every shape,
 * format and length unless its launcher says otherwise. */
#include "launch.h"
#include "layout.cuh"

//@ job: Hand all that a launch needs to the kernels
struct Decode {
    kv_pool pool;
    kv_turn turn; /* speed NULL: keys are stored as they are used */
    const float *q, *sink;
    float *out, *partial;
    kv_fault *fault;
    int heads, shares; /* shares: parts into which the tokens are dealt */
};

/* What one share found for one query head: D sums, the largest score, the sum
 * of weights, and two unused, so that parts are aligned to 16 bytes. */
KV_DEVICE float *part_of(const Decode &d, int s, int head, int share) {
    size_t stride = size_t(d.pool.tile.head_size) + 4;
    return d.partial +
           ((size_t(s) * d.heads + head) * d.shares + share) * stride;
}

//@ sequence: Read the state of a sequence, and distrust it
/* The state lies on the device, where no launcher sees it. Whatever it says,
 * nothing outside the arrays is read; what cannot be is a fault. */
struct Sequence {
    int tokens, keys, values, kept; /* keys, values: how many are coded */
};

KV_DEVICE int clamp(int x, int most) { return min(max(x, 0), most); }

KV_DEVICE Sequence read_sequence(const Decode &d, int s) {
    const kv_pool &p = d.pool;
    int tokens = p.tokens[s], keys = p.quantized_keys[s];
    int values = p.quantized_values[s], kept = p.kept[s];
    Sequence q;
    q.tokens = clamp(tokens, p.max_tiles * KV_TILE);
    q.values = clamp(values, q.tokens);
    q.keys = clamp(keys, q.values);
    q.kept = clamp(kept, p.kept_capacity);
    bool wrong = q.tokens != tokens || q.values != values || q.keys != keys ||
                 q.kept != kept ||
                 (keys % p.tile.key_group && keys != tokens);
    q.keys = wrong ? 0 : q.keys; /* whole groups, or all */
    if (q.tokens - q.keys > p.window) {
        wrong = true;
        q.tokens = q.keys + p.window;
        q.values = min(q.values, q.tokens);
    }
    if (wrong)
        atomicMin(d.fault, kv_fault(p.sequences) * d.heads + s);
    return q;
}

//@ tile: Find a tile, whatever the page table says
KV_DEVICE const uint8_t *find_tile(const Decode &d, int s, int head, int tile) {
    const kv_pool &p = d.pool;
    int page = tile;
    if (p.pages) {
        page = p.pages[s * p.max_tiles + tile];
        if (page < 0 || page >= p.page_count) {
            atomicMin(d.fault, kv_fault(p.sequences) * d.heads + s);
            page = 0;
        }
    }
    return p.tiles + size_t(s) * p.sequence_stride +
           size_t(page) * p.page_stride + size_t(head) * p.head_stride;
}

KV_DEVICE bool is_hole(const kv_pool &p, int s, int t) {
    if (!p.holes)
        return false;
    const uint32_t *tile = p.holes + size_t(s * p.max_tiles + t / KV_TILE) * 4;
    return tile[t % KV_TILE / 32] >> t % 32 & 1;
}

//@ row: Say where one token's key and value are
/* key, value: rows of binary16, or NULL if they are codes of the tile. */
struct Row {
    const uint8_t *tile;
    int at, t; /* place in the tile; position */
    const __half *key, *value;
};

KV_DEVICE const __half *row_of(const uint16_t *rows, size_t row,
                               const kv_pool &p, int head) {
    return reinterpret_cast<const __half *>(rows) +
           (row * p.kv_heads + head) * p.tile.head_size;
}

KV_DEVICE Row find_row(const Decode &d, const Sequence &q, int s, int head,
                       int t) {
    const kv_pool &p = d.pool;
    Row r = {nullptr, t % KV_TILE, t, nullptr, nullptr};
    size_t slot = size_t(s) * p.window + (p.window ? t % p.window : 0);
    if (t < q.values)
        r.tile = find_tile(d, s, head, t / KV_TILE);
    if (t >= q.keys)
        r.key = row_of(p.window_keys, slot, p, head);
    if (t >= q.values)
        r.value = row_of(p.window_values, slot, p, head);
    return r;
}

KV_DEVICE Row kept_row(const Decode &d, int s, int head, int i) {
    const kv_pool &p = d.pool;
    size_t slot = size_t(s) * p.kept_capacity + i;
    return {nullptr, 0, p.position[slot], row_of(p.kept_keys, slot, p, head),
            row_of(p.kept_values, slot, p, head)};
}

//@ dequantize: Turn a code into the number it stands for
KV_DEVICE float dequantize(int code, const __half *scale, int min_at, int bits,
                           int symmetric) {
    float s = __half2float(scale[0]);
    if (symmetric)
        return float(code - (1 << (bits - 1))) * s;
    return float(code) * s + __half2float(scale[min_at]);
}

KV_DEVICE float key_element(const kv_tile &l, const Row &r, int c) {
    if (r.key)
        return __half2float(r.key[c]);
    int code = kv_tile_code(reinterpret_cast<const uint32_t *>(r.tile),
                            kv_key_spot(l.head_size, r.at, c), l.key_bits);
    const __half *scale =
        reinterpret_cast<const __half *>(r.tile + l.key_params) +
        kv_key_param_at(&l, r.at, c);
    return dequantize(code, scale, kv_key_min(&l), l.key_bits,
                      l.key_symmetric);
}

KV_DEVICE float value_element(const kv_tile &l, const Row &r, int c) {
    if (r.value)
        return __half2float(r.value[c]);
    const uint32_t *codes =
        reinterpret_cast<const uint32_t *>(r.tile + l.value_codes);
    int code = kv_tile_code(codes, kv_value_spot(l.head_size, r.at, c),
                            l.value_bits);
    const __half *scale =
        reinterpret_cast<const __half *>(r.tile + l.value_params) +
        kv_value_param_at(&l, r.at, c);
    return dequantize(code, scale, kv_value_min(&l), l.value_bits,
                      l.value_symmetric);
}

//@ turn: Rotate a key that is stored before RoPE, as it is read
/* The angle is taken in double: positions are large, and what is left of them
 * after whole turns is small. */
KV_DEVICE float turned_key(const Decode &d, const Row &r, int c) {
    const kv_tile &l = d.pool.tile;
    float k = key_element(l, r, c);
    if (!d.turn.speed || c >= d.turn.dims)
        return k;
    int half = d.turn.dims / 2;
    int i = d.turn.interleaved ? c / 2 : c % half;
    bool first = d.turn.interleaved ? c % 2 == 0 : c < half;
    int other = d.turn.interleaved ? c ^ 1 : first ? c + half : c - half;
    double angle = double(r.t + d.turn.shift) * d.turn.speed[i];
    float cosine = float(cos(angle)), sine = float(sin(angle));
    float o = key_element(l, r, other);
    return first ? k * cosine - o * sine : o * sine + k * cosine;
}

//@ state: Carry an online softmax along
/* Lane i holds channels i, i+32, ... of the query and of the sums. */
enum { PER_LANE = 4 };

struct State {
    float q[PER_LANE], sum[PER_LANE];
    float max, weight; /* largest score so far, sum of exp(score - max) */
};

KV_DEVICE State begin(const Decode &d, int s, int head) {
    State st;
    int lane = threadIdx.x % 32, D = d.pool.tile.head_size;
    const float *q = d.q + (size_t(s) * d.heads + head) * D;
    for (int i = 0; i < PER_LANE; i++) {
        st.q[i] = lane + 32 * i < D ? q[lane + 32 * i] : 0;
        st.sum[i] = 0;
    }
    st.max = -INFINITY;
    st.weight = 0;
    return st;
}

//@ take: Take one more token in
KV_DEVICE void take(const Decode &d, int s, int head, State &st, const Row &r) {
    const kv_tile &l = d.pool.tile;
    int lane = threadIdx.x % 32, D = l.head_size;
    float score = 0;
    for (int i = 0; i < D / 32; i++)
        score += st.q[i] * turned_key(d, r, lane + 32 * i);
    score = kv_warp_sum(score) / sqrtf(float(D));
    if (!kv_is_finite(score) && lane == 0)
        atomicMin(d.fault, kv_fault(s) * d.heads + head);
    float most = fmaxf(st.max, score);
    float old = st.weight > 0 ? expf(st.max - most) : 0;
    float w = expf(score - most);
    for (int i = 0; i < D / 32; i++)
        st.sum[i] = st.sum[i] * old + w * value_element(l, r, lane + 32 * i);
    st.weight = st.weight * old + w;
    st.max = most;
}

//@ walk: Walk over a share of the tokens, then of the kept rows
/* Share i of n takes tokens i, i+n, ... in runs of 16. */
KV_DEVICE void walk(const Decode &d, int s, int head, int share, int shares,
                    State &st) {
    Sequence q = read_sequence(d, s);
    int kv_head = head / (d.heads / d.pool.kv_heads);
    for (int first = 16 * share; first < q.tokens; first += 16 * shares)
        for (int t = first; t < min(first + 16, q.tokens); t++)
            if (!is_hole(d.pool, s, t))
                take(d, s, head, st, find_row(d, q, s, kv_head, t));
    for (int i = share; i < q.kept; i += shares)
        take(d, s, head, st, kept_row(d, s, kv_head, i));
}

//@ k01: Let one warp walk over all tokens of a query head
/* A sink logit is one more score, without a value. An empty cache gives 0. */
__global__ void k01(const __grid_constant__ Decode d) {
    int head = blockIdx.x, s = blockIdx.y, D = d.pool.tile.head_size;
    State st = begin(d, s, head);
    walk(d, s, head, 0, 1, st);
    float most = d.sink ? fmaxf(st.max, d.sink[head]) : st.max;
    float rest = d.sink ? expf(d.sink[head] - most) : 0;
    float old = st.weight > 0 ? expf(st.max - most) : 0;
    float total = st.weight * old + rest;
    for (int i = 0; i < D / 32; i++)
        d.out[(size_t(s) * d.heads + head) * D + threadIdx.x + 32 * i] =
            total > 0 ? st.sum[i] * old / total : 0;
}

//@ k02: Let many warps share the tokens (flash-decoding)
enum { WARPS = 4 };

__global__ void k02(const __grid_constant__ Decode d) {
    int lane = threadIdx.x % 32, D = d.pool.tile.head_size;
    int share = blockIdx.x * WARPS + threadIdx.x / 32;
    int head = blockIdx.y, s = blockIdx.z;
    State st = begin(d, s, head);
    walk(d, s, head, share, d.shares, st);
    float *part = part_of(d, s, head, share);
    for (int i = 0; i < D / 32; i++)
        part[lane + 32 * i] = st.sum[i];
    if (lane < 4)
        part[D + lane] = lane == 0 ? st.max : lane == 1 ? st.weight : 0;
}

//@ join: Join what the shares found
/* One thread a channel. Sums of different shares stand for different maxima;
 * each is scaled down to the largest. */
__global__ void join(const __grid_constant__ Decode d) {
    int head = blockIdx.x, s = blockIdx.y, D = d.pool.tile.head_size;
    int c = threadIdx.x;
    float most = d.sink ? d.sink[head] : -INFINITY, total = 0, sum = 0;
    for (int i = 0; i < d.shares; i++) {
        const float *part = part_of(d, s, head, i);
        if (part[D + 1] > 0)
            most = fmaxf(most, part[D]);
    }
    if (d.sink)
        total = expf(d.sink[head] - most);
    for (int i = 0; i < d.shares; i++) {
        const float *part = part_of(d, s, head, i);
        if (part[D + 1] > 0) {
            float w = expf(part[D] - most);
            total += w * part[D + 1];
            sum += w * part[c];
        }
    }
    d.out[(size_t(s) * d.heads + head) * D + c] = total > 0 ? sum / total : 0;
}

//@ fields: Unpack 16 matrices of codes into tensor-core operands
/* 16 fields are BITS quads. A code stays where it lies in its half: with
 * nothing above it, the half is a subnormal binary16 number, code * 2^(p-24)
 * if the lowest bit is bit p. No conversion, and no bias to take away; the
 * power of two is made up for elsewhere. Codes must end below bit 10, where
 * the exponent begins, so the upper byte of each half is shifted down. */
KV_BOTH constexpr int field_shift(int bits, int field) {
    return bits == 3 ? 0 : bits * (field % (8 / bits));
}
KV_BOTH constexpr int top_shift(int bits) {
    return bits == 3 ? 0 : 8 - bits;
}

/* 2^n twice, n from 0 to 15. */
KV_BOTH constexpr uint32_t half_power(int n) {
    return uint32_t(n + 15) << 10 | uint32_t(n + 15) << 26;
}

template <int BITS> KV_DEVICE uint32_t field_of(const uint32_t *w, int field) {
    constexpr uint32_t ones = ((1u << BITS) - 1) * 0x10001u;
    if constexpr (BITS == 3) {
        if (field == 15)
            return (w[0] >> 15 & 0x10001u) | (w[4] >> 14 & 0x20002u) |
                   (w[8] >> 13 & 0x40004u);
        return w[field / 5 * 4] >> (field % 5 * 3) & ones;
    } else {
        constexpr int fields = 16 / BITS, low = 8 / BITS;
        uint32_t v = w[field / fields * 4];
        v = field % fields >= low ? v >> 8 : v;
        return v & ones << field_shift(BITS, field);
    }
}

//@ quads: Load the quads of 16 fields, and hand out operand A
template <int BITS> struct Quads {
    uint32_t w[BITS * 4];
};

KV_DEVICE uint4 load16(const void *p) {
    return *static_cast<const uint4 *>(p);
}

template <int BITS>
KV_DEVICE void load_quads(Quads<BITS> &q, const uint8_t *codes) {
#pragma unroll
    for (int i = 0; i < BITS; i++) {
        uint4 v = load16(codes + i * 512);
        q.w[4 * i] = v.x, q.w[4 * i + 1] = v.y;
        q.w[4 * i + 2] = v.z, q.w[4 * i + 3] = v.w;
    }
}

template <int BITS>
KV_DEVICE void operand(uint32_t *a, const Quads<BITS> &q, int field) {
#pragma unroll
    for (int i = 0; i < 4; i++)
        a[i] = field_of<BITS>(q.w + i, field);
}

//@ warp: Hold what a warp of tensor-core work carries along
/* Lane 4r+j. Of operand B, the queries, it holds channels of head r; of
 * results it holds heads 2j and 2j+1. Heads beyond the group are zero. A CHUNK
 * is 16 matrices of keys and 16 of values: 32 tokens of 128 channels or 64 of
 * 64. MT is its number of 16 tokens, KT that of 16 channels. */
template <int D, int CG> struct Warp {
    static constexpr int KT = D / 16, MT = 16 / KT;
    uint32_t q[2 * KT];      /* query, scaled by a power of two: of every 32
                                channels 8j + 0 1, 4 5, 2 3, 6 7 */
    uint32_t folded[2 * KT]; /* the same times the scales of a group */
    float unit[2];           /* what 1 of a score of q is worth, in log2 */
    float offset[2];         /* of a group: the minima's part of a score */
    float max[2];            /* largest score so far, in log2 */
    float sum[KT][4];        /* rows: channels; columns: heads */
    float low[(CG + 1) / 2][4]; /* sums of p * minimum, two groups each */
    float weight[4];         /* sums of p (CG = 1: lower half of low) */
};

//@ query: Bring the queries to the block
/* Rows of D + 4 in shared memory: then lanes meet no bank twice. */
template <int D>
KV_DEVICE void bring_query(float *shared, const Decode &d, int s, int head,
                           int heads) {
    const float *q = d.q + (size_t(s) * d.heads + head) * D;
    for (int i = threadIdx.x; i < heads * D / 4; i += 32 * WARPS)
        *reinterpret_cast<uint4 *>(shared + i / (D / 4) * (D + 4) +
                                   i % (D / 4) * 4) = load16(q + 4 * i);
    __syncthreads();
}

//@ load-query: Load a lane's part, scaled so that no product overflows
/* The largest |q| of a head is brought to 2^-8..2^-7: times any scale, times
 * 2^top_shift, it still fits binary16. */
template <int D, int CG>
KV_DEVICE void load_query(Warp<D, CG> &w, const float *shared, const Decode &d,
                          int s, int head, int heads) {
    int lane = threadIdx.x % 32, r = lane / 4, j = lane % 4;
    const float *q = shared + min(r, heads - 1) * (D + 4) + 8 * j;
    float x[D / 4], most = 0;
#pragma unroll
    for (int i = 0; i < D / 4; i += 4) {
        float4 v = *reinterpret_cast<const float4 *>(q + i / 8 * 32 + i % 8);
        x[i] = v.x, x[i + 1] = v.y, x[i + 2] = v.z, x[i + 3] = v.w;
        most = fmaxf(fmaxf(most, fmaxf(fabsf(v.x), fabsf(v.y))),
                     fmaxf(fabsf(v.z), fabsf(v.w)));
    }
    most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
    most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
    int e = most > 0 ? int(__float_as_uint(most) >> 23) - 127 + 8 : 0;
    float scale = r < heads ? exp2f(float(-e)) : 0;
#pragma unroll
    for (int i = 0; i < 2 * w.KT; i++) {
        int c = i / 4 * 8 + i % 2 * 4 + i % 4 / 2 * 2;
        w.q[i] = kv_word(__floats2half2_rn(x[c] * scale, x[c + 1] * scale));
    }
    float unit = exp2f(float(e)) * 1.44269504f / sqrtf(float(D));
    w.unit[0] = __shfl_sync(~0u, unit, 8 * j);
    w.unit[1] = __shfl_sync(~0u, unit, 8 * j + 4);
    if (!(most < 0x1p100f) && j == 0)
        atomicMin(d.fault, kv_fault(s) * d.heads + head + min(r, heads - 1));
}

//@ clear: Begin with nothing
template <int D, int CG> KV_DEVICE void clear(Warp<D, CG> &w) {
    w.max[0] = w.max[1] = -INFINITY;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        w.weight[i] = 0;
        for (int k = 0; k < w.KT; k++)
            w.sum[k][i] = 0;
        for (int k = 0; k < (CG + 1) / 2; k++)
            w.low[k][i] = 0;
    }
}

//@ fold: Fold the scales of a group of keys into the query
/* score = sum q (code s + m) = sum (q s) code + sum q m. The first product is
 * made once for 32 tokens or more. The second is a number for the whole group,
 * and tensor cores sum it: a lane's eight minima are operand A as they come,
 * so that rows 0-7 hold those of channels 0 1 4 5 and rows 8-15 the others. */
template <int D, int CG, int BITS>
KV_DEVICE void fold(Warp<D, CG> &w, const uint8_t *params) {
    float c[4] = {0, 0, 0, 0}, e[4] = {0, 0, 0, 0};
#pragma unroll
    for (int b = 0; b < D / 32; b++) {
        uint4 s = load16(params + 64 * b), m = load16(params + 2 * D + 64 * b);
        uint32_t scale[4] = {s.x, s.y, s.z, s.w}, low[4] = {m.x, m.y, m.z, m.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int up = top_shift(BITS) - field_shift(BITS, 2 * b + i / 2);
            uint32_t f = kv_mul2(w.q[4 * b + i % 2 * 2 + i / 2], scale[i]);
            w.folded[4 * b + i] = up ? kv_mul2(f, half_power(up)) : f;
        }
        kv_mma(c, low, w.q[4 * b], w.q[4 * b + 1]);
        kv_mma(e, low, w.q[4 * b + 2], w.q[4 * b + 3]);
    }
    w.offset[0] = (c[0] + e[2]) * w.unit[0];
    w.offset[1] = (c[1] + e[3]) * w.unit[1];
}

//@ cursor: Move through a tile
/* A lane's own addresses: of quads, of the parameters of values, which go with
 * tokens, and of the next group of keys. All else is a constant away. */
template <int D, int BITS, int CG> struct Cursor {
    static constexpr int TOKENS = 16 * Warp<D, CG>::MT, BYTES = 512 * BITS;
    static constexpr int VALUES = KV_TILE * D * BITS / 8; /* from keys */
    static constexpr int MIN = 2 * KV_TILE, GROUP = 2 * MIN;
    const uint8_t *codes, *values, *keys;
    int mask; /* tokens of a group of keys - 1 */
};

template <int D, int BITS, int CG>
KV_DEVICE Cursor<D, BITS, CG> cursor_at(const kv_tile &l, const uint8_t *tile,
                                        int token) {
    typedef Cursor<D, BITS, CG> C;
    int lane = threadIdx.x % 32, params = lane % 4 * 16 + 2 * C::VALUES;
    return {tile + lane * 16 + token / C::TOKENS * C::BYTES,
            tile + params + 2 * token, tile + params + CG * C::GROUP,
            l.key_group - 1};
}

//@ coded-scores: Score a chunk of coded keys
/* score[m] are rows (tokens) 16m + r and 16m + r + 8, columns 2j and 2j+1. */
template <int MT> struct Chunk {
    float score[MT][4];
    float unit[2], offset[MT / 2][2]; /* of each 32 tokens */
    uint32_t valid[MT / 2];           /* a bit for each token */
    uint32_t p[MT][2];                /* weights, as operand B */
};

template <int D, int CG, int BITS>
KV_DEVICE void coded_scores(Warp<D, CG> &w, Chunk<Warp<D, CG>::MT> &c,
                            const Quads<BITS> &q, Cursor<D, BITS, CG> &at,
                            int token) {
    constexpr int KT = w.KT, MT = w.MT;
#pragma unroll
    for (int m = 0; m < MT; m++) {
        if (m % 2 == 0 && ((token + 16 * m) & at.mask) == 0) {
            fold<D, CG, BITS>(w, at.keys);
            at.keys += 4 * D;
        }
        float *x = c.score[m];
        x[0] = x[1] = x[2] = x[3] = 0;
#pragma unroll
        for (int k = 0; k < KT; k++) {
            uint32_t a[4];
            operand(a, q, m * KT + k);
            kv_mma(x, a, w.folded[2 * k], w.folded[2 * k + 1]);
        }
        c.offset[m / 2][0] = w.offset[0];
        c.offset[m / 2][1] = w.offset[1];
    }
    constexpr float scale = float(1 << (24 - top_shift(BITS)));
    c.unit[0] = w.unit[0] * scale, c.unit[1] = w.unit[1] * scale;
}

//@ rows: Find rows of 16 bits
/* Row i of a chunk is row (first + i) % modulo of a table. A row that is not
 * valid may never have been written: another is read in its place. */
struct Rows {
    const uint8_t *keys, *values;
    size_t stride;
    int first, modulo;
};

KV_DEVICE Rows rows_at(const kv_pool &p, int s, int head, bool kept,
                       int first) {
    int modulo = kept ? p.kept_capacity : p.window, D = p.tile.head_size;
    size_t at = (size_t(s) * modulo * p.kv_heads + head) * D;
    const uint16_t *k = kept ? p.kept_keys : p.window_keys;
    const uint16_t *v = kept ? p.kept_values : p.window_values;
    return {reinterpret_cast<const uint8_t *>(k + at),
            reinterpret_cast<const uint8_t *>(v + at),
            size_t(p.kv_heads) * D * 2, first % modulo, modulo};
}

/* The valid ones of rows 16m.. of a chunk. */
template <int MT> KV_DEVICE uint32_t sixteen(const Chunk<MT> &c, int m) {
    return c.valid[m / 2] >> m % 2 * 16 & 0xffff;
}

template <int MT>
KV_DEVICE size_t row_offset(const Rows &rows, const Chunk<MT> &c, int m,
                            int i) {
    uint32_t valid = sixteen(c, m);
    int row = rows.first + 16 * m + (valid >> i & 1 ? i : __ffs(valid) - 1);
    return size_t(row < rows.modulo ? row : row - rows.modulo) * rows.stride;
}

//@ row-scores: Score a chunk of keys in 16 bits
template <int D, int CG>
KV_DEVICE void row_scores(Warp<D, CG> &w, Chunk<Warp<D, CG>::MT> &c,
                          const Rows &rows) {
    int lane = threadIdx.x % 32, r = lane / 4, j = lane % 4;
#pragma unroll
    for (int m = 0; m < w.MT; m++) {
        float *x = c.score[m];
        x[0] = x[1] = x[2] = x[3] = 0;
        c.offset[m / 2][0] = c.offset[m / 2][1] = 0;
        if (!sixteen(c, m))
            continue;
        const uint8_t *k0 = rows.keys + row_offset(rows, c, m, r);
        const uint8_t *k1 = rows.keys + row_offset(rows, c, m, r + 8);
#pragma unroll
        for (int b = 0; b < D / 32; b++) {
            uint4 u = load16(k0 + (32 * b + 8 * j) * 2);
            uint4 v = load16(k1 + (32 * b + 8 * j) * 2);
            uint32_t a[4] = {u.x, v.x, u.z, v.z}, e[4] = {u.y, v.y, u.w, v.w};
            kv_mma(x, a, w.q[4 * b], w.q[4 * b + 1]);
            kv_mma(x, e, w.q[4 * b + 2], w.q[4 * b + 3]);
        }
    }
    c.unit[0] = w.unit[0], c.unit[1] = w.unit[1];
}

//@ mask: Give tokens that are not there no weight
template <int MT> KV_DEVICE void mask(Chunk<MT> &c) {
    int r = threadIdx.x % 32 / 4;
#pragma unroll
    for (int m = 0; m < MT; m++) {
        uint32_t bits = c.valid[m / 2] >> (m % 2 * 16 + r);
        if (!(bits & 1))
            c.score[m][0] = c.score[m][1] = -INFINITY;
        if (!(bits >> 8 & 1))
            c.score[m][2] = c.score[m][3] = -INFINITY;
    }
}

//@ rescale: Correct what has been summed for a larger score
template <int D, int CG>
KV_DEVICE void rescale(Warp<D, CG> &w, float most0, float most1) {
#pragma unroll
    for (int i = 4; i < 32; i *= 2) {
        most0 = fmaxf(most0, __shfl_xor_sync(~0u, most0, i));
        most1 = fmaxf(most1, __shfl_xor_sync(~0u, most1, i));
    }
    most0 = fmaxf(most0, w.max[0]);
    most1 = fmaxf(most1, w.max[1]);
    float f[2] = {kv_exp2(w.max[0] - most0), kv_exp2(w.max[1] - most1)};
    w.max[0] = most0, w.max[1] = most1;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        w.weight[i] *= f[i % 2];
        for (int k = 0; k < w.KT; k++)
            w.sum[k][i] *= f[i % 2];
        for (int k = 0; k < (CG + 1) / 2; k++)
            w.low[k][i] *= f[i % 2];
    }
}

//@ weigh: Turn scores into weights
/* Most chunks have no score above the largest so far; a vote finds out, and
 * only then lanes exchange theirs. Rows of the scores' matrix are tokens;
 * operand B wants them as columns. */
template <int D, int CG, int MT>
KV_DEVICE void weigh(Warp<D, CG> &w, Chunk<MT> &c) {
    float most[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int m = 0; m < MT; m += 2)
        for (int i = 0; i < 2; i++) {
            float x = fmaxf(fmaxf(c.score[m][i], c.score[m][i + 2]),
                            fmaxf(c.score[m + 1][i], c.score[m + 1][i + 2]));
            most[i] = fmaxf(most[i], x * c.unit[i] + c.offset[m / 2][i]);
        }
    if (__any_sync(~0u, most[0] > w.max[0] || most[1] > w.max[1]))
        rescale(w, most[0], most[1]);
#pragma unroll
    for (int m = 0; m < MT; m++) {
        float p[4];
        for (int i = 0; i < 4; i++)
            p[i] = kv_exp2(c.score[m][i] * c.unit[i % 2] +
                           (c.offset[m / 2][i % 2] - w.max[i % 2]));
        c.p[m][0] = kv_transpose(kv_word(__floats2half2_rn(p[0], p[1])));
        c.p[m][1] = kv_transpose(kv_word(__floats2half2_rn(p[2], p[3])));
    }
}

//@ ones: Sum the weights, and weights times minima
/* Rows of A are all the same here: minima of one group above those of
 * another; with one group only, ones below it. */
constexpr uint32_t half_ones = 0x3c003c00u;

template <int D, int CG>
KV_DEVICE void sum_low(Warp<D, CG> &w, const uint32_t (*low)[2],
                       const uint32_t *p) {
#pragma unroll
    for (int k = 0; k < CG; k += 2) {
        uint32_t a[4] = {low[k][0], half_ones, low[k][1], half_ones};
        if (k + 1 < CG)
            a[1] = low[k + 1][0], a[3] = low[k + 1][1];
        kv_mma(w.low[k / 2], a, p[0], p[1]);
    }
    const uint32_t ones[4] = {half_ones, half_ones, half_ones, half_ones};
    if (CG > 1)
        kv_mma(w.weight, ones, p[0], p[1]);
}

//@ coded-values: Add a chunk of coded values
/* The scales of tokens go into their weights, once for each group. */
template <int D, int CG, int BITS>
KV_DEVICE void coded_values(Warp<D, CG> &w, const Chunk<Warp<D, CG>::MT> &c,
                            const Quads<BITS> &q,
                            const uint8_t *params) {
    typedef Cursor<D, BITS, CG> C;
    constexpr int KT = w.KT, MT = w.MT;
#pragma unroll
    for (int h = 0; h < MT / 2; h++) {
        uint32_t scale[CG][4], low[2][CG][2];
#pragma unroll
        for (int g = 0; g < CG; g++) {
            const uint8_t *at = params + g * C::GROUP + 64 * h;
            uint4 s = load16(at), m = load16(at + C::MIN);
            scale[g][0] = s.x, scale[g][1] = s.y;
            scale[g][2] = s.z, scale[g][3] = s.w;
            low[0][g][0] = m.x, low[0][g][1] = m.y;
            low[1][g][0] = m.z, low[1][g][1] = m.w;
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const uint32_t *p = c.p[2 * h + i];
            sum_low<D, CG>(w, low[i], p);
#pragma unroll
            for (int g = 0; g < CG; g++) {
                uint32_t b[2];
                for (int k = 0; k < 2; k++)
                    b[k] = kv_mul2(p[k], scale[g][2 * i + k]);
#pragma unroll
                for (int k = g * KT / CG; k < (g + 1) * KT / CG; k++) {
                    uint32_t a[4];
                    operand(a, q, (2 * h + i) * KT + k);
                    kv_mma(w.sum[k], a, b[0], b[1]);
                }
            }
        }
    }
}

//@ row-values: Add a chunk of values in 16 bits
/* Columns are tokens here, but rows of the table are tokens: two rows are
 * interleaved to make pairs. */
template <int D, int CG>
KV_DEVICE void row_values(Warp<D, CG> &w, const Chunk<Warp<D, CG>::MT> &c,
                          const Rows &rows) {
    int lane = threadIdx.x % 32, r = lane / 4, j = lane % 4;
    const uint32_t none[CG][2] = {};
#pragma unroll
    for (int m = 0; m < w.MT; m++) {
        const uint8_t *v[4];
        if (!sixteen(c, m))
            continue;
#pragma unroll
        for (int i = 0; i < 4; i++)
            v[i] = rows.values + 8 * r +
                   row_offset(rows, c, m, 2 * j + i % 2 + i / 2 * 8);
        sum_low<D, CG>(w, none, c.p[m]);
#pragma unroll
        for (int b = 0; b < D / 32; b++) {
            uint2 x[4];
            for (int i = 0; i < 4; i++)
                x[i] = *reinterpret_cast<const uint2 *>(v[i] + 64 * b);
            uint32_t a[4], e[4];
            for (int i = 0; i < 4; i++) {
                unsigned which = i % 2 ? 0x7632 : 0x5410; /* high, low halves */
                a[i] = kv_prmt(x[i / 2 * 2].x, x[i / 2 * 2 + 1].x, which);
                e[i] = kv_prmt(x[i / 2 * 2].y, x[i / 2 * 2 + 1].y, which);
            }
            kv_mma(w.sum[2 * b], a, c.p[m][0], c.p[m][1]);
            kv_mma(w.sum[2 * b + 1], e, c.p[m][0], c.p[m][1]);
        }
    }
}

//@ valid: Say which tokens of a chunk count
/* Tokens first..last-1 of the 32 from t on that are no holes. */
KV_DEVICE uint32_t valid_tokens(const kv_pool &p, int s, int t, int first,
                                int last) {
    uint32_t bits = ~0u;
    if (p.holes && t < p.max_tiles * KV_TILE)
        bits = ~p.holes[size_t(s * p.max_tiles + t / KV_TILE) * 4 +
                        t % KV_TILE / 32];
    if (first > t)
        bits = first - t < 32 ? bits & ~0u << (first - t) : 0;
    if (last - t < 32)
        bits = last > t ? bits & ~0u >> (32 - (last - t)) : 0;
    return bits;
}

template <int MT>
KV_DEVICE void set_valid(Chunk<MT> &c, const kv_pool &p, int s, int t,
                         int first, int last) {
#pragma unroll
    for (int h = 0; h < MT / 2; h++)
        c.valid[h] = valid_tokens(p, s, t + 32 * h, first, last);
}

template <int MT> KV_DEVICE bool any_valid(const Chunk<MT> &c) {
    return (c.valid[0] | c.valid[MT / 2 - 1]) != 0;
}

//@ tile-mask: See which tokens of a tile do not count
/* Holes, and what lies behind the last coded key. Most tiles have none. */
KV_DEVICE uint4 invalid_tokens(const kv_pool &p, int s, int tile, int last) {
    uint4 bad = make_uint4(0, 0, 0, 0);
    if (p.holes) {
        uint32_t mine = p.holes[size_t(s * p.max_tiles + tile) * 4 +
                                threadIdx.x % 4];
        if (__any_sync(~0u, mine != 0)) {
            bad.x = __shfl_sync(~0u, mine, 0);
            bad.y = __shfl_sync(~0u, mine, 1);
            bad.z = __shfl_sync(~0u, mine, 2);
            bad.w = __shfl_sync(~0u, mine, 3);
        }
    }
    int n = last - tile * KV_TILE;
    if (n < KV_TILE) {
        bad.x |= n < 32 ? ~0u << n : 0;
        bad.y |= n < 64 ? ~0u << max(n - 32, 0) : 0;
        bad.z |= n < 96 ? ~0u << max(n - 64, 0) : 0;
        bad.w |= ~0u << max(n - 96, 0);
    }
    return bad;
}

//@ step: Take in a chunk of coded keys and values
template <int D, int BITS, int CG>
KV_DEVICE void step(Warp<D, CG> &w, Cursor<D, BITS, CG> &at, int token,
                    uint32_t bad0, uint32_t bad1) {
    typedef Cursor<D, BITS, CG> C;
    Chunk<Warp<D, CG>::MT> c;
    Quads<BITS> keys, values;
    load_quads(keys, at.codes);
    load_quads(values, at.codes + C::VALUES);
    coded_scores<D, CG, BITS>(w, c, keys, at, token);
    if (bad0 | bad1) {
        c.valid[0] = ~bad0;
        c.valid[w.MT / 2 - 1] = ~bad1;
        if (!any_valid(c))
            return;
        mask(c);
    }
    weigh(w, c);
    coded_values<D, CG, BITS>(w, c, values, at.values);
}

//@ tile-walk: Walk over the coded tokens of a tile
template <int D, int BITS, int CG>
KV_DEVICE void walk_tile(Warp<D, CG> &w, const Decode &d, const Sequence &q,
                         int s, int tile, const uint8_t *where) {
    typedef Cursor<D, BITS, CG> C;
    C at = cursor_at<D, BITS, CG>(d.pool.tile, where, 0);
    uint4 bad = invalid_tokens(d.pool, s, tile, q.keys);
    int last = min(KV_TILE, q.keys - tile * KV_TILE);
#pragma unroll 1
    for (int t = 0; t < last; t += 64) {
        uint32_t bad0 = t ? bad.z : bad.x, bad1 = t ? bad.w : bad.y;
#pragma unroll
        for (int i = 0; i < 64; i += C::TOKENS) {
            Cursor<D, BITS, CG> here = at;
            here.codes += i / C::TOKENS * C::BYTES;
            here.values += 2 * i;
            step(w, here, t + i, i ? bad1 : bad0,
                 C::TOKENS == 64 || i ? bad1 : bad0);
            at.keys = here.keys;
        }
        at.codes += 64 / C::TOKENS * C::BYTES;
        at.values += 2 * 64;
    }
}

//@ mixed-walk: Walk over tokens whose keys wait while their values are coded
template <int D, int BITS, int CG>
KV_DEVICE void walk_mixed(Warp<D, CG> &w, const Decode &d, const Sequence &q,
                          int s, int head, int t) {
    typedef Cursor<D, BITS, CG> C;
    Chunk<Warp<D, CG>::MT> c;
    Quads<BITS> values;
    set_valid(c, d.pool, s, t, q.keys, q.values);
    if (!any_valid(c))
        return;
    C at = cursor_at<D, BITS, CG>(
        d.pool.tile, find_tile(d, s, head, t / KV_TILE), t % KV_TILE);
    load_quads(values, at.codes + C::VALUES);
    row_scores(w, c, rows_at(d.pool, s, head, false, t));
    mask(c);
    weigh(w, c);
    coded_values<D, CG, BITS>(w, c, values, at.values);
}

//@ row-walk: Walk over a chunk of rows that wait, or are kept
template <int D, int CG>
KV_DEVICE void walk_rows(Warp<D, CG> &w, const Decode &d, const Sequence &q,
                         int s, int head, bool kept, int t) {
    Chunk<Warp<D, CG>::MT> c;
    if (kept)
        set_valid(c, {}, s, t, 0, q.kept);
    else
        set_valid(c, d.pool, s, t, q.values, q.tokens);
    if (!any_valid(c))
        return;
    Rows rows = rows_at(d.pool, s, head, kept, t);
    row_scores(w, c, rows);
    mask(c);
    weigh(w, c);
    row_values(w, c, rows);
}

//@ stage: Copy a tile to shared memory while another is worked on
/* Each warp has two stages of its own. All 16-byte pieces are asked for once
 * and by neighbouring lanes, parameters too, which lanes then share. */
template <int D, int BITS>
KV_DEVICE void copy_tile(uint8_t *stage, const Decode &d, int s, int head,
                         int tile, int tiles) {
    if (tile < tiles) {
        const uint8_t *from = find_tile(d, s, head, tile) +
                              threadIdx.x % 32 * 16;
        uint8_t *to = stage + threadIdx.x % 32 * 16;
        int left = d.pool.tile.bytes - threadIdx.x % 32 * 16;
#pragma unroll
        for (int i = 0; i < KV_TILE * D * BITS / 4; i += 512)
            kv_copy16(to + i, from + i); /* codes */
#pragma unroll 1
        for (int i = KV_TILE * D * BITS / 4; i < left; i += 512)
            kv_copy16(to + i, from + i);
    }
    kv_copy_commit();
}

//@ tiles: Walk over every n-th tile, directly or staged
template <int D, int BITS, int CG, bool STAGED>
KV_DEVICE void walk_tiles(Warp<D, CG> &w, const Decode &d, const Sequence &q,
                          int s, int head, int share, int shares,
                          uint8_t *stage) {
    int tiles = (q.keys + KV_TILE - 1) / KV_TILE, bytes = d.pool.tile.bytes;
    int odd = 0;
    if (STAGED) {
        copy_tile<D, BITS>(stage, d, s, head, share, tiles);
        copy_tile<D, BITS>(stage + bytes, d, s, head, share + shares, tiles);
    }
#pragma unroll 1
    for (int i = share; i < tiles; i += shares, odd ^= bytes) {
        if (STAGED) {
            kv_copy_wait<1>();
            __syncwarp();
            walk_tile<D, BITS, CG>(w, d, q, s, i, stage + odd);
            __syncwarp();
            copy_tile<D, BITS>(stage + odd, d, s, head, i + 2 * shares, tiles);
        } else
            walk_tile<D, BITS, CG>(w, d, q, s, i, find_tile(d, s, head, i));
    }
    if (STAGED)
        kv_copy_wait<0>();
}

//@ shares: Deal tiles, then rows, to the warps
template <int D, int BITS, int CG, bool STAGED>
KV_DEVICE void walk_share(Warp<D, CG> &w, const Decode &d, int s, int head,
                          int share, int shares, uint8_t *stage) {
    constexpr int TOKENS = 16 * Warp<D, CG>::MT;
    Sequence q = read_sequence(d, s);
    int item = (q.keys + KV_TILE - 1) / KV_TILE;
    walk_tiles<D, BITS, CG, STAGED>(w, d, q, s, head, share, shares, stage);
#pragma unroll 1
    for (int t = q.keys / TOKENS * TOKENS; t < q.values; t += TOKENS)
        if (item++ % shares == share)
            walk_mixed<D, BITS, CG>(w, d, q, s, head, t);
#pragma unroll
    for (int k = 0; k < w.KT; k++)
        for (int i = 0; i < 4; i++) /* from codes to numbers */
            w.sum[k][i] *= float(1 << (24 - field_shift(BITS, k)));
    int recent = (q.tokens - q.values / TOKENS * TOKENS + TOKENS - 1) / TOKENS;
    int all = recent + (q.kept + TOKENS - 1) / TOKENS;
#pragma unroll 1
    for (int i = 0; i < all; i++)
        if (item++ % shares == share)
            walk_rows(w, d, q, s, head, i >= recent,
                      i < recent ? (q.values / TOKENS + i) * TOKENS
                                 : (i - recent) * TOKENS);
}

//@ leave: Leave in shared memory what a warp has found
/* Of each head D sums, the largest score, the sum of weights. */
template <int D, int CG>
KV_DEVICE void leave(float *part, Warp<D, CG> &w) {
    constexpr int STRIDE = D + 4;
    int lane = threadIdx.x % 32, r = lane / 4, j = lane % 4;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float *to = part + (2 * j + i) * STRIDE;
#pragma unroll
        for (int k = 0; k < w.KT; k += 2) {
            int g = k * CG / w.KT;
            float low = w.low[g / 2][g % 2 * 2 + i];
            *reinterpret_cast<float4 *>(to + 16 * k + 4 * r) =
                make_float4(w.sum[k][i] + low, w.sum[k][i + 2] + low,
                            w.sum[k + 1][i] + low, w.sum[k + 1][i + 2] + low);
        }
        if (r == 0) {
            to[D] = w.max[i] * 0.693147181f; /* from log2 */
            to[D + 1] = CG > 1 ? w.weight[i] : w.low[0][2 + i];
        }
    }
}

//@ join-warps: Join what the warps of a block have found
template <int D>
KV_DEVICE void join_warps(const float *part, const Decode &d, int s, int head,
                          int heads) {
    constexpr int STRIDE = D + 4, WARP = 8 * STRIDE;
    for (int i = threadIdx.x; i < heads * D / 4; i += 32 * WARPS) {
        const float *from = part + i / (D / 4) * STRIDE;
        int c = i % (D / 4) * 4;
        float most = -INFINITY, total = 0;
        float4 sum = make_float4(0, 0, 0, 0);
        for (int k = 0; k < WARPS; k++)
            most = fmaxf(most, from[k * WARP + D]);
        for (int k = 0; k < WARPS && most > -INFINITY; k++) {
            float f = expf(from[k * WARP + D] - most);
            float4 x = *reinterpret_cast<const float4 *>(from + k * WARP + c);
            sum.x += f * x.x, sum.y += f * x.y;
            sum.z += f * x.z, sum.w += f * x.w;
            total += f * from[k * WARP + D + 1];
        }
        float *to = part_of(d, s, head + i / (D / 4), blockIdx.x);
        *reinterpret_cast<float4 *>(to + c) = sum;
        if (c)
            continue;
        *reinterpret_cast<float4 *>(to + D) = make_float4(most, total, 0, 0);
        if (total != total)
            atomicMin(d.fault, kv_fault(s) * d.heads + head + i / (D / 4));
    }
}

//@ tensor: Do the work of a block
/* 8 query heads a block; for more, codes are read again. */
template <int D, int BITS, int CG, bool STAGED>
KV_DEVICE void tensor(const Decode &d, float *shared, uint8_t *stages) {
    int G = d.heads / d.pool.kv_heads, turns = (G + 7) / 8;
    int kv_head = blockIdx.y / turns, first = blockIdx.y % turns * 8;
    int s = blockIdx.z, warp = threadIdx.x / 32, heads = min(G - first, 8);
    int head = kv_head * G + first;
    Warp<D, CG> w;
    bring_query<D>(shared, d, s, head, heads);
    load_query(w, shared, d, s, head, heads);
    clear(w);
    walk_share<D, BITS, CG, STAGED>(
        w, d, s, kv_head, blockIdx.x * WARPS + warp, gridDim.x * WARPS,
        stages + warp * 2 * d.pool.tile.bytes);
    __syncthreads();
    leave<D, CG>(shared + warp * 8 * (D + 4), w);
    __syncthreads();
    join_warps<D>(shared, d, s, head, heads);
}

//@ k03: Let tensor cores multiply, for all query heads of a KV head at once
/* Groups of values are D / CG channels. Both stores have BITS bits. */
template <int D, int BITS, int CG>
__global__ void __launch_bounds__(32 * WARPS)
    k03(const __grid_constant__ Decode d) {
    __shared__ float4 part[WARPS * 8 * (D + 4) / 4];
    tensor<D, BITS, CG, false>(d, reinterpret_cast<float *>(part), nullptr);
}

//@ k04: Copy tiles ahead, so that memory is never waited for
template <int D, int BITS, int CG>
__global__ void __launch_bounds__(32 * WARPS)
    k04(const __grid_constant__ Decode d) {
    __shared__ float4 part[WARPS * 8 * (D + 4) / 4];
    extern __shared__ uint4 stages[];
    tensor<D, BITS, CG, true>(d, reinterpret_cast<float *>(part),
                              reinterpret_cast<uint8_t *>(stages));
}

//@ check: Refuse what cannot be launched
static int check_pool(const kv_pool *p, int heads, kv_error *err) {
    const char *what = "decode";
    const kv_size size[] = {{"the number of sequences", p->sequences, 0},
                            {"the number of query heads", heads, 1},
                            {"the number of KV heads", p->kv_heads, 1},
                            {"the number of tiles", p->max_tiles, 0},
                            {"the room for kept rows", p->kept_capacity, 0},
                            {"the window", p->window, 0},
                            {"the number of pages", p->page_count, 0}};
    if (kv_check_sizes(what, size, 3, err) ||
        kv_check_sizes(what, size + 3, 1, err) ||
        kv_check_sizes(what, size + 4, 1, err) ||
        kv_check_sizes(what, size + 5, 1, err) ||
        kv_check_sizes(what, size + 6, 1, err))
        return KV_FAIL_USAGE;
    if (heads % p->kv_heads)
        return kv_refuse(err, KV_FAIL_USAGE, "decode: %d query heads cannot "
                         "share %d KV heads", heads, p->kv_heads);
    if (p->sequences > 65535 || heads > 65535)
        return kv_refuse(err, KV_FAIL_USAGE, "decode: %d sequences and %d "
                         "heads; at most 65535 of each", p->sequences, heads);
    if (p->max_tiles > KV_INDEX_MAX / KV_TILE ||
        (long long)p->sequences * p->max_tiles > KV_INDEX_MAX)
        return kv_refuse(err, KV_FAIL_USAGE, "decode: %d tiles for each of "
                         "%d sequences are too many", p->max_tiles,
                         p->sequences);
    if (p->window % 16)
        return kv_refuse(err, KV_FAIL_USAGE, "decode: a window of %d rows is "
                         "not a multiple of 16", p->window);
    return KV_OK;
}

//@ check-tile: Refuse a tile that is not as kv_tile_init makes it
static int check_tile(const kv_pool *p, kv_error *err) {
    const kv_tile *l = &p->tile;
    kv_format f[2] = {{KV_INT, l->key_bits, KV_PER_CHANNEL, l->key_group,
                       l->key_symmetric, 0},
                      {KV_INT, l->value_bits, KV_PER_TOKEN, l->value_group,
                       l->value_symmetric, 0}};
    kv_tile same;
    if (kv_tile_init(&same, &f[0], &f[1], l->head_size, err))
        return KV_FAIL_USAGE;
    if (memcmp(&same, l, sizeof same))
        return kv_refuse(err, KV_FAIL_USAGE, "decode: the tile's offsets are "
                         "not those of kv_tile_init");
    if (p->sequence_stride % 16 || p->page_stride % 16 || p->head_stride % 16)
        return kv_refuse(err, KV_FAIL_USAGE, "decode: the strides of tiles "
                         "are not multiples of 16");
    return KV_OK;
}

//@ check-arrays: Refuse arrays that are missing
static int check_arrays(const Decode *d, bool needs_work, kv_error *err) {
    const kv_pool *p = &d->pool;
    const struct {
        const char *name;
        const void *pointer;
        int needed;
        size_t align;
    } array[] = {{"out", d->out, 1, 4}, {"q", d->q, 1, 16},
                 {"tokens", p->tokens, 1, 4},
                 {"quantized_keys", p->quantized_keys, 1, 4},
                 {"quantized_values", p->quantized_values, 1, 4},
                 {"kept", p->kept, 1, 4},
                 {"tiles", p->tiles, p->page_count, 16},
                 {"holes", p->holes, p->kept_capacity, 16},
                 {"position", p->position, p->kept_capacity, 4},
                 {"kept_keys", p->kept_keys, p->kept_capacity, 16},
                 {"kept_values", p->kept_values, p->kept_capacity, 16},
                 {"window_keys", p->window_keys, p->window, 16},
                 {"window_values", p->window_values, p->window, 16},
                 {"work", d->partial, needs_work, 16},
                 {"fault", d->fault, 1, 8}};
    for (const auto &a : array)
        if (a.needed &&
            kv_check_pointer("decode", a.name, a.pointer, a.align, err))
            return KV_FAIL_USAGE;
    return KV_OK;
}

//@ check-turn: Refuse an impossible rotation
static int check_turn(const kv_turn *turn, int D, kv_error *err) {
    if (turn->dims >= 2 && turn->dims <= D && turn->dims % 2 == 0)
        return kv_check_pointer("decode", "speed", turn->speed, 8, err);
    return kv_refuse(err, KV_FAIL_USAGE, "decode: %d rotated channels; "
                     "expected an even number up to %d", turn->dims, D);
}

//@ speeds: Say how fast each pair of channels turns
extern "C" void kv_turn_speeds(double *speed, const kv_rope *r) {
    for (int i = 0; i < r->dims / 2; i++)
        speed[i] = pow(r->base, -2.0 * i / r->dims) * r->scale /
                   (r->factors ? double(r->factors[i]) : 1.0);
}

//@ work: Say how much room the parts take
extern "C" size_t kv_cuda_decode_work(const kv_pool *p, int heads,
                                      int splits) {
    return size_t(p->sequences) * size_t(heads) * size_t(splits) * WARPS *
           (size_t(p->tile.head_size) + 4) * sizeof(float);
}

//@ choose: Find the kernel for a shape
typedef void Kernel(const Decode);

template <int D, int BITS, int CG> static Kernel *tensor_of(int version) {
    return version == 3 ? k03<D, BITS, CG> : k04<D, BITS, CG>;
}

template <int BITS> static Kernel *tensor_bits(const kv_tile *l, int version) {
    int groups = l->head_size / l->value_group;
    if (l->head_size == 64)
        return groups == 1 ? tensor_of<64, BITS, 1>(version)
                           : tensor_of<64, BITS, 2>(version);
    return groups == 1   ? tensor_of<128, BITS, 1>(version)
           : groups == 2 ? tensor_of<128, BITS, 2>(version)
                         : tensor_of<128, BITS, 4>(version);
}

/* NULL: only k01 and k02 know this shape. */
static Kernel *tensor_kernel(const kv_tile *l, bool turned, int version) {
    if (turned || l->key_bits != l->value_bits || l->key_symmetric ||
        l->value_symmetric)
        return nullptr;
    return l->key_bits == 2   ? tensor_bits<2>(l, version)
           : l->key_bits == 3 ? tensor_bits<3>(l, version)
           : l->key_bits == 4 ? tensor_bits<4>(l, version)
                              : nullptr;
}

//@ start: Start a tensor kernel with the shared memory it needs
static int start_tensor(Kernel *k, dim3 grid, const Decode &d, int version,
                        kv_error *err) {
    int bytes = version == 3 ? 0 : WARPS * 2 * d.pool.tile.bytes;
    cudaError_t e = cudaFuncSetAttribute(
        k, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (e != cudaSuccess)
        return kv_refuse(err, KV_FAIL_RUN, "decode: no %d bytes of shared "
                         "memory: %s", bytes, cudaGetErrorString(e));
    k<<<grid, 32 * WARPS, bytes>>>(d);
    return KV_OK;
}

//@ launcher: Choose a version by shape
extern "C" int kv_cuda_decode(float *out, const float *q, const kv_pool *pool,
                              int heads, const float *sink,
                              const kv_turn *turn, int splits, void *work,
                              kv_fault *fault, int version, kv_error *err) {
    const char *what = "decode";
    Decode d = {*pool, {}, q, sink, out, static_cast<float *>(work), fault,
             heads, 1};
    if (kv_check_version(what, version, KV_CUDA_DECODE_VERSIONS, err) ||
        check_pool(pool, heads, err) || check_tile(pool, err) ||
        (turn && check_turn(turn, pool->tile.head_size, err)))
        return KV_FAIL_USAGE;
    if (splits < 1 || splits > 4096)
        return kv_refuse(err, KV_FAIL_USAGE, "decode: %d splits; expected 1 "
                         "to 4096", splits);
    if (turn)
        d.turn = *turn;
    Kernel *k = tensor_kernel(&pool->tile, turn != nullptr,
                              version ? version : 4);
    if (version >= 3 && !k)
        return kv_refuse(err, KV_FAIL_USAGE, "decode: version %d needs keys "
                         "after RoPE, keys and values of the same 2, 3 or 4 "
                         "bits, and minima", version);
    if (!version)
        version = k ? 4 : 2;
    d.shares = version == 1 ? 1 : version == 2 ? splits * WARPS : splits;
    if (pool->sequences == 0)
        return KV_OK;
    if (check_arrays(&d, version > 1, err))
        return KV_FAIL_USAGE;
    unsigned S = unsigned(pool->sequences), H = unsigned(heads);
    if (version == 1) {
        k01<<<dim3(H, S), 32>>>(d);
        return kv_launched(what, err);
    }
    unsigned G = H / unsigned(pool->kv_heads);
    dim3 grid(unsigned(splits), H / G * ((G + 7) / 8), S);
    if (version == 2)
        k02<<<dim3(unsigned(splits), H, S), 32 * WARPS>>>(d);
    else if (start_tensor(k, grid, d, version, err))
        return KV_FAIL_RUN;
    join<<<dim3(H, S), unsigned(pool->tile.head_size)>>>(d);
    return kv_launched(what, err);
}
