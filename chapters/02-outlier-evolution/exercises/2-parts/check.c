#include "answer.h"
#include "kv.h"

#include <string.h>

void answer(void)
{
    const char *what = in_text("what");
    int n;
    if (!strcmp(what, "norm")) {
        const float *x = in_floats("x", &n);
        kv_rmsnorm(out_floats("y", n), x, in_floats("weight", NULL), in_number("eps"), n);
    } else if (!strcmp(what, "swiglu")) {
        const float *gate = in_floats("gate", &n);
        kv_swiglu(out_floats("y", n), gate, in_floats("up", NULL), (size_t)n);
    } else {
        kv_rope r = {.dims = in_int("dims"), .interleaved = in_int("interleaved"), .base = in_number("base"),
                     .scale = in_number("scale")};
        if (in_has("factors"))
            r.factors = in_floats("factors", NULL);
        const float *x = in_floats("x", &n);
        float *y = out_floats("y", n), *cs = out_floats("cs", r.dims);
        memcpy(y, x, (size_t)n * sizeof *y);
        kv_rope_angles(cs, &r, in_int("position"));
        kv_rope_rotate(y, cs, &r, in_int("heads"), in_int("D"));
    }
}
