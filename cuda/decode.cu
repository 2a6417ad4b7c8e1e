//@ top: Attend straight from codes
/* One new query token per sequence against its whole cache. Nothing is
 * unpacked to memory: codes, rows that are kept and rows that wait are read
 * once, in one pass with an online softmax, and the values are averaged with
 * weights that are corrected whenever a larger score turns up.
 *
 *   k01  one warp walks all tokens of a query head, one element at a time
 *   k02  many warps share the tokens; a second kernel joins what they found
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
                 q.kept != kept || (keys % 16 && keys != tokens);
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
static int check_arrays(const Decode *d, kv_error *err) {
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
                 {"work", d->partial, d->shares > 1, 16},
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
    if (!version)
        version = 2;
    d.shares = version == 1 ? 1 : splits * WARPS;
    if (pool->sequences == 0)
        return KV_OK;
    if (check_arrays(&d, err))
        return KV_FAIL_USAGE;
    unsigned S = unsigned(pool->sequences), H = unsigned(heads);
    if (version == 1) {
        k01<<<dim3(H, S), 32>>>(d);
        return kv_launched(what, err);
    }
    k02<<<dim3(unsigned(splits), H, S), 32 * WARPS>>>(d);
    join<<<dim3(H, S), unsigned(pool->tile.head_size)>>>(d);
    return kv_launched(what, err);
}
