/* Exercise 05.3: the K keys that receive most attention, positions ascending; returns how many.
 * sum[T] as from kv_attention_add, over H heads: their mean attention is what kv_attention_mean would
 * make of it. But only keys that at least `seen` queries can see may be chosen (a key can be seen by
 * its own query). Of equal means the lower position wins. */
int most_attended(int *position, const double *sum, int H, int T, int K, int seen)
{
    (void)sum, (void)H, (void)K, (void)seen; /* yours */
    for (int t = 0; t < T; t++)
        position[t] = t;
    return T;
}
