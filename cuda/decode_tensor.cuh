//@ top: Multiply codes by tensor cores
/* decode_tensor.cuh - a CHUNK of tokens scored, weighed and summed by a warp:
 * codes are operand A as they lie in memory, the query heads that share a KV
 * head are columns of operand B. decode_walk.cuh says in which order chunks
 * come. */
#ifndef KV_DECODE_TENSOR_CUH
#define KV_DECODE_TENSOR_CUH

#include "decode.cuh"

//@ fields: Unpack codes where they lie
/* 16 fields are BITS quads. A code stays where it lies in its half: with
 * nothing above it, the half is a subnormal binary16 number, code * 2^(p-24)
 * if the lowest bit is bit p. No conversion, and no bias to take away; the
 * power of two is made up for elsewhere. Codes must end below bit 10, where
 * the exponent begins, so the upper byte of each half is shifted down. */
KV_BOTH constexpr int field_shift(int bits, int field) {
    return bits == 3 ? 0 : bits * field % 8;
}
KV_BOTH constexpr int top_shift(int bits) {
    return bits == 3 ? 0 : 8 - bits;
}

constexpr uint32_t half_ones = 0x3c003c00u;

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
    uint32_t raised[2 * KT]; /* the same times the powers codes lack */
    uint32_t folded[2 * KT]; /* raised, times the scales of a group */
    float unit[2];           /* what 1 of a score of q is worth, in log2 */
    float offset[2];         /* of a group: the minima's part of a score */
    float top[2];            /* weights are 2^(score - top), at most 1 */
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
 * 2^top_shift, it still fits binary16. Words 4b and 4b + 2 meet codes of field
 * 2b, the other two those of field 2b + 1. */
template <int BITS, int D, int CG>
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
        int up = top_shift(BITS) - field_shift(BITS, i / 4 * 2 + i % 2);
        w.raised[i] = up ? kv_mul2(w.q[i], half_power(up)) : w.q[i];
    }
    float unit = exp2f(float(e)) * 1.44269504f / sqrtf(float(D));
    w.unit[0] = __shfl_sync(~0u, unit, 8 * j);
    w.unit[1] = __shfl_sync(~0u, unit, 8 * j + 4);
    if (!(most < 0x1p100f) && j == 0)
        atomicMin(d.fault, kv_fault(s) * d.heads + head + min(r, heads - 1));
}

//@ clear: Begin with nothing
template <int D, int CG> KV_DEVICE void clear(Warp<D, CG> &w) {
    w.top[0] = w.top[1] = -INFINITY;
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
            w.folded[4 * b + i] =
                kv_mul2(w.raised[4 * b + i % 2 * 2 + i / 2], scale[i]);
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
    uint32_t absent[MT / 2];          /* bits of tokens that do not count */
    bool partial;                     /* some of them are set */
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
/* Row i of a chunk is row (first + i) % modulo of a table; kept ones do not
 * wrap around. A row that is not valid may never have been written: another is
 * read in its place. */
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
            size_t(p.kv_heads) * D * 2, kept ? first : first % modulo,
            modulo};
}

/* valid: bits of rows 16m to 16m+15, not all zero; i: one of these rows. */
KV_DEVICE size_t row_offset(const Rows &rows, uint32_t valid, int m, int i) {
    int row = rows.first + 16 * m + (valid >> i & 1 ? i : __ffs(valid) - 1);
    return size_t(row < rows.modulo ? row : row - rows.modulo) * rows.stride;
}

//@ row-scores: Score a chunk of keys in 16 bits
/* The valid ones of rows 16m.. of a chunk. */
template <int MT> KV_DEVICE uint32_t sixteen(const Chunk<MT> &c, int m) {
    return ~c.absent[m / 2] >> m % 2 * 16 & 0xffff;
}

template <int D, int CG, int MT>
KV_DEVICE void row_scores(Warp<D, CG> &w, Chunk<MT> &c, const Rows &rows) {
    int lane = threadIdx.x % 32, r = lane / 4, j = lane % 4;
#pragma unroll
    for (int m = 0; m < MT; m++) {
        float *x = c.score[m];
        x[0] = x[1] = x[2] = x[3] = 0;
        c.offset[m / 2][0] = c.offset[m / 2][1] = 0;
        uint32_t valid = sixteen(c, m);
        if (!valid)
            continue;
        const uint8_t *k0 = rows.keys + row_offset(rows, valid, m, r);
        const uint8_t *k1 = rows.keys + row_offset(rows, valid, m, r + 8);
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
/* Their scores come of whatever memory held, and may be anything. A lane's
 * tokens r, r + 8, ... are brought to the signs of four bytes, which prmt
 * spreads over words. */
template <int MT>
KV_DEVICE uint32_t absent_word(const Chunk<MT> &c, int m, int i) {
    uint32_t signs = c.absent[m / 2] << (7 - threadIdx.x % 32 / 4);
    return kv_prmt(signs, 0, 0x1111 * (8 + m % 2 * 2 + i));
}

template <int MT> KV_DEVICE void mask(Chunk<MT> &c) {
#pragma unroll
    for (int m = 0; m < MT; m++)
        for (int i = 0; i < 2; i++)
            c.p[m][i] &= ~absent_word(c, m, i);
}

/* The same for scores, which must not be taken for the largest. */
template <int MT> KV_DEVICE void mask_scores(Chunk<MT> &c) {
#pragma unroll
    for (int m = 0; m < MT; m++)
        for (int i = 0; i < 4; i++)
            if (absent_word(c, m, i / 2))
                c.score[m][i] = -INFINITY;
}

//@ rescale: Correct what has been summed for a larger score
/* The new top lies above the largest score so far: then it has to move seldom.
 * With weights of at most 1 no product overflows. */
constexpr float reserve = 4; /* in log2 */

template <int D, int CG, int MT>
KV_DEVICE void rescale(Warp<D, CG> &w, Chunk<MT> &c) {
    float f[2];
    if (c.partial)
        mask_scores(c);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float most = -INFINITY;
        for (int m = 0; m < MT; m++)
            most = fmaxf(most, fmaf(fmaxf(c.score[m][i], c.score[m][i + 2]),
                                    c.unit[i], c.offset[m / 2][i]));
        for (int k = 4; k < 32; k *= 2)
            most = fmaxf(most, __shfl_xor_sync(~0u, most, k));
        float top = most > w.top[i] ? most + reserve : w.top[i];
        f[i] = kv_exp2(w.top[i] - top);
        w.top[i] = top;
    }
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
/* Whether a score is above top shows in its weight, which is then above 1: a
 * vote finds out, and only then lanes exchange their largest ones. Rows of the
 * scores' matrix are tokens; operand B wants them as columns. */
template <int D, int CG, int MT>
KV_DEVICE bool weights_fit(const Warp<D, CG> &w, Chunk<MT> &c) {
#pragma unroll
    for (int m = 0; m < MT; m++) {
        float p[4];
        for (int i = 0; i < 4; i++)
            p[i] = kv_exp2(fmaf(c.score[m][i], c.unit[i % 2],
                                c.offset[m / 2][i % 2] - w.top[i % 2]));
        c.p[m][0] = kv_word(__floats2half2_rn(p[0], p[1]));
        c.p[m][1] = kv_word(__floats2half2_rn(p[2], p[3]));
    }
    if (c.partial)
        mask(c);
    __half2 most = kv_half2(c.p[0][0]);
#pragma unroll
    for (int i = 1; i < 2 * MT; i++)
        most = __hmax2(most, kv_half2(c.p[i / 2][i % 2]));
    return __hble2(most, kv_half2(half_ones));
}

template <int D, int CG, int MT>
KV_DEVICE void weigh(Warp<D, CG> &w, Chunk<MT> &c) {
    if (__any_sync(~0u, !weights_fit(w, c))) {
        rescale(w, c);
        weights_fit(w, c);
    }
#pragma unroll
    for (int m = 0; m < MT; m++)
        for (int i = 0; i < 2; i++)
            c.p[m][i] = kv_transpose(c.p[m][i]);
}

//@ ones: Sum the weights, and weights times minima
/* Rows of A are all the same here: minima of one group above those of
 * another; with one group only, ones below it. */
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
                for (int k = 0; k < KT / CG; k++) {
                    uint32_t a[4];
                    operand(a, q, (2 * h + i) * KT + g * (KT / CG) + k);
                    kv_mma(w.sum[g * (KT / CG) + k], a, b[0], b[1]);
                }
            }
        }
    }
}

//@ row-values: Add a chunk of values in 16 bits
/* Columns are tokens here, but rows of the table are tokens: two rows are
 * interleaved to make pairs. */
template <int D, int CG, int MT>
KV_DEVICE void row_values(Warp<D, CG> &w, const Chunk<MT> &c,
                          const Rows &rows) {
    int lane = threadIdx.x % 32, r = lane / 4, j = lane % 4;
    const uint32_t none[CG][2] = {};
#pragma unroll
    for (int m = 0; m < MT; m++) {
        const uint8_t *v[4];
        uint32_t valid = sixteen(c, m);
        if (!valid)
            continue;
#pragma unroll
        for (int i = 0; i < 4; i++)
            v[i] = rows.values + 8 * r +
                   row_offset(rows, valid, m, 2 * j + i % 2 + i / 2 * 8);
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

#endif
