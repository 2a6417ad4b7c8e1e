/* Exercise 04.4: the bytes of one layer, without a cache.
 *
 * Keys are per channel with groups of key_group tokens, values per token with groups of value_group
 * channels, which divide head_size; both asymmetric. T tokens have come one after the other into a
 * cache with a recent window of R; sealed: then everything that waited was quantized. kept [n_kept]:
 * the kept positions, ascending, all below T. Count words of 32 bits, a group at a time; scales and
 * minima; kept rows and 4 bytes a position; rows that wait. Holes are stored. */
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
    int row = kv_heads * head_size, old = T > R ? T - R : 0;
    int n_k = sealed ? T : old / key_group * key_group, n_v = sealed ? T : old;
    int waiting = 2 * T - n_k - n_v;
    for (int i = 0; i < n_kept; i++)
        waiting -= (kept[i] >= n_k) + (kept[i] >= n_v);
    size_t values = (size_t)n_v * (size_t)(row / value_group) * (4 * words(value_group, value_bits) + 4);
    return key_bytes(n_k, row, key_bits, key_group) + values + (size_t)n_kept * (4 * (size_t)row + 4) +
           2 * (size_t)row * (size_t)waiting;
}
