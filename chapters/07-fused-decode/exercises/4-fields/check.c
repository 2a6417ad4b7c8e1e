#include "answer.h"
#include "kv.h"

uint16_t field_of(uint16_t w, int bits, int field);
float power_of(int bits, int field);

void answer(void)
{
    int n, bits = in_int("bits"), fields = 16 / bits;
    const uint16_t *w = in_shorts("w", &n);
    uint16_t *half = out_shorts("half", n * fields);
    float *code = out_floats("code", n * fields);
    for (int i = 0; i < n * fields; i++) {
        half[i] = field_of(w[i / fields], bits, i % fields);
        code[i] = kv_half_to_float(half[i]) * power_of(bits, i % fields);
    }
}
