//@ top: Score tokens, and choose by score
/* KVSink reads one channel. Other rules look at more of the same pass, and
 * are here to be compared with it:
 *
 *     toph       the largest entry of the token's residual row, any channel
 *     rotatekv   the tokens of the 20 largest entries of a whole layer
 *     attention  how much attention the token receives (an oracle: it needs
 *                the attention that is to be protected)
 *     criterion  attention received that all layers agree on
 *     bigkeys    the longest keys (the wrong way round, as it turns out: the
 *     smallkeys  keys of sinks are short)
 *     random     the control
 *
 * All but rotatekv and criterion choose with the tie rule of
 * kv_top_magnitudes. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kv.h"

//@ rows: Measure each row of an array
void kv_row_peaks(double *peak, const float *x, int T, int C)
{
    for (int t = 0; t < T; t++, x += C) {
        float most = 0;
        for (int c = 0; c < C; c++)
            most = fabsf(x[c]) > most ? fabsf(x[c]) : most;
        peak[t] = most;
    }
}

void kv_row_norms(double *norm, const float *x, int T, int C)
{
    for (int t = 0; t < T; t++, x += C)
        norm[t] = kv_norm(x, C);
}

//@ attention-received: Add up attention, query by query
/* A key's sum grows query by query, and within one query head by head, so a
 * prompt that comes in pieces gives what it gives at once. */
void kv_attention_add(double *sum, const float *rows, int H, int past, int n)
{
    int T = past + n;
    for (int i = 0; i < n; i++)
        for (int h = 0; h < H; h++) {
            const float *row = rows + ((size_t)h * (size_t)n + (size_t)i) * T;
            for (int k = 0; k <= past + i; k++)
                sum[k] += row[k];
        }
}

void kv_attention_mean(double *a, const double *sum, int H, int T)
{
    for (int t = 0; t < T; t++)
        a[t] = sum[t] / H / (T - t);
}

//@ smallest: Take the K smallest
static int ascending(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

int kv_smallest(int *position, const float *x, int T, int K, float *scratch)
{
    if (K > T)
        K = T;
    if (K <= 0)
        return 0;
    memcpy(scratch, x, (size_t)T * sizeof *x);
    qsort(scratch, (size_t)T, sizeof *scratch, ascending);
    double kth = scratch[K - 1];
    int equals = K, n = 0;
    for (int t = 0; t < T; t++)
        equals -= kth - x[t] > 0.001 * kth;
    for (int t = 0; t < T; t++) {
        if (kth - x[t] > 0.001 * kth)
            position[n++] = t;
        else if (equals > 0 && x[t] - kth <= 0.001 * kth) {
            position[n++] = t;
            equals--;
        }
    }
    return n;
}

//@ insert: Put a position into an ascending list, once
static int insert(int *position, int n, int t)
{
    int at = kv_positions_before(position, n, t);
    if (at < n && position[at] == t)
        return n;
    memmove(position + at + 1, position + at,
            (size_t)(n - at) * sizeof *position);
    position[at] = t;
    return n + 1;
}

//@ rotatekv: Find the tokens of a layer's largest entries
/* at[]: places of the largest entries so far, the largest first. An entry goes
 * behind those that it does not exceed, so the first of equals stays ahead. */
int kv_rotatekv_tokens(int *position, const float *x, int T, int C)
{
    size_t at[KV_ROTATEKV_ENTRIES + 1], size = (size_t)T * (size_t)C;
    int n = 0, tokens = 0;
    for (size_t i = 0; i < size; i++) {
        float a = fabsf(x[i]);
        int place = n;
        while (place > 0 && a > fabsf(x[at[place - 1]]))
            place--;
        if (place == KV_ROTATEKV_ENTRIES)
            continue;
        memmove(at + place + 1, at + place, (size_t)(n - place) * sizeof *at);
        at[place] = i;
        n += n < KV_ROTATEKV_ENTRIES;
    }
    for (int i = 0; i < n; i++)
        tokens = insert(position, tokens, (int)(at[i] / (size_t)C));
    return tokens;
}

//@ random: Draw positions from a seed
static uint64_t splitmix64(uint64_t *state)
{
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

int kv_random_positions(int *position, uint64_t seed, int T, int K)
{
    int n = 0;
    while (n < K && n < T)
        n = insert(position, n, (int)(splitmix64(&seed) % (uint64_t)T));
    return n;
}

//@ criterion: Weigh mean attention against its spread over layers
double kv_criterion(const double *a, int L, int T, int t, double M)
{
    double mean = 0, square = 0;
    for (int l = 0; l < L; l++)
        mean += a[(size_t)l * (size_t)T + (size_t)t];
    mean /= L;
    for (int l = 0; l < L; l++) {
        double d = a[(size_t)l * (size_t)T + (size_t)t] - mean;
        square += d * d;
    }
    return mean - M * sqrt(square / L);
}

//@ criterion-tokens: Take the five that the criterion likes best
int kv_criterion_tokens(int *position, const double *a, int L, int T, double M)
{
    double best[KV_CRITERION_TOKENS + 1];
    int at[KV_CRITERION_TOKENS + 1], n = 0, chosen = 0;
    for (int t = 0; t < T; t++) {
        double score = kv_criterion(a, L, T, t, M);
        int place = n;
        for (; place > 0 && score > best[place - 1]; place--) {
            best[place] = best[place - 1];
            at[place] = at[place - 1];
        }
        best[place] = score;
        at[place] = t;
        n += n < KV_CRITERION_TOKENS;
    }
    for (int i = 0; i < n; i++)
        chosen = insert(position, chosen, at[i]);
    return chosen;
}
