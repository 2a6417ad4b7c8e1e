#include "answer.h"
#include "kv.h"

void answer(void)
{
    int T = in_int("T"), n = in_int("heads");
    const float *rows = in_floats("rows", NULL);
    double *alpha = out_doubles("alpha", n * T);
    for (int h = 0; h < n; h++)
        kv_sink_alpha(alpha + h * T, rows + h * T * T, T);
    kv_sink_share(out_doubles("share", T), alpha, n, T, in_number("eps"));
}
