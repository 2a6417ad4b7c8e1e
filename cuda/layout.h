//@ top: Lay the packed cache out for the decode kernel
/* layout.h - where a code, a scale and a kept flag lie on the device. Types
 * and constants only; the formulas are in layout.cuh, and layout.cu moves a
 * cache of ref/ to this layout and back.
 *
 * Keys are quantized per channel in groups of 32, 64 or 128 tokens, values per
 * token in groups of 32, 64 or 128 channels that divide the head size D, which
 * is 64 or 128. Other formats have no device layout.
 *
 * A TILE holds 128 tokens of one KV head in one piece: codes of keys, codes of
 * values, parameters of values, parameters of keys. Token t of a sequence lies
 * in its tile t / 128; a tile that is not full has zeros for what is missing,
 * so whoever makes room for tiles fills them with zeros.
 *
 * The order of codes is the one in which tensor cores want their operand A, a
 * matrix of 16 rows and 16 columns of 16-bit numbers (mma.m16n8k16), so that
 * what a lane unpacks is what it multiplies:
 *
 *   lane 4r+j holds four registers of two columns each:
 *       register 0: row r,   columns 2j, 2j+1     1: row r+8, the same columns
 *       register 2: row r,   columns 2j+8, 2j+9   3: row r+8, the same columns
 *
 * For keys rows are tokens and columns are channels; for values it is the
 * other way round. Which channel is which row or column is free, because the
 * query and the output can be permuted likewise. We choose it so that rows of
 * 16-bit numbers, too, are read in whole sectors (layout.cuh). */
#ifndef KV_LAYOUT_H
#define KV_LAYOUT_H

#include "kv.h"

//@ tile: Say how a tile is cut up
/* Codes: a matrix of 16x16 is a FIELD of every lane, the tile has
 * 8 * D/16 of them for keys and as many for values. 16 bits of a register
 * hold 16/b fields (2 bits: 8, 4 bits: 4, 8 bits: 2), one above the other,
 * and a lane's four registers are 16 neighbouring bytes, a QUAD; the quads of
 * 32 lanes are 512 bytes. At 3 bits three quads hold 16 fields: 5 each, and
 * bit k of the 16th is the topmost bit of quad k.
 *
 * Parameters are binary16, as in ref/:
 *   keys    [128/group][scale of D channels, minimum of D channels]
 *   values  [D/group][scale of 128 tokens, minimum of 128 tokens], tokens in
 *           the order that kv_value_param_at gives
 * Symmetric formats have no minimum: the second half is missing. */
enum { KV_TILE = 128 };

typedef struct {
    int head_size;
    int key_bits, value_bits;           /* 2, 3, 4, 8 */
    int key_group, value_group;         /* tokens; channels */
    int key_symmetric, value_symmetric;
    /* offsets in a tile, and its size, in bytes; multiples of 128 */
    int value_codes, value_params, key_params, bytes;
} kv_tile;

//@ pool: Say where the tiles, and all other rows, of many sequences lie
/* One layer of S sequences. Tile i of head h of sequence s begins at
 *     tiles + s*sequence_stride + page*page_stride + h*head_stride
 * where page is i, or pages[s*max_tiles + i] if there is a page table.
 *
 * A token is in one of three states, as in ref/cache.c. KEPT: its key and its
 * value are rows of the side table, in the order of position[]; its bit in
 * holes[] is set and nothing else of it is ever looked at. CODED: keys of
 * tokens below quantized_keys[s], values below quantized_values[s], which is
 * at least as many. WAITING: the others; row t % window of the window. A
 * window has room for all tokens that wait at once, and is a multiple of 16.
 * A sequence that was sealed short has quantized_keys = tokens; else they are
 * whole groups. */
typedef struct {
    kv_tile tile;
    int sequences, kv_heads;
    int max_tiles;       /* per sequence; 128 * max_tiles tokens at most */
    int page_count;      /* pages that exist; without a table max_tiles */
    int kept_capacity, window;
    size_t sequence_stride, page_stride, head_stride; /* bytes, of 16 */
    uint8_t *tiles;
    const int *pages;    /* [S][max_tiles], or NULL */
    uint32_t *holes;     /* [S][max_tiles][4] bit t%128 of a tile's 128, or
                            NULL if no token is kept; 16-byte aligned */
    uint16_t *kept_keys, *kept_values;     /* [S][kept_capacity][Hk][D] */
    int *position;                         /* [S][kept_capacity], ascending */
    uint16_t *window_keys, *window_values; /* [S][window][Hk][D] */
    int *tokens, *quantized_keys, *quantized_values, *kept; /* [S] */
} kv_pool;

#endif
