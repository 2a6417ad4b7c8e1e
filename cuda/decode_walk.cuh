//@ top: Walk over a cache with tensor cores
/* decode_walk.cuh - deal the tiles of a sequence to warps, step through them
 * chunk by chunk, then through the rows of 16 bits, and join what the warps of
 * a block have found. */
#ifndef KV_DECODE_WALK_CUH
#define KV_DECODE_WALK_CUH

#include "decode_tensor.cuh"

//@ absent: Say which tokens of a chunk do not count
/* Bits n and above. */
KV_DEVICE uint32_t from_bit(int n) {
    return n <= 0 ? ~0u : n < 32 ? ~0u << n : 0;
}

/* Of the 32 tokens from t on: holes, and all outside first..last-1. */
KV_DEVICE uint32_t absent_tokens(const kv_pool &p, int s, int t, int first,
                                 int last) {
    uint32_t bits = 0;
    if (p.holes && t < p.max_tiles * KV_TILE)
        bits = p.holes[size_t(s * p.max_tiles + t / KV_TILE) * 4 +
                       t % KV_TILE / 32];
    return bits | ~from_bit(first - t) | from_bit(last - t);
}

template <int MT>
KV_DEVICE void set_absent(Chunk<MT> &c, const kv_pool &p, int s, int t,
                          int first, int last) {
#pragma unroll
    for (int h = 0; h < MT / 2; h++)
        c.absent[h] = absent_tokens(p, s, t + 32 * h, first, last);
    c.partial = true;
}

template <int MT> KV_DEVICE bool all_absent(const Chunk<MT> &c) {
    return (c.absent[0] & c.absent[MT / 2 - 1]) == ~0u;
}

//@ tile-mask: See which tokens of a tile do not count
/* What lies behind the last coded key, in the tile that is not full. */
KV_DEVICE uint4 behind(int last) {
    int n = last % KV_TILE;
    if (n == 0)
        return make_uint4(0, 0, 0, 0);
    return make_uint4(from_bit(n), from_bit(n - 32), from_bit(n - 64),
                      from_bit(n - 96));
}

/* Holes, and of the last tile what is behind its end. */
KV_DEVICE uint4 absent_of_tile(const uint32_t *holes, int tile, int last,
                               const uint4 &end) {
    uint4 bad = make_uint4(0, 0, 0, 0);
    if (holes)
        bad = load16(holes + size_t(tile) * 4);
    if (tile == last / KV_TILE)
        bad.x |= end.x, bad.y |= end.y, bad.z |= end.z, bad.w |= end.w;
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
    c.absent[0] = bad0;
    c.absent[w.MT / 2 - 1] = bad1;
    c.partial = bad0 | bad1;
    if (c.partial && all_absent(c))
        return;
    weigh(w, c);
    coded_values<D, CG, BITS>(w, c, values, at.values);
}

//@ tile-walk: Walk over the coded tokens of a tile
template <int D, int BITS, int CG>
KV_DEVICE void walk_tile(Warp<D, CG> &w, const kv_tile &layout,
                         const uint8_t *where, int last, const uint4 &bad) {
    typedef Cursor<D, BITS, CG> C;
    C at = cursor_at<D, BITS, CG>(layout, where, 0);
#pragma unroll 1
    for (int t = 0; t < last; t += 64) {
        uint32_t bad0 = t ? bad.z : bad.x, bad1 = t ? bad.w : bad.y;
#pragma unroll
        for (int i = 0; i < 64; i += C::TOKENS) {
            C here = at;
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
    set_absent(c, d.pool, s, t, q.keys, q.values);
    if (all_absent(c))
        return;
    C at = cursor_at<D, BITS, CG>(
        d.pool.tile, find_tile(d, s, head, t / KV_TILE), t % KV_TILE);
    load_quads(values, at.codes + C::VALUES);
    row_scores(w, c, rows_at(d.pool, s, head, false, t));
    weigh(w, c);
    coded_values<D, CG, BITS>(w, c, values, at.values);
}

//@ row-walk: Walk over a chunk of rows that wait, or are kept
constexpr int ROWS = 32; /* of a chunk */

template <int D, int CG>
KV_DEVICE void walk_rows(Warp<D, CG> &w, const Decode &d, const Sequence &q,
                         int s, int head, bool kept, int t) {
    Chunk<ROWS / 16> c;
    c.partial = true;
    c.absent[0] = from_bit(q.kept - t);
    if (!kept)
        c.absent[0] = absent_tokens(d.pool, s, t, q.values, q.tokens);
    if (all_absent(c))
        return;
    Rows rows = rows_at(d.pool, s, head, kept, t);
    row_scores(w, c, rows);
    weigh(w, c);
    row_values(w, c, rows);
}

//@ stage: Copy a tile to shared memory while another is worked on
/* Each warp has two stages of its own. All 16-byte pieces are asked for once
 * and by neighbouring lanes, parameters too, which lanes then share. Codes and
 * the parameters of values have a size that is known here; how many groups of
 * keys follow is not. */
template <int AT, int END>
KV_DEVICE void copy_pieces(uint8_t *to, const uint8_t *from) {
    if constexpr (AT < END) {
        kv_copy16<AT>(to, from);
        copy_pieces<AT + 512, END>(to, from);
    }
}

template <int D, int BITS, int CG>
KV_DEVICE void copy_tile(uint8_t *stage, const Decode &d,
                         const uint8_t *tiles, int s, int tile, int last) {
    constexpr int known = KV_TILE * (D * BITS / 4 + 4 * CG);
    constexpr int most = known + KV_TILE / 32 * 4 * D; /* groups of 32 */
    if (tile < last) {
        int lane = threadIdx.x % 32 * 16, rest = d.pool.tile.bytes - lane;
        const uint8_t *from = tiles + lane +
                              size_t(page_of(d, s, tile)) * d.pool.page_stride;
        copy_pieces<0, known>(stage + lane, from);
#pragma unroll
        for (int i = known; i < most; i += 512)
            if (i < rest)
                kv_copy16(stage + lane + i, from + i);
    }
    kv_copy_commit();
}

//@ tiles: Walk over every n-th tile, directly or staged
template <int D, int BITS, int CG, bool STAGED>
KV_DEVICE void walk_tiles(Warp<D, CG> &w, const Decode &d, const Sequence &q,
                          int s, int head, int share, int shares,
                          uint8_t *stage) {
    const kv_pool &p = d.pool;
    int last = (q.keys + KV_TILE - 1) / KV_TILE, bytes = p.tile.bytes;
    const uint8_t *tiles = tiles_of(d, s, head);
    const uint32_t *holes = p.holes;
    if (holes)
        holes += size_t(s) * p.max_tiles * 4;
    uint4 end = behind(q.keys);
    if (STAGED) {
        copy_tile<D, BITS, CG>(stage, d, tiles, s, share, last);
        copy_tile<D, BITS, CG>(stage + bytes, d, tiles, s, share + shares,
                               last);
    }
    int odd = 0;
#pragma unroll 1
    for (int i = share; i < last; i += shares, odd ^= bytes) {
        const uint8_t *where = stage + odd;
        if (STAGED) {
            kv_copy_wait<1>();
            __syncwarp();
        } else
            where = find_tile(d, s, head, i);
        walk_tile<D, BITS, CG>(w, p.tile, where,
                               min(KV_TILE, q.keys - i * KV_TILE),
                               absent_of_tile(holes, i, q.keys, end));
        if (STAGED) {
            __syncwarp();
            copy_tile<D, BITS, CG>(stage + odd, d, tiles, s, i + 2 * shares,
                                   last);
        }
    }
    if (STAGED)
        kv_copy_wait<0>();
}

//@ shares: Deal tiles, then rows, to the warps
/* Turns go round: after `dealt` pieces, the first that is this share's. */
KV_DEVICE int own_turn(int dealt, int share, int shares) {
    int next = share - dealt % shares;
    return next < 0 ? next + shares : next;
}

template <int D, int BITS, int CG, bool STAGED>
KV_DEVICE void walk_share(Warp<D, CG> &w, const Decode &d, int s, int head,
                          int share, int shares, uint8_t *stage) {
    constexpr int TOKENS = 16 * Warp<D, CG>::MT;
    Sequence q = read_sequence(d, s);
    int dealt = (q.keys + KV_TILE - 1) / KV_TILE;
    walk_tiles<D, BITS, CG, STAGED>(w, d, q, s, head, share, shares, stage);
    int first = q.keys / TOKENS;
    int mixed = (q.values + TOKENS - 1) / TOKENS - first;
#pragma unroll 1
    for (int i = own_turn(dealt, share, shares); i < mixed; i += shares)
        walk_mixed<D, BITS, CG>(w, d, q, s, head, (first + i) * TOKENS);
#pragma unroll
    for (int k = 0; k < w.KT; k++)
        for (int i = 0; i < 4; i++) /* from codes to numbers */
            w.sum[k][i] *= float(1 << (24 - field_shift(BITS, k)));
    dealt += mixed;
    first = q.values / ROWS;
    int recent = (q.tokens + ROWS - 1) / ROWS - first;
    int all = recent + (q.kept + ROWS - 1) / ROWS;
#pragma unroll 1
    for (int i = own_turn(dealt, share, shares); i < all; i += shares)
        walk_rows(w, d, q, s, head, i >= recent,
                  (i < recent ? first + i : i - recent) * ROWS);
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
            to[D] = w.top[i] * 0.693147181f; /* from log2 */
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
    load_query<BITS>(w, shared, d, s, head, heads);
    clear(w);
    walk_share<D, BITS, CG, STAGED>(
        w, d, s, kv_head, blockIdx.x * WARPS + warp, gridDim.x * WARPS,
        stages + warp * 2 * d.pool.tile.bytes);
    __syncthreads();
    leave<D, CG>(shared + warp * 8 * (D + 4), w);
    __syncthreads();
    join_warps<D>(shared, d, s, head, heads);
}

#endif
