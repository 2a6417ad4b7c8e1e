#include <string.h>

#include "answer.h"

int stage_speaks(const char *which, int all, const int *layer_of_stage, int stages, int stage,
                 int layer);

void answer(void)
{
    int n, L = in_int("L");
    const int *at = in_ints("stages", &n);
    int *speaks = out_ints("speaks", L * n);
    for (int l = 0; l < L; l++)
        for (int s = 0; s < n; s++)
            speaks[l * n + s] = stage_speaks(in_text("which"), in_int("all"), at, n, s, l) != 0;
}
