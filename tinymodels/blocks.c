/* Fills the layouts of blocks.h from the blocks of a file. */
#include "blocks.h"

#include <limits.h>
#include <string.h>

static tm_form form_of(int type)
{
    switch (type) {
    case GGUF_F16: return TM_AS_HALVES;
    case GGUF_BF16: return TM_AS_BF16;
    case GGUF_Q4_0: case GGUF_Q4_1: case GGUF_Q4_K: return TM_AS_BLOCK4;
    case GGUF_Q5_0: case GGUF_Q5_1: case GGUF_Q5_K: case GGUF_Q8_0:
    case GGUF_Q2_K: case GGUF_Q3_K: case GGUF_Q6_K: return TM_AS_BLOCK8;
    default: return TM_AS_FLOATS;
    }
}

/* Codes must not be negative: those of Q4_0 are moved up by 8 and the minimum down by as many
 * steps. Both products are exact (11 bits times 4), so the weights stay the same. */
static void fill4(tm_block4 *b, const int8_t *q, float scale, float min)
{
    int offset = 0;
    for (int e = 0; e < 32; e++)
        offset = q[e] < 0 ? 8 : offset;
    memset(b, 0, sizeof *b);
    b->scale = scale;
    b->min = offset ? scale * (float)-offset : min;
    for (int e = 0; e < 32; e++)
        b->word[e / 16 * 2 + e % 2] |= (uint32_t)(q[e] + offset) << e % 16 / 2 * 4;
}

static void fill8(tm_block8 *b, int first, const int8_t *q, float scale, float min)
{
    int j = first / 16;
    b->scale[j] = scale;
    b->min[j] = min;
    for (int i = 0; i < 16; i++)
        b->word[i] |= (uint32_t)(uint8_t)q[i] << 8 * j;
}

typedef struct {
    const gguf_tensor *tensor;
    const tm_blocks *blocks;
    char *to;
} filling;

/* Block b of the file's row, which is number `lane` of `lanes` rows that take turns at `to`. */
static void fill_block(const filling *f, void *to, int row, size_t b, int lane, int lanes)
{
    gguf_parts p;
    size_t n = gguf_block_elements(f->tensor->type), each = (size_t)f->blocks->cols / n;
    int four = f->blocks->form == TM_AS_BLOCK4;
    gguf_take_apart(&p, f->tensor, (size_t)row * each + b);
    for (size_t i = 0; i < n; i += four ? 32 : 16) {
        size_t c = b * n + i, at = c / (four ? 32 : 64) * (size_t)lanes + (size_t)lane;
        if (four)
            fill4((tm_block4 *)to + at, p.q + i, p.scale[i / 16], p.min[i / 16]);
        else
            fill8((tm_block8 *)to + at, (int)(c % 64), p.q + i, p.scale[i / 16], p.min[i / 16]);
    }
}

static void fill_four(void *arg, int group, int worker)
{
    const filling *f = arg;
    (void)worker;
    int first = 4 * group, lanes = f->blocks->rows - first < 4 ? f->blocks->rows - first : 4;
    char *to = f->to + (size_t)first * f->blocks->row_bytes;
    size_t each = (size_t)f->blocks->cols / gguf_block_elements(f->tensor->type);
    memset(to, 0, (size_t)lanes * f->blocks->row_bytes);
    for (int r = 0; r < lanes; r++)
        for (size_t b = 0; b < each; b++)
            fill_block(f, to, first + r, b, r, lanes);
}

tm_blocks tm_blocks_plan(const gguf_tensor *t)
{
    tm_blocks b = {.form = form_of(t->type), .rows = (int)t->dims[1], .cols = (int)t->dims[0]};
    int codes = b.form == TM_AS_BLOCK4 || b.form == TM_AS_BLOCK8;
    int elements = b.form == TM_AS_BLOCK4 ? 32 : b.form == TM_AS_BLOCK8 ? 64 : 1;
    size_t bytes = b.form == TM_AS_BLOCK4   ? sizeof(tm_block4)
                   : b.form == TM_AS_BLOCK8 ? sizeof(tm_block8)
                                            : 2;
    if (t->n_dims != 2 || t->dims[0] > INT_MAX || t->dims[1] > INT_MAX || b.cols % elements)
        b.form = TM_AS_FLOATS;
    if (b.form == TM_AS_FLOATS)
        return b;
    b.row_bytes = (size_t)(b.cols / elements) * bytes;
    b.size = codes ? ((size_t)b.rows * b.row_bytes + 63) / 64 * 64 : 0;
    return b;
}

void tm_blocks_fill(tm_blocks *b, const gguf_tensor *t, void *memory, tm_pool *pool)
{
    filling f = {t, b, memory};
    b->data = b->size ? memory : t->data;
    if (b->size)
        tm_parallel(pool, fill_four, &f, (b->rows + 3) / 4);
}
