/* The fast backend: OpenBLAS for matrix products, threads, tiles.
 *
 * What it promises
 *   - The same bits on any number of threads. Work is cut into tiles whose shape depends on the
 *     sizes of the problem only; each tile is one call of single-threaded OpenBLAS or one
 *     run of a loop in kernels.inc, and sums over tiles are made in the order of the tiles.
 *   - Memory for attention: 64 rows of scores per thread, never a T x T matrix, unless `rows`
 *     is asked for.
 *   - Non-finite scores are an error, as in ref/.
 *
 * What it does not promise: that a token's result is the same bit for bit whether it comes alone or
 * with others. Up to 8 rows go through a matrix-vector loop that reads the weights once
 * and gives each row the same bits as if it were alone; more rows go to OpenBLAS, which sums in
 * another order, depending on the number of rows. The difference is rounding
 * (tests/test_fast.c derives the bound), and the scalar backend has none of it.
 *
 * OpenBLAS is set to one thread for the whole process: its own threads would both compete with ours
 * and make results depend on their number. */
#ifndef TM_FAST_H
#define TM_FAST_H

#include "gguf.h"
#include "kv.h"
#include "threads.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tm_fast tm_fast;

/* threads 0: all CPUs this process may use. On failure *out is NULL. */
int tm_fast_open(tm_fast **out, int threads, kv_error *err);
void tm_fast_close(tm_fast *f); /* NULL is harmless */

const kv_backend *tm_fast_backend(const tm_fast *f);
tm_pool *tm_fast_pool(const tm_fast *f);

/* Says that the matrix at data holds the weights of tensor t, dequantized: a product with few rows
 * may then read t's integers in place of data, which gives the same bits in less time
 * (blocks.h), and takes 0.75 bytes more for each weight of up to 4 bits, 1.5 for each of 5 to 8,
 * from the first such product on. Both must stay until tm_fast_forget or tm_fast_close;
 * tm_model_known says it of all
 * matrices of a model. */
int tm_fast_know(tm_fast *f, const float *data, const gguf_tensor *t, kv_error *err);
void tm_fast_forget(tm_fast *f);

/* The vector instructions in use: "avx512", "avx2" or "plain". For tests: choose version i of
 * tm_kernels_at; 0 if it does not run here. */
const char *tm_fast_simd(const tm_fast *f);
int tm_fast_choose(tm_fast *f, int version);

/* kv_decode, from the same packed words: one query q [H][D] over all tokens of a cache layer. Each
 * block of words is read and unpacked once for all query heads that share it. Values that
 * attention reads are those of kv_cache_read to the bit; sums run in float lanes. */
int tm_fast_decode(tm_fast *f, float *out, float *rows, const float *q, const kv_cache *c,
                   int layer, const float *sink, int shift, kv_error *err);

#ifdef __cplusplus
}
#endif

#endif
