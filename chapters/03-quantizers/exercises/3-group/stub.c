/* Exercise 03.3: kv_quantize_group for plain integers (f->bits, f->symmetric; nothing else of f matters),
 * as ref/kv.h describes it. kv_half_from_float, kv_half_to_float and kv_fail are there. */
#include <math.h>

#include "kv.h"

int kv_quantize_group(uint8_t *codes, uint16_t *scale, uint16_t *min, const float *x,
                      const uint8_t *kept, int n, int stride, const kv_format *f, kv_error *err)
{
    (void)x, (void)kept, (void)f, (void)err; /* yours */
    *scale = *min = 0;
    for (int i = 0; i < n; i++)
        codes[i * stride] = 0;
    return KV_OK;
}
