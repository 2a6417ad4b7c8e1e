/* Weight matrices as codes, laid out for the processor.
 *
 * A token that comes alone uses every weight once, so the time it takes is the time to read the
 * weights. In the file they are integers of 2 to 8 bits with a scale for every 16 or 32 of them;
 * as float32 they are four to eight times as long. Here a matrix keeps the file's integers, in an
 * order in which one vector load and one shift bring neighbours into neighbouring lanes, beside
 * scales and minima as float32. A kernel of kernels.h makes the weights in registers, the very same
 * float32 values that gguf_dequantize gives, and adds up in the order of its float32 twin: the
 * results have the same bits, whichever of the two copies was read.
 *
 *     block4, 32 elements of 4 bits     element e of either half: word e % 2, nibble e / 2
 *     block8, 64 elements of 8 bits     element 16 j + i: word i, byte j, signed
 *
 * Four rows are multiplied at a time, so their blocks take turns in memory (the last rows, if there
 * are fewer, among themselves): the processor sees one long stream and fetches ahead of it.
 *
 * Tensors in F16 and BF16 are read from the file as they are, and widened row by row. */
#ifndef TM_BLOCKS_H
#define TM_BLOCKS_H

#include <stddef.h>
#include <stdint.h>

#include "gguf.h"
#include "threads.h"

typedef struct {
    float scale, min;
    uint32_t word[4];
} tm_block4;

/* A scale and a minimum for every 16 elements. */
typedef struct {
    float scale[4], min[4];
    uint32_t word[16];
} tm_block8;

/* What a product of few rows reads in place of float32. */
typedef enum { TM_AS_FLOATS, TM_AS_BLOCK4, TM_AS_BLOCK8, TM_AS_HALVES, TM_AS_BF16 } tm_form;

typedef struct {
    tm_form form;
    int rows, cols;
    size_t row_bytes;
    size_t size; /* bytes of memory that tm_blocks_fill needs, a multiple of 64; may be 0 */
    const void *data; /* groups of four rows: [blocks in a row][4] */
} tm_blocks;

/* The form of a tensor, without data: TM_AS_FLOATS (float32 is to be read) where it is no matrix,
 * there is nothing to gain, or rows do not divide into blocks. */
tm_blocks tm_blocks_plan(const gguf_tensor *t);

/* Writes the data to memory aligned to 64 bytes, by all threads of the pool. */
void tm_blocks_fill(tm_blocks *b, const gguf_tensor *t, void *memory, tm_pool *pool);

#endif
