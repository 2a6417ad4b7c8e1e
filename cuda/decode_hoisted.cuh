//@ top: Take scales and minima out of the loops
/* decode_hoisted.cuh - what k03 does, without tensor cores. With a scale s and
 * a minimum m,
 *
 *     score = sum q (code s + m) = sum (q s) code + sum q m
 *
 * Scales of keys belong to channels and hold for a whole group of tokens: q s
 * and sum q m are worked out once a group. Scales of values belong to tokens:
 * a token's weight takes its scale in, and weights times minima are summed
 * apart. What is left for each code is to unpack it, make it a float and
 * multiply it once for each query head. Of the heads that share a KV head, as
 * many do so together as registers allow: four of 64 channels, two of 128, one
 * if its keys are turned. For more, memory is read again.
 *
 * A warp takes in a CHUNK at a time, 16 matrices of the tile's layout: 64
 * tokens of 64 channels or 32 of 128. Lane 4r+j has of every 16 tokens
 *
 *   as keys    tokens r and r+8, channels 8j to 8j+7 of every 32
 *   as values  tokens 2j, 2j+1, 2j+8, 2j+9, channels 4r to 4r+3 of every 32
 *
 * and in between, where tokens are weighed, tokens i and i+32 of the chunk. */
#ifndef KV_DECODE_HOISTED_CUH
#define KV_DECODE_HOISTED_CUH

#include "decode_walk.cuh" /* codes unpacked, rows, tokens that count */

//@ lane: Say what a lane and a warp carry along
/* H query heads. Parts of what belongs to a group of values are found by the
 * first block of 32 channels of the group. */
template <int D, int H> struct Lane {
    static constexpr int KT = D / 16, MT = 16 / KT, TOKENS = 16 * MT;
    static constexpr int BLOCKS = D / 32;
    float sum[H][D / 8];      /* of weights times codes, by channel */
    float low[H][BLOCKS];     /* of weights times minima */
    float weight[H], max[H];  /* sum of weights; largest score, in log2 */
    float offset[H];          /* what the minima of the group of keys add */
    int head, heads, s;       /* the first, how many; the sequence */
};

/* folded: queries times scales; if keys are turned, scales and minima. */
template <int D, int H> struct Area {
    float folded[H < 2 ? 2 : H][D];
    float p[H][D / 32][4096 / D]; /* of tokens: scores, then weights */
};

template <int D, int H> struct __align__(16) Room {
    double speed[D / 2 + D / 32]; /* turns per token; padded */
    float q[H][D];
    Area<D, H> area[WARPS];
};

KV_DEVICE int padded(int i) { return i + i / 16; }

//@ vectors: Move neighbouring numbers together
template <int N> KV_DEVICE void load_floats(float *x, const float *p) {
#pragma unroll
    for (int i = 0; i < N; i += N == 2 ? 2 : 4)
        if constexpr (N == 2) {
            float2 v = *reinterpret_cast<const float2 *>(p);
            x[0] = v.x, x[1] = v.y;
        } else {
            float4 v = *reinterpret_cast<const float4 *>(p + i);
            x[i] = v.x, x[i + 1] = v.y, x[i + 2] = v.z, x[i + 3] = v.w;
        }
}

template <int N> KV_DEVICE void store_floats(float *p, const float *x) {
    if constexpr (N == 2)
        *reinterpret_cast<float2 *>(p) = make_float2(x[0], x[1]);
    else
        *reinterpret_cast<float4 *>(p) = make_float4(x[0], x[1], x[2], x[3]);
}

KV_DEVICE void two_floats(float *x, uint32_t halves) {
    float2 v = __half22float2(kv_half2(halves));
    x[0] = v.x, x[1] = v.y;
}

template <int N> KV_DEVICE void load_halves(float *x, const void *p) {
    if constexpr (N == 2) {
        two_floats(x, *static_cast<const uint32_t *>(p));
    } else {
        uint2 v = *static_cast<const uint2 *>(p);
        two_floats(x, v.x), two_floats(x + 2, v.y);
    }
}

//@ bring: Bring queries and speeds to the block, and begin with nothing
/* Scores are in units of log2, so that a weight is a power of two. A head too
 * many is the last one once more. Speeds are in whole turns. */
template <int D, int H, bool TURNED>
KV_DEVICE void bring(Room<D, H> &room, Lane<D, H> &l, const Decode &d, int s,
                     int head, int heads) {
    const float *q = d.q + (size_t(s) * d.heads + head) * D;
    float unit = 1.44269504f / sqrtf(float(D));
    for (int i = threadIdx.x; i < H * D; i += 32 * WARPS)
        room.q[i / D][i % D] = q[min(i / D, heads - 1) * D + i % D] * unit;
    if (TURNED)
        for (int i = threadIdx.x; i < d.turn.dims / 2; i += 32 * WARPS)
            room.speed[padded(i)] = d.turn.speed[i] * 0.15915494309189535;
    l.head = head, l.heads = heads, l.s = s;
#pragma unroll
    for (int h = 0; h < H; h++) {
        l.max[h] = -INFINITY;
        l.weight[h] = l.offset[h] = 0;
        for (int c = 0; c < D / 8; c++)
            l.sum[h][c] = 0;
        for (int b = 0; b < D / 32; b++)
            l.low[h][b] = 0;
    }
    __syncthreads();
}

//@ fold-heads: Fold some channels into all heads' queries
KV_DEVICE float power_of_two(int n) {
    return __uint_as_float(uint32_t(n + 127) << 23);
}

template <int N, int D, int H>
KV_DEVICE void fold_heads(Lane<D, H> &l, Area<D, H> &area,
                          const Room<D, H> &room, int c, const float *scale,
                          const float *m) {
#pragma unroll
    for (int h = 0; h < H; h++) {
        float q[N], low = 0;
        load_floats<N>(q, room.q[h] + c);
#pragma unroll
        for (int i = 0; i < N; i++) {
            low += q[i] * m[i];
            q[i] *= scale[i];
        }
        store_floats<N>(area.folded[h] + c, q);
        l.offset[h] = kv_warp_sum(low);
    }
}

//@ hoist: Fold the scales of a group of keys into the queries
/* Each lane has D/32 neighbouring channels. A code has the value of the bits
 * where it lies, a power of two that goes into the scale. A symmetric code has
 * a minimum as well: what code 0 means. */
template <int BITS, int D, int H, bool TURNED>
KV_DEVICE void hoist(Lane<D, H> &l, Area<D, H> &area, const Room<D, H> &room,
                     const kv_tile &t, const uint8_t *tile, int token) {
    constexpr int N = D / 32;
    int c = threadIdx.x % 32 * N, field = c / 32 * 2 + c % 8 / 4;
    const uint8_t *at = tile + t.key_params + 2 * kv_key_param_at(&t, token, c);
    float scale[N], m[N], unit = power_of_two(24 - field_shift(BITS, field));
    load_halves<N>(scale, at);
    if (!t.key_symmetric)
        load_halves<N>(m, at + 2 * kv_key_min(&t));
#pragma unroll
    for (int i = 0; i < N; i++) {
        m[i] = t.key_symmetric ? -float(1 << (BITS - 1)) * scale[i] : m[i];
        scale[i] *= unit;
    }
    __syncwarp(); /* nobody needs the group before any more */
    if (TURNED) {
        store_floats<N>(area.folded[0] + c, scale);
        store_floats<N>(area.folded[1] + c, m);
    } else
        fold_heads<N>(l, area, room, c, scale, m);
    __syncwarp();
}

//@ turn-pairs: Turn the pairs of channels that a lane has
/* The angle is taken in double and in whole turns, of which only the rest
 * matters. Pairs lie in one lane: neighbours, or 32 or 64 channels apart; the
 * launcher sees to it. x: by block of 32 channels, token and channel. */
KV_DEVICE void turn_pair(float &a, float &b, double position,
                         double speed) {
    double turns = position * speed;
    float angle = float(turns - rint(turns)) * 6.28318531f;
    float cosine = __cosf(angle), sine = __sinf(angle), was = a;
    a = a * cosine - b * sine;
    b = was * sine + b * cosine;
}

template <int D>
KV_DEVICE void turn_keys(float (*x)[2][8], const kv_turn &turn,
                         const double *speed, const int *position) {
    int j = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < 2 * D / 4; i++) {
        int b = i / 16, t = i / 8 % 2, c = i % 8, channel = 32 * b + 8 * j + c;
        double at = double(position[t]) + turn.shift;
        if (turn.interleaved) {
            if (c % 2 == 0 && channel < turn.dims)
                turn_pair(x[b][t][c], x[b][t][c + 1], at,
                          speed[padded(channel / 2)]);
        } else if (b == 0 && turn.dims == 64)
            turn_pair(x[b][t][c], x[1][t][c], at, speed[padded(channel)]);
        else if (D == 128 && b < 2 && turn.dims == 128)
            turn_pair(x[b][t][c], x[(b + 2) % (D / 32)][t][c], at,
                      speed[padded(channel)]);
    }
}

//@ dot: Multiply two tokens of 32 channels with all heads
template <int D, int H>
KV_DEVICE void dot(float (*score)[4], int m, const float (*x)[8],
                   const float (*q)[D], int b) {
#pragma unroll
    for (int h = 0; h < H; h++) {
        float y[8];
        load_floats<8>(y, q[h] + 32 * b + threadIdx.x % 4 * 8);
#pragma unroll
        for (int c = 0; c < 8; c++) {
            score[h][2 * m] += y[c] * x[0][c];
            score[h][2 * m + 1] += y[c] * x[1][c];
        }
    }
}

//@ turned-dot: Do so after turning the keys of two tokens
template <int D, int H, class Get>
KV_DEVICE void turned_dot(float (*score)[4], int m, const Room<D, H> &room,
                          const Decode &d, const int *position, Get get) {
    float x[D / 32][2][8];
#pragma unroll
    for (int b = 0; b < D / 32; b++)
        get(x[b], b, m);
    turn_keys<D>(x, d.turn, room.speed, position);
#pragma unroll
    for (int b = 0; b < D / 32; b++)
        dot<D, H>(score, m, x[b], room.q, b);
}

//@ score: Score 32 tokens
/* get(x, b, m) gives channels 32b.. of the lane's tokens of the m-th 16; their
 * positions matter if keys are turned. score: of tokens r, r+8, r+16, r+24;
 * what the four lanes of a row have is summed. */
template <int D, int H, bool TURNED, class Get>
KV_DEVICE void score_tokens(float (*score)[4], const float (*q)[D],
                            const Room<D, H> &room, const Decode &d,
                            const int (*position)[2], Get get) {
#pragma unroll
    for (int i = 0; i < 4 * H; i++)
        score[i / 4][i % 4] = 0;
    if constexpr (TURNED) {
#pragma unroll
        for (int m = 0; m < 2; m++)
            turned_dot<D, H>(score, m, room, d, position[m], get);
    } else {
#pragma unroll
        for (int i = 0; i < 2 * D / 32; i++) {
            float x[2][8];
            get(x, i / 2, i % 2);
            dot<D, H>(score, i % 2, x, q, i / 2);
        }
    }
#pragma unroll
    for (int i = 0; i < 4 * H; i++)
        for (int lanes = 1; lanes < 4; lanes *= 2)
            score[i / 4][i % 4] +=
                __shfl_xor_sync(~0u, score[i / 4][i % 4], lanes);
}

//@ put-scores: Hand scores over to the lanes that weigh
/* which: bits of the tokens that these scores are of. */
template <int D, int H>
KV_DEVICE void put_scores(Area<D, H> &area, const float (*score)[4],
                          const float *offset, int first, uint32_t which) {
    int r = threadIdx.x % 32 / 4;
    if (threadIdx.x % 4)
        return;
#pragma unroll
    for (int i = 0; i < 4; i++)
        if (which >> (r + 8 * i) & 1)
            for (int h = 0; h < H; h++)
                area.p[h][0][first + r + 8 * i] = score[h][i] + offset[h];
}

//@ unpack: Unpack two tokens of 32 channels
template <int BITS>
KV_DEVICE void unpack(float (*x)[8], const Quads<BITS> &q, int field) {
#pragma unroll
    for (int f = 0; f < 2; f++) {
        uint32_t a[4];
        operand(a, q, field + f);
        for (int i = 0; i < 4; i++)
            two_floats(x[i % 2] + f * 4 + i / 2 * 2, a[i]);
    }
}

/* For keys that are turned; others have their scales in the query. */
template <int D, int H>
KV_DEVICE void scale_keys(float (*x)[8], const Area<D, H> &area, int b) {
    float s[8], m[8];
    int c = 32 * b + threadIdx.x % 4 * 8;
    load_floats<8>(s, area.folded[0] + c);
    load_floats<8>(m, area.folded[1] + c);
#pragma unroll
    for (int i = 0; i < 16; i++)
        x[i / 8][i % 8] = x[i / 8][i % 8] * s[i % 8] + m[i % 8];
}

//@ score-codes: Score a chunk of coded keys
/* token: of the tile. Tokens behind the last coded key get scores as well,
 * which nobody looks at. */
template <int BITS, int D, int H, bool TURNED>
KV_DEVICE void score_codes(Lane<D, H> &l, Area<D, H> &area,
                           const Room<D, H> &room, const Decode &d,
                           const uint8_t *tile, int token, int first) {
    typedef Lane<D, H> L;
    Quads<BITS> codes;
    load_quads(codes, tile + token / L::TOKENS * 512 * BITS +
                          threadIdx.x % 32 * 16);
#pragma unroll
    for (int u = 0; u < L::MT / 2; u++) {
        float score[H][4];
        int at = first + 32 * u + threadIdx.x % 32 / 4;
        int position[2][2] = {{at, at + 8}, {at + 16, at + 24}};
        if (((token + 32 * u) & (d.pool.tile.key_group - 1)) == 0)
            hoist<BITS, D, H, TURNED>(l, area, room, d.pool.tile, tile,
                                      token + 32 * u);
        score_tokens<D, H, TURNED>(
            score, area.folded, room, d, position,
            [&](float (*x)[8], int b, int m) {
                unpack(x, codes, (2 * u + m) * L::KT + 2 * b);
                if (TURNED)
                    scale_keys(x, area, b);
            });
        put_scores(area, score, l.offset, 32 * u, ~0u);
    }
}

//@ load-row: Read eight numbers of a row
KV_DEVICE void load_row(float *x, const uint8_t *row) {
    uint4 v = load16(row);
    two_floats(x, v.x), two_floats(x + 2, v.y);
    two_floats(x + 4, v.z), two_floats(x + 6, v.w);
}

KV_DEVICE void no_row(float *x) {
    for (int i = 0; i < 8; i++)
        x[i] = 0;
}

//@ score-rows: Score a chunk of keys in 16 bits
template <int D, int H, bool TURNED>
KV_DEVICE void score_rows(Lane<D, H> &l, Area<D, H> &area,
                          const Room<D, H> &room, const Decode &d,
                          const Rows &rows, const uint32_t *which,
                          const int *positions, int first) {
    const float none[H] = {};
    int r = threadIdx.x % 32 / 4, j = threadIdx.x % 4;
#pragma unroll
    for (int u = 0; u < Lane<D, H>::MT / 2; u++) {
        float score[H][4];
        int position[2][2];
        for (int i = 0; i < 4; i++) {
            int t = 32 * u + r + 8 * i;
            position[i / 2][i % 2] = !positions ? first + t
                                     : which[u] >> (r + 8 * i) & 1
                                         ? positions[first + t] : 0;
        }
        score_tokens<D, H, TURNED>(
            score, room.q, room, d, position,
            [&](float (*x)[8], int b, int m) {
                uint32_t valid = which[u] >> 16 * m & 0xffff;
                for (int i = 0; i < 2; i++)
                    if (valid)
                        load_row(x[i], rows.keys + (32 * b + 8 * j) * 2 +
                                           row_offset(rows, valid, 2 * u + m,
                                                      r + 8 * i));
                    else
                        no_row(x[i]);
            });
        put_scores(area, score, none, 32 * u, which[u]);
    }
}

//@ correct: Correct what one head has summed for a larger score
template <int D, int H>
KV_DEVICE void correct(Lane<D, H> &l, int h, float most) {
    most = fmaxf(most, l.max[h]);
    float f = kv_exp2(l.max[h] - most);
    l.max[h] = most;
    l.weight[h] *= f;
#pragma unroll
    for (int c = 0; c < D / 8; c++)
        l.sum[h][c] *= f;
    for (int b = 0; b < D / 32; b++)
        l.low[h][b] *= f;
}

//@ weigh-tokens: Turn scores into weights
/* p: of tokens i and i+32. A score that is no number is a fault. */
template <int D, int H>
KV_DEVICE void weigh_tokens(Lane<D, H> &l, const Area<D, H> &area,
                            const Decode &d, const uint32_t *valid,
                            float (*p)[Lane<D, H>::MT / 2]) {
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int h = 0; h < H; h++) {
        float most = -INFINITY;
        for (int u = 0; u < Lane<D, H>::MT / 2; u++) {
            bool is = valid[u] >> lane & 1;
            p[h][u] = is ? area.p[h][0][32 * u + lane] : -INFINITY;
            most = fmaxf(most, p[h][u]);
            if (is && !kv_is_finite(p[h][u]))
                atomicMin(d.fault, kv_fault(l.s) * d.heads + l.head +
                                       min(h, l.heads - 1));
        }
        if (__any_sync(~0u, most > l.max[h]))
            correct(l, h, kv_warp_max(most));
        for (int u = 0; u < Lane<D, H>::MT / 2; u++) {
            p[h][u] = kv_exp2(p[h][u] - l.max[h]);
            l.weight[h] += p[h][u];
        }
    }
}

//@ param: Read the scale and the minimum of a value
KV_DEVICE void load_param(float &s, float &m, const __half *at,
                          const kv_tile &t) {
    s = __half2float(at[0]);
    m = t.value_symmetric ? -float(1 << (t.value_bits - 1)) * s
                          : __half2float(at[kv_value_min(&t)]);
}

//@ put-weights: Give weights the scales of their values
/* coded: bits of the tokens whose values are codes, token: of the tile. Each
 * group of channels has weights of its own, put where its first block is. */
template <int D, int H>
KV_DEVICE void put_weights(Lane<D, H> &l, Area<D, H> &area, const kv_tile &t,
                           const uint8_t *tile, int token,
                           const uint32_t *coded,
                           const float (*p)[Lane<D, H>::MT / 2]) {
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int u = 0; u < Lane<D, H>::MT / 2; u++) {
        const __half *at =
            reinterpret_cast<const __half *>(tile + t.value_params) +
            kv_value_param_at(&t, token + 32 * u + lane, 0);
        bool is = coded[u] >> lane & 1;
#pragma unroll
        for (int b = 0; b < D / 32; b++) {
            if (32 * b & (t.value_group - 1))
                continue;
            float s = 0, m = 0;
            if (is)
                load_param(s, m, at, t);
            at += KV_TILE * (t.value_symmetric ? 1 : 2);
            for (int h = 0; h < H; h++) {
                area.p[h][b][32 * u + lane] = is ? p[h][u] * s : 0;
                l.low[h][b] += is ? p[h][u] * m : 0;
            }
        }
    }
    __syncwarp();
}

//@ add-field: Add four tokens of two channels
/* w: weights of tokens 2j, 2j+1, 2j+8, 2j+9; sums of channels c, c+1. */
template <int BITS, int D, int H>
KV_DEVICE void add_field(Lane<D, H> &l, const float (*w)[4],
                         const Quads<BITS> &q, int field, int c) {
    uint32_t a[4];
    operand(a, q, field);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float x[2];
        two_floats(x, a[i]);
        for (int h = 0; h < H; h++) {
            l.sum[h][c + i % 2] += w[h][i / 2 * 2] * x[0];
            l.sum[h][c + i % 2] += w[h][i / 2 * 2 + 1] * x[1];
        }
    }
}

//@ add-codes: Add a chunk of coded values
template <int BITS, int D, int H>
KV_DEVICE void add_codes(Lane<D, H> &l, const Area<D, H> &area, int group,
                         const uint8_t *codes) {
    typedef Lane<D, H> L;
    int lane = threadIdx.x % 32, j = lane % 4;
    Quads<BITS> q;
    load_quads(q, codes + lane * 16);
#pragma unroll
    for (int m = 0; m < L::MT; m++) {
        float w[H][4];
#pragma unroll
        for (int b = 0; b < D / 32; b++) {
            if ((32 * b & (group - 1)) == 0)
                for (int h = 0; h < H; h++) {
                    const float *p = area.p[h][b] + 16 * m + 2 * j;
                    load_floats<2>(w[h], p);
                    load_floats<2>(w[h] + 2, p + 8);
                }
            add_field(l, w, q, m * L::KT + 2 * b, 4 * b);
            add_field(l, w, q, m * L::KT + 2 * b + 1, 4 * b + 2);
        }
    }
}

//@ add-rows: Add a chunk of values in 16 bits
/* In the units of the codes that share their sums. */
template <int D, int H>
KV_DEVICE void add_rows(Lane<D, H> &l, Area<D, H> &area, const Rows &rows,
                        int bits, const uint32_t *which,
                        const float (*p)[Lane<D, H>::MT / 2]) {
    int lane = threadIdx.x % 32, r = lane / 4, j = lane % 4;
#pragma unroll
    for (int u = 0; u < Lane<D, H>::MT / 2; u++)
        for (int h = 0; h < H; h++)
            area.p[h][0][32 * u + lane] = which[u] >> lane & 1 ? p[h][u] : 0;
    __syncwarp();
#pragma unroll 1
    for (int i = 0; i < 4 * Lane<D, H>::MT; i++) { /* one token at a time */
        int m = i / 4, t = 2 * j + i % 2 + i % 4 / 2 * 8;
        uint32_t half = m < 2 ? which[0] : which[Lane<D, H>::MT / 2 - 1];
        uint32_t valid = half >> m % 2 * 16 & 0xffff;
        if (!valid)
            continue;
        const uint8_t *row = rows.values + 8 * r +
                             row_offset(rows, valid, m, t);
#pragma unroll
        for (int b = 0; b < D / 32; b++) {
            float x[4];
            load_halves<4>(x, row + 64 * b);
            for (int c = 0; c < 4; c++)
                for (int h = 0; h < H; h++)
                    l.sum[h][4 * b + c] +=
                        area.p[h][0][16 * m + t] * x[c] *
                        power_of_two(field_shift(bits, 2 * b + c / 2) - 24);
        }
    }
}

//@ add-values: Add the values of a chunk
template <int D, int H>
KV_DEVICE void add_values(Lane<D, H> &l, Area<D, H> &area, const kv_tile &t,
                          const uint8_t *tile, int token,
                          const uint32_t *coded,
                          const float (*p)[Lane<D, H>::MT / 2]) {
    const uint8_t *codes = tile + t.value_codes + token / Lane<D, H>::TOKENS *
                                                      512 * t.value_bits;
    put_weights(l, area, t, tile, token, coded, p);
    if (t.value_bits == 2)
        add_codes<2>(l, area, t.value_group, codes);
    else if (t.value_bits == 3)
        add_codes<3>(l, area, t.value_group, codes);
    else if (t.value_bits == 4)
        add_codes<4>(l, area, t.value_group, codes);
    else
        add_codes<8>(l, area, t.value_group, codes);
}

//@ score-keys: Score the coded keys of a chunk
template <bool TURNED, int D, int H>
KV_DEVICE void score_keys(Lane<D, H> &l, Area<D, H> &area,
                          const Room<D, H> &room, const Decode &d,
                          const uint8_t *tile, int token, int first) {
    int bits = d.pool.tile.key_bits;
    if (bits == 2)
        score_codes<2, D, H, TURNED>(l, area, room, d, tile, token, first);
    else if (bits == 3)
        score_codes<3, D, H, TURNED>(l, area, room, d, tile, token, first);
    else if (bits == 4)
        score_codes<4, D, H, TURNED>(l, area, room, d, tile, token, first);
    else
        score_codes<8, D, H, TURNED>(l, area, room, d, tile, token, first);
}

//@ which: Say what is what in a chunk
/* Bits of its tokens: those that count; of these, whose keys are rows, whose
 * values are rows, whose values are codes. */
template <int N> struct Which {
    uint32_t valid[N], key_rows[N], rows[N], codes[N];
};

template <int N>
KV_DEVICE Which<N> which_tokens(const kv_pool &p, const Sequence &q, int s,
                                int t) {
    Which<N> x;
#pragma unroll
    for (int u = 0; u < N; u++) {
        x.valid[u] = ~absent_tokens(p, s, t + 32 * u, 0, q.tokens);
        x.key_rows[u] = x.valid[u] & from_bit(q.keys - t - 32 * u);
        x.rows[u] = x.valid[u] & from_bit(q.values - t - 32 * u);
        x.codes[u] = x.valid[u] & ~x.rows[u];
    }
    return x;
}

template <int N> KV_DEVICE bool any(const uint32_t (&bits)[N]) {
    return (bits[0] | bits[N - 1]) != 0;
}

//@ chunk: Take in a chunk of tokens, coded or waiting
/* t: a token of the sequence. Keys wait at least as long as values. */
template <bool TURNED, int D, int H>
KV_DEVICE void take_chunk(Lane<D, H> &l, Area<D, H> &area,
                          const Room<D, H> &room, const Decode &d,
                          const Sequence &q, int kv_head, const uint8_t *tile,
                          int t) {
    constexpr int N = Lane<D, H>::MT / 2;
    Which<N> is = which_tokens<N>(d.pool, q, l.s, t);
    float p[H][N];
    __syncwarp(); /* the weights of the chunk before have been used */
    if (t < q.keys)
        score_keys<TURNED>(l, area, room, d, tile, t % KV_TILE, t);
    if (!any(is.valid))
        return;
    if (any(is.key_rows))
        score_rows<D, H, TURNED>(l, area, room, d,
                                 rows_at(d.pool, l.s, kv_head, false, t),
                                 is.key_rows, nullptr, t);
    __syncwarp();
    weigh_tokens(l, area, d, is.valid, p);
    if (any(is.codes))
        add_values(l, area, d.pool.tile, tile, t % KV_TILE, is.codes, p);
    __syncwarp();
    if (any(is.rows))
        add_rows(l, area, rows_at(d.pool, l.s, kv_head, false, t),
                 d.pool.tile.value_bits, is.rows, p);
}

//@ kept-chunk: Take in a chunk of kept rows
template <bool TURNED, int D, int H>
KV_DEVICE void take_kept(Lane<D, H> &l, Area<D, H> &area,
                         const Room<D, H> &room, const Decode &d,
                         const Sequence &q, int kv_head, int i) {
    constexpr int N = Lane<D, H>::MT / 2;
    uint32_t valid[N];
    float p[H][N];
    Rows rows = rows_at(d.pool, l.s, kv_head, true, i);
    for (int u = 0; u < N; u++)
        valid[u] = ~from_bit(q.kept - i - 32 * u);
    __syncwarp();
    score_rows<D, H, TURNED>(l, area, room, d, rows, valid,
                             d.pool.position + size_t(l.s) *
                                                   d.pool.kept_capacity, i);
    __syncwarp();
    weigh_tokens(l, area, d, valid, p);
    __syncwarp();
    add_rows(l, area, rows, d.pool.tile.value_bits, valid, p);
}

//@ walk-chunks: Walk over a share of the tiles, then of the kept rows
template <bool TURNED, int D, int H>
KV_DEVICE void walk_chunks(Lane<D, H> &l, Area<D, H> &area,
                           const Room<D, H> &room, const Decode &d,
                           int kv_head, int share) {
    constexpr int TOKENS = Lane<D, H>::TOKENS;
    Sequence q = read_sequence(d, l.s);
#pragma unroll 1
    for (int i = share; i * KV_TILE < q.tokens; i += d.shares) {
        int last = min(q.tokens, (i + 1) * KV_TILE);
        const uint8_t *tile = nullptr;
        if (i * KV_TILE < q.values)
            tile = find_tile(d, l.s, kv_head, i);
#pragma unroll 1
        for (int t = i * KV_TILE; t < last; t += TOKENS)
            take_chunk<TURNED>(l, area, room, d, q, kv_head, tile, t);
    }
#pragma unroll 1
    for (int i = share * TOKENS; i < q.kept; i += d.shares * TOKENS)
        take_kept<TURNED>(l, area, room, d, q, kv_head, i);
}

//@ leave-part: Leave what a warp has found for the second kernel
template <int D, int H>
KV_DEVICE void leave_part(Lane<D, H> &l, const Decode &d, int share) {
    const kv_tile &t = d.pool.tile;
    int r = threadIdx.x % 32 / 4, j = threadIdx.x % 4;
#pragma unroll
    for (int h = 0; h < H; h++) {
        float *part = part_of(d, l.s, l.head + min(h, l.heads - 1), share);
        float low = 0, weight = kv_warp_sum(l.weight[h]);
        bool mine = h < l.heads;
#pragma unroll
        for (int b = 0; b < D / 32; b++) {
            float *x = l.sum[h] + 4 * b;
            if ((32 * b & (t.value_group - 1)) == 0)
                low = kv_warp_sum(l.low[h][b]);
            for (int c = 0; c < 4; c++) {
                int shift = field_shift(t.value_bits, 2 * b + c / 2);
                x[c] += __shfl_xor_sync(~0u, x[c], 1);
                x[c] += __shfl_xor_sync(~0u, x[c], 2);
                x[c] = x[c] * power_of_two(24 - shift) + low;
            }
            if (mine && j == 0)
                store_floats<4>(part + 32 * b + 4 * r, x);
        }
        const float end[4] = {l.max[h] * 0.693147181f, weight, 0, 0};
        if (mine && threadIdx.x % 32 == 0)
            store_floats<4>(part + D, end);
    }
}

#endif
