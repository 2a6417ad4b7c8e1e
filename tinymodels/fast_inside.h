/* What fast.c and fast_decode.c share. Nobody else includes this. */
#ifndef TM_FAST_INSIDE_H
#define TM_FAST_INSIDE_H

#include "blocks.h"
#include "fast.h"
#include "kernels.h"

/* cos and sin of the positions that keys stored before RoPE are rotated to, in both orders of
 * reading: by_token [capacity][dims] as kv_rope_angles, by_angle [dims][capacity]. */
typedef struct {
    float *by_token, *by_angle;
    int capacity, filled, shift;
    kv_rope rope;
} tm_angles;

/* A matrix and the tensor it comes from. */
typedef struct {
    const float *data;
    const gguf_tensor *tensor;
    tm_blocks blocks; /* data NULL: not filled yet */
    size_t at;        /* their place in the memory for all blocks */
} tm_known;

struct tm_fast {
    kv_backend backend;
    tm_pool *pool;
    const tm_kernels *kernels;
    float *scratch; /* scratch_size floats for each thread */
    size_t scratch_size;
    float *shared; /* scratch for all threads together */
    size_t shared_size;
    tm_angles angles;
    tm_known *known; /* ascending by data */
    int n_known;
    char *blocks; /* memory for all of them; NULL: none was needed yet */
    size_t blocks_size;
};

/* Gives every thread at least n floats of scratch, or all together. */
int tm_fast_need_scratch(tm_fast *f, size_t n, kv_error *err);
int tm_fast_need_shared(tm_fast *f, size_t n, kv_error *err);

static inline float *tm_fast_scratch(const tm_fast *f, int worker)
{
    return f->scratch + (size_t)worker * f->scratch_size;
}

void tm_angles_free(tm_angles *a);

#endif
