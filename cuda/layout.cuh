//@ top: Find a code, a scale and a channel in a tile
/* layout.cuh - the formulas of layout.h, for kernels and for the host. Only
 * integers: what the numbers mean is not known here. */
#ifndef KV_LAYOUT_CUH
#define KV_LAYOUT_CUH

#include "kv.cuh"
#include "layout.h"

#define KV_BOTH __host__ __device__ inline

//@ spot: Name a place in a 16x16 matrix of a tile
/* field: which matrix; lane and its word 0..3; half: low or high 16 bits. */
struct kv_spot {
    int field, lane, word, half;
};

//@ key-spot: Find the key of a token and a channel
/* Rows are tokens: 16 of them, then the next 16. Columns are channels: of
 * every 32, lane j has 8j..8j+7, the first four in one matrix and the rest in
 * the next. So lane j reads 16 neighbouring bytes of a row of binary16, and
 * of scales and minima, which lie in the order of channels. */
KV_BOTH kv_spot kv_key_spot(int head_size, int token, int channel) {
    int r = token % 8, upper = token % 16 / 8, j = channel % 32 / 8;
    int matrix = channel / 32 * 2 + channel % 8 / 4;
    return {token / 16 * (head_size / 16) + matrix, 4 * r + j,
            upper + channel % 4 / 2 * 2, channel % 2};
}

//@ value-spot: Find the value of a token and a channel
/* Columns are tokens. Rows are channels: of every 32, lane row r has 4r..4r+3,
 * the first two in one matrix (rows r and r+8), the others in the next. A
 * group of 32 channels is therefore two whole matrices. */
KV_BOTH kv_spot kv_value_spot(int head_size, int token, int channel) {
    int j = token % 8 / 2, upper = token % 16 / 8, r = channel % 32 / 4;
    int matrix = channel / 32 * 2 + channel % 4 / 2;
    return {token / 16 * (head_size / 16) + matrix, 4 * r + j,
            channel % 2 + 2 * upper, token % 2};
}

//@ word: Find the word and the bit of a spot
/* Word number from the start of the keys' (values') codes, lowest bit of the
 * code within it. Not for field 15 of every 16 at 3 bits: kv_split_word. */
struct kv_place {
    int word, bit;
};

KV_BOTH kv_place kv_code_place(kv_spot s, int bits) {
    int quad, bit;
    if (bits == 3) {
        quad = s.field / 16 * 3 + s.field % 16 / 5;
        bit = s.field % 16 % 5 * 3;
    } else {
        int fields = 16 / bits;
        quad = s.field / fields;
        bit = s.field % fields * bits;
    }
    return {(quad * 32 + s.lane) * 4 + s.word, s.half * 16 + bit};
}

KV_BOTH bool kv_is_split(kv_spot s, int bits) {
    return bits == 3 && s.field % 16 == 15;
}

//@ split: Find bit k of a code of 3 bits that is spread over three words
KV_BOTH kv_place kv_split_place(kv_spot s, int k) {
    int quad = s.field / 16 * 3 + k;
    return {(quad * 32 + s.lane) * 4 + s.word, s.half * 16 + 15};
}

//@ code: Read and write a code
KV_BOTH int kv_tile_code(const uint32_t *codes, kv_spot s, int bits) {
    if (!kv_is_split(s, bits)) {
        kv_place p = kv_code_place(s, bits);
        return int(codes[p.word] >> p.bit & ((1u << bits) - 1));
    }
    int code = 0;
    for (int k = 0; k < 3; k++) {
        kv_place p = kv_split_place(s, k);
        code |= int(codes[p.word] >> p.bit & 1) << k;
    }
    return code;
}

/* The bits of the code were zero before. */
KV_BOTH void kv_tile_set_code(uint32_t *codes, kv_spot s, int bits,
                              int code) {
    if (!kv_is_split(s, bits)) {
        kv_place p = kv_code_place(s, bits);
        codes[p.word] |= uint32_t(code) << p.bit;
        return;
    }
    for (int k = 0; k < 3; k++) {
        kv_place p = kv_split_place(s, k);
        codes[p.word] |= uint32_t(code >> k & 1) << p.bit;
    }
}

//@ params: Find a scale
/* Index in binary16 numbers from the start of the keys' (values') parameters;
 * the minimum lies kv_key_min, kv_value_min numbers further. */
KV_BOTH int kv_key_param_at(const kv_tile *l, int token, int channel) {
    int arrays = l->key_symmetric ? 1 : 2;
    return token / l->key_group * arrays * l->head_size + channel;
}
KV_BOTH int kv_key_min(const kv_tile *l) { return l->head_size; }

/* Lane j needs tokens 2j, 2j+1, 2j+8, 2j+9 of every 16. Those of 32 tokens
 * are 16 neighbouring bytes. */
KV_BOTH int kv_value_param_at(const kv_tile *l, int token, int channel) {
    int arrays = l->value_symmetric ? 1 : 2;
    int at = token / 32 * 32 + token % 8 / 2 * 8 + token % 32 / 16 * 4 +
             token % 16 / 8 * 2 + token % 2;
    return channel / l->value_group * arrays * KV_TILE + at;
}
KV_BOTH int kv_value_min(const kv_tile *) { return KV_TILE; }

//@ tiles: Find a tile
KV_BOTH uint8_t *kv_tile_of(const kv_pool *p, int sequence, int head,
                            int tile) {
    int page = p->pages ? p->pages[sequence * p->max_tiles + tile] : tile;
    return p->tiles + size_t(sequence) * p->sequence_stride +
           size_t(page) * p->page_stride + size_t(head) * p->head_stride;
}

#endif
