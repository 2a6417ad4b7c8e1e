/* Exercise 02.4: kv_stages_find of ref/outliers.c, as ref/kv.h describes it. Set layer, channel and sign of
 * each stage. peak and median have a row for the embedding in front. */
#include <math.h>

#include "kv.h"

int kv_stages_find(kv_stage *stage, int *weak, const float *peak, const float *median, int L, int C, int max)
{
    (void)stage, (void)peak, (void)median, (void)L, (void)C, (void)max; /* yours */
    *weak = 0;
    return 0;
}
