/* Block formats of GGUF tensors, to float32.
 *
 * A quantized tensor is a row of blocks. A block holds 32 elements (Q4_0 to
 * Q8_0) or 256 (the "K" formats) as small integers q beside one or two binary16
 * scales; in the K formats each run of 16 or 32 elements has a small integer
 * scale of its own on top. What an element is worth:
 *
 *     Q4_0 Q5_0 Q8_0   d * q              q signed: stored with an offset of 8, 16; Q8_0 as it is
 *     Q4_1 Q5_1        d * q + m
 *     Q2_K Q4_K Q5_K   (d*s) * q - (dmin*t)      s, t: 4 or 6 bits per run
 *     Q3_K Q6_K        (d*s) * q                 q and s signed
 *
 * All in float32, each operation rounded once, in the order of the brackets: the
 * project is built without contraction to fused multiply-add, so that every
 * compiler gives the same weights to the last bit. The layouts are facts of
 * ggml-common.h (repository ggml-org/llama.cpp); the drawings below give them as
 * byte offsets within a block.
 *
 * The loops are the plain ones: fixed length, no branches, output not aliased.
 * gcc -O3 turns them into vector code, and a model is read at memory speed. */
#include "gguf.h"

#include <string.h>

#include "files.h"

typedef unsigned char byte;

static float half_at(const byte *p)
{
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return kv_half_to_float(h);
}

static uint32_t word_at(const byte *p)
{
    uint32_t w;
    memcpy(&w, p, sizeof w);
    return w;
}

/* -------------------------------------------------------------- no blocks */

static void f32(float *restrict out, const byte *restrict in, size_t n)
{
    memcpy(out, in, n * sizeof *out);
}

static void f16(float *restrict out, const byte *restrict in, size_t n)
{
    for (size_t i = 0; i < n; i++) out[i] = half_at(in + 2 * i);
}

/* bfloat16 is the upper half of a float32. */
static void bf16(float *restrict out, const byte *restrict in, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, in + 2 * i, sizeof h);
        uint32_t bits = (uint32_t)h << 16;
        memcpy(out + i, &bits, sizeof bits);
    }
}

/* ------------------------------------------- blocks of 32, nibbles in halves */

/* Byte i carries element i in its low nibble and element i + 16 in its high one. */

/* 0: d   2: nibbles[16] */
static void q4_0(float *restrict out, const byte *restrict in, size_t blocks)
{
    for (size_t b = 0; b < blocks; b++, in += 18, out += 32) {
        const float d = half_at(in);
        for (int i = 0; i < 16; i++) {
            out[i] = d * (float)((in[2 + i] & 15) - 8);
            out[i + 16] = d * (float)((in[2 + i] >> 4) - 8);
        }
    }
}

/* 0: d   2: m   4: nibbles[16] */
static void q4_1(float *restrict out, const byte *restrict in, size_t blocks)
{
    for (size_t b = 0; b < blocks; b++, in += 20, out += 32) {
        const float d = half_at(in), m = half_at(in + 2);
        for (int i = 0; i < 16; i++) {
            out[i] = d * (float)(in[4 + i] & 15) + m;
            out[i + 16] = d * (float)(in[4 + i] >> 4) + m;
        }
    }
}

/* 0: d   2: fifth bits, element i at bit i   6: nibbles[16] */
static void q5_0(float *restrict out, const byte *restrict in, size_t blocks)
{
    for (size_t b = 0; b < blocks; b++, in += 22, out += 32) {
        const float d = half_at(in);
        const uint32_t high = word_at(in + 2);
        for (int i = 0; i < 16; i++) {
            int low_q = (in[6 + i] & 15) | (int)((high >> i & 1) << 4);
            int high_q = (in[6 + i] >> 4) | (int)((high >> (i + 16) & 1) << 4);
            out[i] = d * (float)(low_q - 16);
            out[i + 16] = d * (float)(high_q - 16);
        }
    }
}

/* 0: d   2: m   4: fifth bits   8: nibbles[16] */
static void q5_1(float *restrict out, const byte *restrict in, size_t blocks)
{
    for (size_t b = 0; b < blocks; b++, in += 24, out += 32) {
        const float d = half_at(in), m = half_at(in + 2);
        const uint32_t high = word_at(in + 4);
        for (int i = 0; i < 16; i++) {
            int low_q = (in[8 + i] & 15) | (int)((high >> i & 1) << 4);
            int high_q = (in[8 + i] >> 4) | (int)((high >> (i + 16) & 1) << 4);
            out[i] = d * (float)low_q + m;
            out[i + 16] = d * (float)high_q + m;
        }
    }
}

/* 0: d   2: q[32], signed bytes */
static void q8_0(float *restrict out, const byte *restrict in, size_t blocks)
{
    for (size_t b = 0; b < blocks; b++, in += 34, out += 32) {
        const float d = half_at(in);
        for (int i = 0; i < 32; i++) out[i] = d * (float)(int8_t)in[2 + i];
    }
}

/* ------------------------------------------------------- blocks of 256 (K) */

/* In Q2_K and Q3_K 32 bytes carry 128 elements, two bits each: byte i has elements i, i + 32,
 * i + 64, i + 96 from its lowest bits up. Scales belong to runs of 16 elements. */

/* 0: scales[16], low nibble for d, high nibble for dmin   16: twos[64]   80: d   82: dmin */
static void q2_k(float *restrict out, const byte *restrict in, size_t blocks)
{
    for (size_t b = 0; b < blocks; b++, in += 84, out += 256) {
        const float d = half_at(in + 80), dmin = half_at(in + 82);
        for (int run = 0; run < 16; run++) {
            const float scale = d * (float)(in[run] & 15), min = dmin * (float)(in[run] >> 4);
            const byte *q = in + 16 + run / 8 * 32 + run % 2 * 16;
            const int shift = run % 8 / 2 * 2;
            for (int i = 0; i < 16; i++)
                out[run * 16 + i] = scale * (float)(q[i] >> shift & 3) - min;
        }
    }
}

/* The 16 scales of Q3_K have 6 bits, offset 32. Low four: byte j % 8, low nibbles for j < 8. High
 * two: byte 8 + j % 4, lowest bits for j < 4. */
static int q3_k_scale(const byte *scales, int j)
{
    int low = scales[j % 8] >> (j < 8 ? 0 : 4) & 15;
    int high = scales[8 + j % 4] >> (2 * (j / 4)) & 3;
    return (low | high << 4) - 32;
}

/* 0: third bits[32], element e at byte e % 32, bit e / 32; a bit that is 0 takes 4 away
 * 32: twos[64]   96: scales[12]   108: d */
static void q3_k(float *restrict out, const byte *restrict in, size_t blocks)
{
    for (size_t b = 0; b < blocks; b++, in += 110, out += 256) {
        const float d = half_at(in + 108);
        for (int run = 0; run < 16; run++) {
            const float scale = d * (float)q3_k_scale(in + 96, run);
            const byte *third = in + run % 2 * 16, *q = in + 32 + run / 8 * 32 + run % 2 * 16;
            const int shift = run % 8 / 2 * 2, bit = run / 2;
            for (int i = 0; i < 16; i++) {
                int value = (q[i] >> shift & 3) + (third[i] >> bit & 1) * 4 - 4;
                out[run * 16 + i] = scale * (float)value;
            }
        }
    }
}

/* Q4_K and Q5_K: 8 runs of 32, each with a 6-bit scale and a 6-bit minimum in 12 bytes. Runs 0-3:
 * the low six bits of bytes 0-3 (scales) and 4-7 (minima). Runs 4-7: low four bits in
 * the nibbles of bytes 8-11 (scales low, minima high), the upper two on top of bytes 0-7. */
static void k_scale(const byte *p, int run, int *scale, int *min)
{
    if (run < 4) {
        *scale = p[run] & 63;
        *min = p[run + 4] & 63;
    } else {
        *scale = (p[run + 4] & 15) | (p[run - 4] >> 6) << 4;
        *min = p[run + 4] >> 4 | (p[run] >> 6) << 4;
    }
}

/* 0: d   2: dmin   4: scales[12]   16: nibbles[128]; runs 2c (low) and 2c + 1 (high) share the
 * 32 bytes from 16 + 32c */
static void q4_k(float *restrict out, const byte *restrict in, size_t blocks)
{
    for (size_t b = 0; b < blocks; b++, in += 144, out += 256) {
        const float d = half_at(in), dmin = half_at(in + 2);
        for (int run = 0; run < 8; run++) {
            int s, t;
            k_scale(in + 4, run, &s, &t);
            const float scale = d * (float)s, min = dmin * (float)t;
            const byte *q = in + 16 + run / 2 * 32;
            const int shift = run % 2 * 4;
            for (int i = 0; i < 32; i++)
                out[run * 32 + i] = scale * (float)(q[i] >> shift & 15) - min;
        }
    }
}

/* 0: d   2: dmin   4: scales[12]   16: fifth bits[32], run r at bit r   48: nibbles as above */
static void q5_k(float *restrict out, const byte *restrict in, size_t blocks)
{
    for (size_t b = 0; b < blocks; b++, in += 176, out += 256) {
        const float d = half_at(in), dmin = half_at(in + 2);
        for (int run = 0; run < 8; run++) {
            int s, t;
            k_scale(in + 4, run, &s, &t);
            const float scale = d * (float)s, min = dmin * (float)t;
            const byte *fifth = in + 16, *q = in + 48 + run / 2 * 32;
            const int shift = run % 2 * 4;
            for (int i = 0; i < 32; i++) {
                int value = (q[i] >> shift & 15) | (fifth[i] >> run & 1) << 4;
                out[run * 32 + i] = scale * (float)value - min;
            }
        }
    }
}

/* 0: nibbles[128]   128: upper twos[64]   192: scales[16], signed bytes, one per 16   208: d
 * Each half of 128 elements has 64 bytes of nibbles (low: its first 64 elements, high: the others)
 * and 32 bytes of twos, four elements a byte, 32 apart. */
static void q6_k(float *restrict out, const byte *restrict in, size_t blocks)
{
    for (size_t b = 0; b < blocks; b++, in += 210, out += 256) {
        const float d = half_at(in + 208);
        for (int run = 0; run < 16; run++) {
            const float scale = d * (float)(int8_t)in[192 + run];
            const int half = run / 8, within = run % 8;
            const byte *low = in + half * 64 + within % 4 * 16;
            const byte *high = in + 128 + half * 32 + within % 2 * 16;
            const int low_shift = within / 4 * 4, high_shift = within / 2 * 2;
            for (int i = 0; i < 16; i++) {
                int value = (low[i] >> low_shift & 15) | (high[i] >> high_shift & 3) << 4;
                out[run * 16 + i] = scale * (float)(value - 32);
            }
        }
    }
}

/* --------------------------------------------------------------- dispatch */

typedef void convert(float *restrict out, const byte *restrict in, size_t blocks);

static convert *converter(int type)
{
    switch (type) {
    case GGUF_F32: return f32;
    case GGUF_F16: return f16;
    case GGUF_BF16: return bf16;
    case GGUF_Q4_0: return q4_0;
    case GGUF_Q4_1: return q4_1;
    case GGUF_Q5_0: return q5_0;
    case GGUF_Q5_1: return q5_1;
    case GGUF_Q8_0: return q8_0;
    case GGUF_Q2_K: return q2_k;
    case GGUF_Q3_K: return q3_k;
    case GGUF_Q4_K: return q4_k;
    case GGUF_Q5_K: return q5_k;
    case GGUF_Q6_K: return q6_k;
    default: return NULL;
    }
}

int gguf_dequantize(float *out, const gguf_tensor *t, size_t first, size_t count, kv_error *err)
{
    convert *convert_blocks = converter(t->type);
    char name[80];
    tm_printable(name, sizeof name, t->name, strlen(t->name));
    if (!convert_blocks)
        return kv_fail(
            err, KV_FAIL_RUN,
            "%s: tensor '%s' has type %s, which this program does not read; use a model in F32, "
            "F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 or Q2_K to Q6_K",
            t->path, name, gguf_type_name(t->type));
    size_t elements = gguf_block_elements(t->type);
    if (first > t->elements || count > t->elements - first || first % elements || count % elements)
        return kv_fail(
            err, KV_FAIL_RUN,
            "%s: tensor '%s' has %zu elements in blocks of %zu; %zu from %zu on cannot be read",
            t->path, name, t->elements, elements, count, first);
    const byte *in = (const byte *)t->data + first / elements * gguf_block_bytes(t->type);
    convert_blocks(out, in, count / elements);
    return KV_OK;
}
