#include "answer.h"
#include "kv.h"

void answer(void)
{
    const int *size = in_ints("shape", NULL);
    kv_shape s = {size[0], size[1], size[2]};
    int past = in_int("past"), n = in_int("n"), T = past + n;
    const float *sink = in_has("sink") ? in_floats("sink", NULL) : NULL;
    float *out = out_floats("out", n * s.heads * s.head_size);
    float *rows = in_int("rows_too") ? out_floats("rows", s.heads * n * T) : NULL;
    out_code(kv_attention(out, rows, in_floats("q", NULL), in_floats("k", NULL), in_floats("v", NULL), sink, s,
                          past, n, scratch((size_t)T * sizeof(float)), NULL));
}
