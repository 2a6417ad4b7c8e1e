/* Takes the bits of a group for its size, and forgets that a group begins at a word. */
#include <stddef.h>

size_t weigh(int T, int R, int sealed, const int *kept, int n_kept, int kv_heads, int head_size,
             int key_bits, int key_group, int value_bits, int value_group)
{
    int row = kv_heads * head_size, old = T > R ? T - R : 0;
    int n_k = sealed ? T : old / key_group * key_group, n_v = sealed ? T : old;
    int waiting = 2 * T - n_k - n_v, runs = (n_k + key_group - 1) / key_group;
    for (int i = 0; i < n_kept; i++)
        waiting -= (kept[i] >= n_k) + (kept[i] >= n_v);
    size_t codes = ((size_t)n_k * (size_t)key_bits + (size_t)n_v * (size_t)value_bits) * (size_t)row / 8;
    size_t scales = 4 * ((size_t)runs * (size_t)row + (size_t)n_v * (size_t)(row / value_group));
    return codes + scales + (size_t)n_kept * (4 * (size_t)row + 4) + 2 * (size_t)row * (size_t)waiting;
}
