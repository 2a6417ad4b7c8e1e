//@ top: Take a few numbers out and store them apart
/* Dense and sparse: the few largest and smallest numbers of a channel (keys)
 * or of a token (values) are stored in 16 bits with a 16-bit index, 4 bytes
 * each, and leave the range of their group, which then has finer steps for all
 * others. The share is given in percent, half of it for each end. Source:
 * KVQuant, here with uniform codes; the exact choice, ties included, is ours.
 *
 * The k-th largest of n numbers is found without sorting, bit by bit: floats
 * become integers in the same order, and the answer is the largest integer
 * that at least k of them reach. That takes up to 32 looks at all of them;
 * for a few, looking once for each is faster, and gives the same. */
#include <string.h>

#include "kv.h"

//@ order: Turn floats into integers that sort the same way
/* -0 and 0 are equal numbers and must tie. flip: smallest first. */
static uint32_t order_of(float x, int flip)
{
    uint32_t u;
    x += 0.0f;
    memcpy(&u, &x, sizeof u);
    u = u >> 31 ? ~u : u | 0x80000000u;
    return flip ? ~u : u;
}

//@ reach: Count the numbers that reach a bound
/* Marked ones do not take part. */
static int count_from(const float *x, const uint8_t *marks, int n, int stride,
                      uint32_t bound, int flip)
{
    int count = 0;
    for (int i = 0; i < n; i++) {
        size_t at = (size_t)i * stride;
        count += !marks[at] && order_of(x[at], flip) >= bound;
    }
    return count;
}

//@ kth: Find a bound that the k first reach
static uint32_t kth(const float *x, const uint8_t *marks, int n, int stride,
                    int k, int flip)
{
    uint32_t bound = 0;
    for (int bit = 31; bit >= 0; bit--) {
        uint32_t higher = bound | 1u << bit;
        int count = count_from(x, marks, n, stride, higher, flip);
        if (count >= k)
            bound = higher;
        if (count == k)
            break;
    }
    return bound;
}

//@ mark: Mark the k first, of equal ones those at lower positions
static void mark_first(uint8_t *marks, const float *x, int n, int stride,
                       int k, int flip)
{
    uint32_t bound = kth(x, marks, n, stride, k, flip);
    int above = bound == UINT32_MAX
                    ? 0
                    : count_from(x, marks, n, stride, bound + 1, flip);
    int equal = k - above;
    for (int i = 0; i < n; i++) {
        size_t at = (size_t)i * stride;
        uint32_t order = order_of(x[at], flip);
        if (marks[at] || order < bound || (order == bound && equal-- <= 0))
            continue;
        marks[at] = KV_OUTLIER;
    }
}

//@ mark-few: Mark the k first one by one, which is faster for a few
static void mark_few(uint8_t *marks, const float *x, int n, int stride, int k,
                     int flip)
{
    for (; k > 0; k--) {
        size_t best = 0;
        uint32_t most = 0;
        for (int i = 0; i < n; i++) {
            size_t at = (size_t)i * stride;
            uint32_t order = order_of(x[at], flip);
            if (order > most && !marks[at]) { /* 0 is the order of a NaN */
                best = at;
                most = order;
            }
        }
        marks[best] = KV_OUTLIER;
    }
}

//@ take: Take out both ends and list them by position
int kv_outliers_each(const kv_format *f, int n)
{
    return (int)((long long)n * f->outliers / 200000);
}

void kv_outliers_take(kv_entry *entry, uint8_t *marks, const float *x, int n,
                      int stride, int k)
{
    if (k == 0)
        return;
    for (int flip = 0; flip < 2; flip++)
        if (k <= 8)
            mark_few(marks, x, n, stride, k, flip);
        else
            mark_first(marks, x, n, stride, k, flip);
    for (int i = 0; i < n; i++) {
        size_t at = (size_t)i * stride;
        if (marks[at] == KV_OUTLIER)
            *entry++ = (kv_entry){kv_half_from_float(x[at]), (uint16_t)i};
    }
}

//@ put: Put them back
void kv_outliers_put(float *x, const kv_entry *entry, int n, int stride,
                     int first, int count)
{
    for (int i = 0; i < n; i++) {
        int at = entry[i].index - first;
        if (at >= 0 && at < count)
            x[(size_t)at * stride] = kv_half_to_float(entry[i].value);
    }
}
