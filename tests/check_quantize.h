/* kv_quantize in one line, for tests of chapters 3 and later. */
#ifndef TESTS_CHECK_QUANTIZE_H
#define TESTS_CHECK_QUANTIZE_H

#include "check.h"

/* kv_quantize of plain groups. */
static inline int check_quantize(uint8_t *codes, uint16_t *scale, uint16_t *min, float *y,
                                 const float *x, const uint8_t *kept, const kv_format *f,
                                 kv_shape s, int T, kv_error *err)
{
    kv_quantized out = {.codes = codes, .scale = scale, .min = min, .x_hat = y};
    kv_rows in = {.x = x, .kept = kept, .shape = s, .T = T};
    return kv_quantize(&out, &in, f, err);
}

#endif
