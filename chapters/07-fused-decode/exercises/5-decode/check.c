#include "answer.h"
#include "kv.h"

void answer(void)
{
    int n_kept, T = in_int("T"), H = in_int("heads"), Hk = in_int("kv_heads"), D = in_int("D");
    const int *kept = in_ints("kept", &n_kept);
    kv_cache_spec spec = {.layers = 1, .shape = {H, Hk, D}, .recent = in_int("recent"), .capacity = T + 1,
                          .kept_capacity = n_kept, .rope = {D, in_int("interleaved"), 100, 1, NULL}};
    kv_cache c;
    kv_format_parse(&spec.keys, in_text("keys"), NULL);
    kv_format_parse(&spec.values, in_text("values"), NULL);
    if (kv_cache_init(&c, &spec, scratch(kv_cache_size(&spec)), NULL) ||
        kv_cache_append(&c, 0, in_floats("K", NULL), in_floats("V", NULL), kept, n_kept, T, NULL)) {
        out_int("cache", 0);
        return;
    }
    float *rows = in_int("rows") ? out_floats("rows", H * T) : NULL;
    const float *sink = in_has("sink") ? in_floats("sink", NULL) : NULL;
    out_code(kv_decode(out_floats("out", H * D), rows, in_floats("q", NULL), &c, 0, sink, in_int("shift"),
                       scratch((size_t)(T + D) * sizeof(float)), NULL));
}
