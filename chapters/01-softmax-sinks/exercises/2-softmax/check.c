#include "answer.h"
#include "kv.h"

#include <string.h>

void answer(void)
{
    int n;
    const float *s = in_floats("logits", &n);
    const char *kind = in_text("kind");
    float *p = out_floats("p", n), rest = 0;
    if (!strcmp(kind, "softmax"))
        out_code(kv_softmax(p, s, n, NULL));
    else if (!strcmp(kind, "softmax1"))
        out_code(kv_softmax1(p, s, n, NULL));
    else if (!out_code(kv_softmax_sink(p, &rest, s, (float)in_number("sink"), n, NULL)))
        out_number("rest", rest);
}
