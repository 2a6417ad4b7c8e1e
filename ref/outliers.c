//@ top: Find extreme activations and the layers that write them
/* A handful of channels of the residual stream carry values hundreds of times
 * larger than the rest, at a handful of tokens: "massive activations" (Sun et
 * al., 2024), KVSink's "stable outliers". They are written by one layer, ride
 * the stream, and are erased near the end. Here we measure them, name the
 * layers where they emerge, and follow one through the paper's five phases. */
#include <math.h>

#include "kv.h"

//@ select: Find the k-th smallest without sorting everything
/* Hoare's selection: partition around a pivot, go on in the part that holds
 * index k. Everything before k ends up not larger, everything after not
 * smaller. */
static float select_kth(float *x, size_t n, size_t k)
{
    size_t first = 0, last = n - 1;
    while (first < last) {
        float pivot = x[first + (last - first) / 2];
        size_t i = first, j = last;
        for (;; i++, j--) {
            while (x[i] < pivot)
                i++;
            while (x[j] > pivot)
                j--;
            if (i >= j)
                break;
            float swap = x[i];
            x[i] = x[j];
            x[j] = swap;
        }
        if (k <= j)
            last = j;
        else
            first = j + 1;
    }
    return x[k];
}

//@ median: Take the middle magnitude
float kv_median_abs(float *x, size_t n)
{
    if (n == 0)
        return 0;
    for (size_t i = 0; i < n; i++)
        x[i] = fabsf(x[i]);
    float upper = select_kth(x, n, n / 2);
    if (n % 2)
        return upper;
    float lower = x[0]; /* the largest of the smaller half */
    for (size_t i = 1; i < n / 2; i++)
        if (x[i] > lower)
            lower = x[i];
    return (float)(((double)lower + upper) / 2);
}

//@ extremes: Find the largest magnitude, where it is, and the median
kv_extreme kv_outliers(const float *x, int rows, int cols, float *scratch)
{
    kv_extreme e = {0, 0, 0, 0};
    size_t n = (size_t)rows * (size_t)cols;
    for (size_t i = 0; i < n; i++) {
        scratch[i] = x[i];
        if (fabsf(x[i]) > e.max) {
            e.max = fabsf(x[i]);
            e.row = (int)(i / (size_t)cols);
            e.col = (int)(i % (size_t)cols);
        }
    }
    e.median = kv_median_abs(scratch, n);
    return e;
}

//@ peaks: Take each channel's largest value, with its sign
void kv_channel_peaks(float *peak, const float *x, int rows, int cols)
{
    for (int c = 0; c < cols; c++) {
        float best = 0;
        for (int t = 0; t < rows; t++) {
            float v = x[(size_t)t * cols + c];
            if (fabsf(v) > fabsf(best))
                best = v;
        }
        peak[c] = best;
    }
}

//@ rise: See whether a run of doublings ends at a layer
/* peak [L+1][C] with the embedding in row 0, so layer l is row l+1. */
static int doubles(const float *peak, int C, int row, int c)
{
    float now = fabsf(peak[(size_t)row * C + c]);
    float before = fabsf(peak[((size_t)row - 1) * C + c]);
    return now > 0 && now >= 2 * before;
}

static int rise_ends(const float *peak, int L, int C, int l, int c)
{
    return doubles(peak, C, l + 1, c) &&
           (l + 1 == L || !doubles(peak, C, l + 2, c));
}

//@ find-stages: List the layers where an outlier has just emerged
/* An emergence may take several layers, each at least doubling the value; its
 * last layer is the first at which the outlier can be read in full. */
int kv_stages_find(kv_stage *stage, int *weak, const float *peak,
                   const float *median, int L, int C, int max)
{
    *weak = 1;
    for (size_t i = (size_t)C; i < (size_t)(L + 1) * (size_t)C; i++)
        if (fabsf(peak[i]) >= 100)
            *weak = 0;
    int found = 0;
    for (int l = 0; l < L && found < max; l++) {
        const float *here = peak + (size_t)(l + 1) * C;
        int best = -1;
        for (int c = 0; c < C; c++) {
            float m = fabsf(here[c]);
            if ((m >= 100 || *weak) && m >= 300 * (double)median[l + 1] &&
                rise_ends(peak, L, C, l, c) &&
                (best < 0 || m > fabsf(here[best])))
                best = c;
        }
        if (best >= 0)
            stage[found++] = (kv_stage){.layer = l, .channel = best,
                                        .sign = here[best] < 0 ? -1 : 1};
    }
    return found;
}

//@ vote: Keep the stages that most prompts agree on
static int count_votes(int *sign, const kv_stage *s, const kv_stage *found,
                       const int *count, int prompts, int max)
{
    int votes = 0;
    *sign = 0;
    for (int p = 0; p < prompts; p++)
        for (int i = 0; i < count[p]; i++) {
            const kv_stage *f = found + (size_t)p * max + i;
            if (f->layer == s->layer && f->channel == s->channel) {
                votes++;
                *sign += f->sign;
            }
        }
    return votes;
}

//@ majority: List each stage of the majority once, in order
static int before(const kv_stage *a, const kv_stage *b)
{
    return a->layer < b->layer ||
           (a->layer == b->layer && a->channel < b->channel);
}

int kv_stages_vote(kv_stage *stage, const kv_stage *found, const int *count,
                   int prompts, int max)
{
    int n = 0;
    for (int p = 0; p < prompts; p++)
        for (int i = 0; i < count[p] && n < max; i++) {
            kv_stage s = found[(size_t)p * max + i];
            int sign, at = 0;
            s.prompts = count_votes(&sign, &s, found, count, prompts, max);
            s.sign = sign < 0 ? -1 : 1;
            if (2 * s.prompts <= prompts)
                continue;
            while (at < n && before(&stage[at], &s))
                at++;
            if (at < n && !before(&s, &stage[at]))
                continue; /* counted already */
            for (int j = n++; j > at; j--)
                stage[j] = stage[j - 1];
            stage[at] = s;
        }
    return n;
}

//@ phases: Follow one outlier through the paper's five phases
/* Dissipation is a write of the opposite sign that takes away at least half
 * of what was there. */
void kv_phases(kv_phase *phase, const float *h, const float *write, int L,
               int emergence)
{
    int gone = L; /* the dissipating layer; L: none */
    for (int l = L - 1; l > emergence && emergence >= 0; l--)
        if (write[l] * h[l - 1] < 0 && fabsf(h[l]) <= fabsf(h[l - 1]) / 2)
            gone = l;
    for (int l = 0; l < L; l++)
        phase[l] = emergence < 0 || l < emergence ? KV_INITIAL
                   : l == emergence               ? KV_EMERGENCE
                   : l < gone                     ? KV_STABLE
                   : l == gone                    ? KV_DISSIPATION
                                                  : KV_FINAL;
}
