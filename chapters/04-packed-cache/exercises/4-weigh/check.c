#include "answer.h"

size_t weigh(int T, int R, int sealed, const int *kept, int n_kept, int kv_heads, int head_size,
             int key_bits, int key_group, int value_bits, int value_group);

void answer(void)
{
    int n;
    const int *kept = in_ints("kept", &n);
    out_int("bytes", (long long)weigh(in_int("T"), in_int("R"), in_int("sealed"), kept, n, in_int("heads"),
                                      in_int("size"), in_int("keys.bits"), in_int("keys.group"),
                                      in_int("values.bits"), in_int("values.group")));
}
