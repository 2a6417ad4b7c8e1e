//@ top: Store numbers in llama.cpp's blocks
/* llama.cpp keeps a cache row as blocks of 32 neighbouring channels, the same
 * blocks that its model files use:
 *
 *   q4_0  {half d; 16 bytes of two codes}           q^ = (q - 8) d
 *   q4_1  {half d, m; 16 bytes}                     q^ = q d + m
 *   q5_0  {half d; 32 fifth bits; 16 bytes}         q^ = (q - 16) d
 *   q5_1  {half d, m; 32 fifth bits; 16 bytes}      q^ = q d + m
 *   q8_0  {half d; 32 signed bytes}                 q^ = q d
 *
 * Three things differ from the groups of quantize.c. A code is decided with
 * the float32 d and read back with the rounded one. Where there is no
 * minimum, d takes the sign of the largest number, so that this one is met
 * exactly: 16 levels reach from -8 to 7. And codes round half up, or, in
 * q8_0, half away from zero. As llama.cpp does, numbers are multiplied by the
 * float32 1/d and not divided by d, which decides ties. Source: ggml's
 * quantize_row_*_ref. */
#include <math.h>
#include <string.h>

#include "kv.h"

//@ block-range: Find the number that decides the scale
/* The first of largest magnitude, with its sign. */
static float largest_of(const float *x)
{
    float largest = 0;
    for (int i = 0; i < KV_BLOCK; i++)
        if (fabsf(x[i]) > fabsf(largest))
            largest = x[i];
    return largest;
}

static void extremes_of(float *lo, float *hi, const float *x)
{
    *lo = *hi = x[0];
    for (int i = 1; i < KV_BLOCK; i++) {
        *lo = x[i] < *lo ? x[i] : *lo;
        *hi = x[i] > *hi ? x[i] : *hi;
    }
}

//@ block-codes: Decide the codes of a block
static float block_step(float *m, const float *x, kv_kind kind)
{
    float lo, hi;
    *m = 0;
    if (kind == KV_Q4_0 || kind == KV_Q5_0)
        return largest_of(x) / (kind == KV_Q4_0 ? -8.0f : -16.0f);
    if (kind == KV_Q8_0)
        return fabsf(largest_of(x)) / 127.0f;
    extremes_of(&lo, &hi, x);
    *m = lo;
    return (hi - lo) / (kind == KV_Q4_1 ? 15.0f : 31.0f);
}

static int block_code(float x, float inverse, float m, kv_kind kind)
{
    float q = (x - m) * inverse;
    if (kind == KV_Q8_0)
        return (int)roundf(q) + 128;
    int highest = kind == KV_Q4_0 || kind == KV_Q4_1 ? 15 : 31;
    q += kind == KV_Q4_0 ? 8.5f : kind == KV_Q5_0 ? 16.5f : 0.5f;
    return (int)q < highest ? (int)q : highest;
}

//@ block-quantize: Quantize a block of 32
void kv_block_quantize(uint8_t *codes, uint16_t *d, uint16_t *m,
                       const float *x, kv_kind kind)
{
    float low;
    if (codes[0] & KV_UNCODED) { /* a token is kept as a whole */
        memset(codes, 0, KV_BLOCK);
        *d = *m = 0;
        return;
    }
    float step = block_step(&low, x, kind);
    float inverse = step != 0 ? 1.0f / step : 0;
    if (isinf(inverse)) /* numbers so small that d is 0 in binary16 */
        inverse = 0;
    *d = kv_half_from_float(step);
    *m = kv_half_from_float(low);
    for (int i = 0; i < KV_BLOCK; i++)
        codes[i] = (uint8_t)block_code(x[i], inverse, low, kind);
}

//@ block-bytes: Lay a block out as llama.cpp does
/* Bytes in front of the codes: d, m, fifth bits. */
static int header_bytes(kv_kind kind)
{
    return 2 + 2 * (kind == KV_Q4_1 || kind == KV_Q5_1) +
           4 * (kind == KV_Q5_0 || kind == KV_Q5_1);
}

int kv_block_bytes(kv_kind kind)
{
    return header_bytes(kind) + (kind == KV_Q8_0 ? 32 : 16);
}

int kv_block_scale_bytes(kv_kind kind)
{
    return kind == KV_Q4_1 || kind == KV_Q5_1 ? 4 : 2;
}

static void put_half(uint8_t *to, uint16_t h)
{
    to[0] = (uint8_t)(h & 255);
    to[1] = (uint8_t)(h >> 8);
}

//@ block-pack: Write a block
void kv_block_pack(uint8_t *block, const uint8_t *codes, uint16_t d,
                   uint16_t m, kv_kind kind)
{
    int head = header_bytes(kind), fifth = head - 4;
    memset(block, 0, (size_t)kv_block_bytes(kind));
    put_half(block, d);
    if (kv_block_scale_bytes(kind) == 4)
        put_half(block + 2, m);
    for (int j = 0; j < KV_BLOCK; j++) {
        if (kind == KV_Q8_0) {
            block[head + j] = (uint8_t)(codes[j] - 128);
            continue;
        }
        int nibble = (codes[j] & 15) << (j < 16 ? 0 : 4);
        block[head + j % 16] |= (uint8_t)nibble;
        if (codes[j] & 16)
            block[fifth + j / 8] |= (uint8_t)(1 << j % 8);
    }
}

//@ block-unpack: Read a block back
int kv_block_code(const uint8_t *block, int j, kv_kind kind)
{
    int head = header_bytes(kind), fifth = head - 4;
    if (kind == KV_Q8_0)
        return (uint8_t)(block[head + j] + 128);
    int code = block[head + j % 16] >> (j < 16 ? 0 : 4) & 15;
    if (kind == KV_Q5_0 || kind == KV_Q5_1)
        code |= (block[fifth + j / 8] >> j % 8 & 1) << 4;
    return code;
}

void kv_block_scale(uint16_t *d, uint16_t *m, const uint8_t *block,
                    kv_kind kind)
{
    *d = (uint16_t)(block[0] | block[1] << 8);
    *m = 0;
    if (kv_block_scale_bytes(kind) == 4)
        *m = (uint16_t)(block[2] | block[3] << 8);
}
