#include "answer.h"

#include <string.h>

void fold_keys(float *folded, float *offset, const float *q, const float *scale, const float *low, int D);
void score_keys(float *s, const float *folded, float offset, const uint8_t *codes, int T, int D);
void fold_values(float *folded, float *offset, const float *p, const float *scale, const float *low, int T);
void add_values(float *out, const float *folded, float offset, const uint8_t *codes, int T, int D);

void answer(void)
{
    int T, D;
    const float *q = in_floats("q", &D), *p = in_floats("p", &T);
    float *keys = out_floats("folded_keys", D), *values = out_floats("folded_values", T), offset = 0;
    float *out = out_floats("out", D);
    fold_keys(keys, &offset, q, in_floats("keys.scale", NULL), in_floats("keys.low", NULL), D);
    out_number("offset_keys", offset);
    score_keys(out_floats("s", T), keys, offset, in_bytes("keys.codes", NULL), T, D);
    fold_values(values, &offset, p, in_floats("values.scale", NULL), in_floats("values.low", NULL), T);
    out_number("offset_values", offset);
    memcpy(out, in_floats("before", NULL), (size_t)D * sizeof *out);
    add_values(out, values, offset, in_bytes("values.codes", NULL), T, D);
}
