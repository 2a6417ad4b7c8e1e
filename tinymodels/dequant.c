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
 * So a block of any format comes apart into integers, scales and minima (gguf_parts), and these
 * make the weights, always in the same way. Where a format has no minimum it is -0, because
 * x + -0 is x, the sign of a zero included.
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

/* Two runs of 16 with the same scale and minimum. */
static inline void one_scale(gguf_parts *p, float d, float m)
{
    p->scale[0] = p->scale[1] = d;
    p->min[0] = p->min[1] = m;
}

/* Byte i carries element i in its low nibble and element i + 16 in its high one. */
static inline void nibbles(int8_t *q, const byte *in)
{
    for (int i = 0; i < 16; i++) {
        q[i] = (int8_t)(in[i] & 15);
        q[i + 16] = (int8_t)(in[i] >> 4);
    }
}

/* The same with fifth bits, that of element i at bit i. */
static inline void fives(int8_t *q, const byte *in, uint32_t fifth)
{
    nibbles(q, in);
    for (int i = 0; i < 32; i++) q[i] = (int8_t)(q[i] | (fifth >> i & 1) << 4);
}

static inline void shift_by(int8_t *q, int offset, int n)
{
    for (int i = 0; i < n; i++) q[i] = (int8_t)(q[i] - offset);
}

/* 0: d   2: nibbles[16] */
static inline void q4_0(gguf_parts *restrict p, const byte *restrict in)
{
    one_scale(p, half_at(in), -0.0f);
    nibbles(p->q, in + 2);
    shift_by(p->q, 8, 32);
}

/* 0: d   2: m   4: nibbles[16] */
static inline void q4_1(gguf_parts *restrict p, const byte *restrict in)
{
    one_scale(p, half_at(in), half_at(in + 2));
    nibbles(p->q, in + 4);
}

/* 0: d   2: fifth bits   6: nibbles[16] */
static inline void q5_0(gguf_parts *restrict p, const byte *restrict in)
{
    one_scale(p, half_at(in), -0.0f);
    fives(p->q, in + 6, word_at(in + 2));
    shift_by(p->q, 16, 32);
}

/* 0: d   2: m   4: fifth bits   8: nibbles[16] */
static inline void q5_1(gguf_parts *restrict p, const byte *restrict in)
{
    one_scale(p, half_at(in), half_at(in + 2));
    fives(p->q, in + 8, word_at(in + 4));
}

/* 0: d   2: q[32], signed bytes */
static inline void q8_0(gguf_parts *restrict p, const byte *restrict in)
{
    one_scale(p, half_at(in), -0.0f);
    memcpy(p->q, in + 2, 32);
}

/* ------------------------------------------------------- blocks of 256 (K) */

/* In Q2_K and Q3_K 32 bytes carry 128 elements, two bits each: byte i has elements i, i + 32,
 * i + 64, i + 96 from its lowest bits up. Scales belong to runs of 16 elements. */

/* 0: scales[16], low nibble for d, high nibble for dmin   16: twos[64]   80: d   82: dmin */
static inline void q2_k(gguf_parts *restrict p, const byte *restrict in)
{
    const float d = half_at(in + 80), dmin = half_at(in + 82);
    for (int run = 0; run < 16; run++) {
        p->scale[run] = d * (float)(in[run] & 15);
        p->min[run] = -(dmin * (float)(in[run] >> 4));
        const byte *q = in + 16 + run / 8 * 32 + run % 2 * 16;
        const int shift = run % 8 / 2 * 2;
        for (int i = 0; i < 16; i++) p->q[run * 16 + i] = (int8_t)(q[i] >> shift & 3);
    }
}

/* The 16 scales of Q3_K have 6 bits, offset 32. Low four: byte j % 8, low nibbles for j < 8. High
 * two: byte 8 + j % 4, lowest bits for j < 4. */
static inline int q3_k_scale(const byte *scales, int j)
{
    int low = scales[j % 8] >> (j < 8 ? 0 : 4) & 15;
    int high = scales[8 + j % 4] >> (2 * (j / 4)) & 3;
    return (low | high << 4) - 32;
}

/* 0: third bits[32], element e at byte e % 32, bit e / 32; a bit that is 0 takes 4 away
 * 32: twos[64]   96: scales[12]   108: d */
static inline void q3_k(gguf_parts *restrict p, const byte *restrict in)
{
    const float d = half_at(in + 108);
    for (int run = 0; run < 16; run++) {
        p->scale[run] = d * (float)q3_k_scale(in + 96, run);
        p->min[run] = -0.0f;
        const byte *third = in + run % 2 * 16, *q = in + 32 + run / 8 * 32 + run % 2 * 16;
        const int shift = run % 8 / 2 * 2, bit = run / 2;
        for (int i = 0; i < 16; i++)
            p->q[run * 16 + i] =
                (int8_t)((q[i] >> shift & 3) + (third[i] >> bit & 1) * 4 - 4);
    }
}

/* Q4_K and Q5_K: 8 runs of 32, each with a 6-bit scale and a 6-bit minimum in 12 bytes. Runs 0-3:
 * the low six bits of bytes 0-3 (scales) and 4-7 (minima). Runs 4-7: low four bits in
 * the nibbles of bytes 8-11 (scales low, minima high), the upper two on top of bytes 0-7. */
static inline void k_scale(gguf_parts *to, const byte *in, int run)
{
    const float d = half_at(in), dmin = half_at(in + 2);
    const byte *p = in + 4;
    int scale = p[run % 4] & 63, min = p[run % 4 + 4] & 63;
    if (run >= 4) {
        scale = (p[run + 4] & 15) | (p[run - 4] >> 6) << 4;
        min = p[run + 4] >> 4 | (p[run] >> 6) << 4;
    }
    to->scale[2 * run] = to->scale[2 * run + 1] = d * (float)scale;
    to->min[2 * run] = to->min[2 * run + 1] = -(dmin * (float)min);
}

/* 0: d   2: dmin   4: scales[12]   16: nibbles[128]; runs 2c (low) and 2c + 1 (high) share the
 * 32 bytes from 16 + 32c */
static inline void q4_k(gguf_parts *restrict p, const byte *restrict in)
{
    for (int run = 0; run < 8; run++) {
        const byte *q = in + 16 + run / 2 * 32;
        const int shift = run % 2 * 4;
        k_scale(p, in, run);
        for (int i = 0; i < 32; i++) p->q[run * 32 + i] = (int8_t)(q[i] >> shift & 15);
    }
}

/* 0: d   2: dmin   4: scales[12]   16: fifth bits[32], run r at bit r   48: nibbles as above */
static inline void q5_k(gguf_parts *restrict p, const byte *restrict in)
{
    for (int run = 0; run < 8; run++) {
        const byte *fifth = in + 16, *q = in + 48 + run / 2 * 32;
        const int shift = run % 2 * 4;
        k_scale(p, in, run);
        for (int i = 0; i < 32; i++)
            p->q[run * 32 + i] = (int8_t)((q[i] >> shift & 15) | (fifth[i] >> run & 1) << 4);
    }
}

/* 0: nibbles[128]   128: upper twos[64]   192: scales[16], signed bytes, one per 16   208: d
 * Each half of 128 elements has 64 bytes of nibbles (low: its first 64 elements, high: the others)
 * and 32 bytes of twos, four elements a byte, 32 apart. */
static inline void q6_k(gguf_parts *restrict p, const byte *restrict in)
{
    const float d = half_at(in + 208);
    for (int run = 0; run < 16; run++) {
        const int half = run / 8, within = run % 8;
        const byte *low = in + half * 64 + within % 4 * 16;
        const byte *high = in + 128 + half * 32 + within % 2 * 16;
        const int low_shift = within / 4 * 4, high_shift = within / 2 * 2;
        p->scale[run] = d * (float)(int8_t)in[192 + run];
        p->min[run] = -0.0f;
        for (int i = 0; i < 16; i++)
            p->q[run * 16 + i] = (int8_t)(((low[i] >> low_shift & 15) |
                                           (high[i] >> high_shift & 3) << 4) - 32);
    }
}

/* --------------------------------------------------------------- dispatch */

typedef void convert(float *restrict out, const byte *restrict in, size_t blocks);

/* name_floats: a row of blocks with everything in line. */
#define FLOATS(name, elements, bytes)                                                             \
    static void name##_floats(float *restrict out, const byte *restrict in, size_t blocks)        \
    {                                                                                             \
        for (size_t b = 0; b < blocks; b++, in += bytes, out += elements) {                       \
            gguf_parts p;                                                                         \
            name(&p, in);                                                                         \
            for (int run = 0; run < elements / 16; run++)                                         \
                for (int i = 0; i < 16; i++)                                                      \
                    out[run * 16 + i] = p.scale[run] * (float)p.q[run * 16 + i] + p.min[run];     \
        }                                                                                         \
    }

FLOATS(q4_0, 32, 18)
FLOATS(q4_1, 32, 20)
FLOATS(q5_0, 32, 22)
FLOATS(q5_1, 32, 24)
FLOATS(q8_0, 32, 34)
FLOATS(q2_k, 256, 84)
FLOATS(q3_k, 256, 110)
FLOATS(q4_k, 256, 144)
FLOATS(q5_k, 256, 176)
FLOATS(q6_k, 256, 210)

static convert *converter(int type)
{
    switch (type) {
    case GGUF_F32: return f32;
    case GGUF_F16: return f16;
    case GGUF_BF16: return bf16;
    case GGUF_Q4_0: return q4_0_floats;
    case GGUF_Q4_1: return q4_1_floats;
    case GGUF_Q5_0: return q5_0_floats;
    case GGUF_Q5_1: return q5_1_floats;
    case GGUF_Q8_0: return q8_0_floats;
    case GGUF_Q2_K: return q2_k_floats;
    case GGUF_Q3_K: return q3_k_floats;
    case GGUF_Q4_K: return q4_k_floats;
    case GGUF_Q5_K: return q5_k_floats;
    case GGUF_Q6_K: return q6_k_floats;
    default: return NULL;
    }
}

int gguf_take_apart(gguf_parts *p, const gguf_tensor *t, size_t block)
{
    const byte *in = (const byte *)t->data + block * gguf_block_bytes(t->type);
    switch (t->type) {
    case GGUF_Q4_0: q4_0(p, in); return 1;
    case GGUF_Q4_1: q4_1(p, in); return 1;
    case GGUF_Q5_0: q5_0(p, in); return 1;
    case GGUF_Q5_1: q5_1(p, in); return 1;
    case GGUF_Q8_0: q8_0(p, in); return 1;
    case GGUF_Q2_K: q2_k(p, in); return 1;
    case GGUF_Q3_K: q3_k(p, in); return 1;
    case GGUF_Q4_K: q4_k(p, in); return 1;
    case GGUF_Q5_K: q5_k(p, in); return 1;
    case GGUF_Q6_K: q6_k(p, in); return 1;
    default: return 0;
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
