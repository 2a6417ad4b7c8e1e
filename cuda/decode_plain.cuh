//@ top: Attend one number at a time
/* decode_plain.cuh - what k01 and k02 do. It reads like kv_decode in ref/: for
 * each token find its key, turn it if need be, score it, weigh its value. A
 * warp shares the channels of a token; that is all there is of a GPU in it. */
#ifndef KV_DECODE_PLAIN_CUH
#define KV_DECODE_PLAIN_CUH

#include "decode.cuh"

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
    double angle = (double(r.t) + d.turn.shift) * d.turn.speed[i];
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

#endif
