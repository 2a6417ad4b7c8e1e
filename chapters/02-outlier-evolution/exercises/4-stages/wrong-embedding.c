/* The embedding is a layer: its large numbers make a model strong. */
#include <math.h>

#include "kv.h"

static double size(const float *peak, int C, int layer, int c) /* layer -1: the embedding */
{
    return fabs((double)peak[(layer + 1) * C + c]);
}

static int doubles(const float *peak, int C, int layer, int c)
{
    double now = size(peak, C, layer, c);
    return now > 0 && now >= 2 * size(peak, C, layer - 1, c);
}

int kv_stages_find(kv_stage *stage, int *weak, const float *peak, const float *median, int L, int C, int max)
{
    int n = 0;
    *weak = 1;
    for (int l = -1; l < L; l++)
        for (int c = 0; c < C; c++)
            if (size(peak, C, l, c) >= 100)
                *weak = 0;
    for (int l = 0; l < L && n < max; l++) {
        int best = -1;
        for (int c = 0; c < C; c++) {
            double m = size(peak, C, l, c);
            int ends = doubles(peak, C, l, c) && (l == L - 1 || !doubles(peak, C, l + 1, c));
            int high = (*weak || m >= 100) && m >= 300.0 * (double)median[l + 1];
            if (ends && high && (best < 0 || m > size(peak, C, l, best)))
                best = c;
        }
        if (best >= 0)
            stage[n++] = (kv_stage){.layer = l, .channel = best, .sign = peak[(l + 1) * C + best] < 0 ? -1 : 1};
    }
    return n;
}
