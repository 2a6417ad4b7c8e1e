//@ top: Share what the kernels of an append know
/* append.cuh - what one append does to a sequence, which rows come from where,
 * and how they are read. */
#ifndef KV_APPEND_CUH
#define KV_APPEND_CUH

#include "layout.cuh"
#include "quantize.cuh"

enum { BLOCK = 128, WARPS = BLOCK / 32 };

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

//@ put-scale: Write a scale and its minimum
KV_DEVICE void put_scale(uint8_t *tile, const Side &d, int at, int min,
                         Scale v) {
    uint16_t *params = reinterpret_cast<uint16_t *>(tile + d.params);
    params[at] = v.scale;
    if (!d.symmetric)
        params[at + min] = v.min;
}

#endif
