//@ top: Share what all versions of decode know
/* decode.cuh - the job that a launch hands over, the state of a sequence as
 * the device's memory has it, and where its tiles and holes are. */
#ifndef KV_DECODE_CUH
#define KV_DECODE_CUH

#include "launch.h"
#include "layout.cuh"

enum { WARPS = 4 }; /* of a block */

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
KV_DEVICE int page_of(const Decode &d, int s, int tile) {
    const kv_pool &p = d.pool;
    if (!p.pages)
        return tile;
    int page = p.pages[s * p.max_tiles + tile];
    if (page >= 0 && page < p.page_count)
        return page;
    atomicMin(d.fault, kv_fault(p.sequences) * d.heads + s);
    return 0;
}

KV_DEVICE const uint8_t *tiles_of(const Decode &d, int s, int head) {
    return d.pool.tiles + size_t(s) * d.pool.sequence_stride +
           size_t(head) * d.pool.head_stride;
}

KV_DEVICE const uint8_t *find_tile(const Decode &d, int s, int head, int tile) {
    return tiles_of(d, s, head) +
           size_t(page_of(d, s, tile)) * d.pool.page_stride;
}

KV_DEVICE bool is_hole(const kv_pool &p, int s, int t) {
    if (!p.holes)
        return false;
    const uint32_t *tile = p.holes + size_t(s * p.max_tiles + t / KV_TILE) * 4;
    return tile[t % KV_TILE / 32] >> t % 32 & 1;
}

#endif
