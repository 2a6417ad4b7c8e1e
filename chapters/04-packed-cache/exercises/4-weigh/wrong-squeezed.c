/* Kept tokens are squeezed out of the groups: no holes. */
#include <stddef.h>

static size_t words(int n, int bits)
{
    return ((size_t)n * (size_t)bits + 31) / 32;
}

/* n tokens that are coded, in runs of G; the last may be short. */
static size_t key_bytes(int n, int row, int bits, int G)
{
    size_t group = 4 * words(G, bits) + 4, rest = n % G ? 4 * words(n % G, bits) + 4 : 0;
    return (size_t)row * ((size_t)(n / G) * group + rest);
}

size_t weigh(int T, int R, int sealed, const int *kept, int n_kept, int kv_heads, int head_size,
             int key_bits, int key_group, int value_bits, int value_group)
{
    int row = kv_heads * head_size, all = T - n_kept, old = all > R ? all - R : 0;
    int n_k = sealed ? all : old / key_group * key_group, n_v = sealed ? all : old;
    (void)kept;
    size_t values = (size_t)n_v * (size_t)(row / value_group) * (4 * words(value_group, value_bits) + 4);
    return key_bytes(n_k, row, key_bits, key_group) + values + (size_t)n_kept * (4 * (size_t)row + 4) +
           2 * (size_t)row * (size_t)(2 * all - n_k - n_v);
}
