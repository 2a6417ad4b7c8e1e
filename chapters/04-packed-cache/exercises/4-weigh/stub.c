/* Exercise 04.4: the bytes of one layer, without a cache.
 *
 * Keys are per channel with groups of key_group tokens, values per token with groups of value_group
 * channels, which divide head_size; both asymmetric. T tokens have come one after the other into a
 * cache with a recent window of R; sealed: then everything that waited was quantized. kept [n_kept]:
 * the kept positions, ascending, all below T. Count words of 32 bits, a group at a time; scales and
 * minima; kept rows and 4 bytes a position; rows that wait. Holes are stored. */
#include <stddef.h>

size_t weigh(int T, int R, int sealed, const int *kept, int n_kept, int kv_heads, int head_size,
             int key_bits, int key_group, int value_bits, int value_group)
{
    (void)R, (void)sealed, (void)kept, (void)n_kept, (void)key_group, (void)value_group; /* yours */
    return (size_t)T * (size_t)(kv_heads * head_size) * (size_t)(key_bits + value_bits) / 8;
}
