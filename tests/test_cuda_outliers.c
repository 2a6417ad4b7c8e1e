/* Peaks and medians of every kernel version against ref/. All of it is exact. */
#include "cuda_check.h"

/* Hidden states with an outlier channel, a token that is one, equal values and zeros. */
static float *make_hidden(int rows, int cols, uint64_t *seed)
{
    float *x = check_floats((size_t)rows * (size_t)cols);
    check_keys(x, rows, cols, seed);
    for (int i = 0; i < rows * cols; i += 7)
        x[i] = i % 2 ? -2.5f : 2.5f; /* ties: the first one counts */
    for (int c = 0; c < cols; c += 5)
        for (int t = 0; t < rows; t++)
            x[t * cols + c] = c % 2 ? -0.0f : 0.0f; /* a channel of nothing */
    return x;
}

static void run_peaks(const float *x, int rows, int cols, int version)
{
    size_t n = (size_t)rows * (size_t)cols;
    kv_error e = {0};
    kv_fault *fault = cuda_fault();
    kv_peak *token = cuda_room((size_t)rows * 8), *channel = cuda_room((size_t)cols * 8);
    float *d = cuda_copy(x, n * 4), *want = check_floats((size_t)cols), *scratch = check_floats(n);
    kv_peak *t = malloc((size_t)rows * 8), *c = malloc((size_t)cols * 8), most = 0;
    cr_assert_eq(kv_cuda_peaks(token, channel, d, rows, cols, fault, version, &e), KV_OK, "%s",
                 e.text);
    cuda_fine(fault);
    cuda_get(t, token, (size_t)rows * 8);
    cuda_get(c, channel, (size_t)cols * 8);
    kv_channel_peaks(want, x, rows, cols);
    for (int i = 0; i < cols; i++) {
        int place = 0;
        for (int j = 1; j < rows; j++)
            if (fabsf(x[j * cols + i]) > fabsf(x[place * cols + i]))
                place = j;
        cr_expect(kv_peak_value(c[i]) == want[i] && kv_peak_place(c[i]) == place,
                  "k%02d, %d x %d: channel %d is %g at %d, not %g at %d", version, rows, cols, i,
                  kv_peak_value(c[i]), kv_peak_place(c[i]), want[i], place);
    }
    int row = 0;
    for (int j = 0; j < rows; j++) {
        kv_extreme one = kv_outliers(x + (size_t)j * (size_t)cols, 1, cols, scratch);
        cr_expect(fabsf(kv_peak_value(t[j])) == one.max && kv_peak_place(t[j]) == one.col,
                  "k%02d, %d x %d: token %d", version, rows, cols, j);
        if (t[j] >> 32 > most >> 32 || j == 0)
            most = t[j], row = j;
    }
    kv_extreme all = kv_outliers(x, rows, cols, scratch);
    cr_expect(fabsf(kv_peak_value(most)) == all.max && row == all.row &&
              kv_peak_place(most) == all.col);
    kv_cuda_free(d), kv_cuda_free(token), kv_cuda_free(channel), kv_cuda_free(fault);
    free(want), free(scratch), free(t), free(c);
}

Test(cuda_outliers, peaks_of_every_version_are_those_of_ref)
{
    static const int shapes[][2] = {{1, 1}, {1, 31}, {31, 1}, {32, 33}, {33, 32}, {37, 36}, {65, 132},
                                    {129, 4}};
    uint64_t seed = 5;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        int rows = shapes[i][0], cols = shapes[i][1];
        float *x = make_hidden(rows, cols, &seed);
        for (int order = 0; order < CUDA_ORDERS; order++) {
            cuda_order(order);
            for (int version = 0; version <= KV_CUDA_PEAKS_VERSIONS; version++)
                if (version < 3 || cols % 4 == 0)
                    run_peaks(x, rows, cols, version);
        }
        free(x);
    }
    cuda_quiet();
}

static float run_median(const float *x, size_t n, int version)
{
    kv_error e = {0};
    kv_fault *fault = cuda_fault();
    float *d = cuda_copy(x, n * 4), *median = cuda_room(4), got;
    void *work = cuda_room(KV_CUDA_MEDIAN_WORK);
    cr_assert_eq(kv_cuda_median(median, d, n, work, fault, version, &e), KV_OK, "%s", e.text);
    cuda_fine(fault);
    cuda_get(&got, median, 4);
    kv_cuda_free(d), kv_cuda_free(median), kv_cuda_free(work), kv_cuda_free(fault);
    return got;
}

/* kind 0: like hidden states; 1: few values, so that the two middle ones are often equal; 2: all one
 * number; 3: of all sizes, denormal ones too. */
static void fill(float *x, size_t n, int kind, uint64_t *seed)
{
    check_fill(x, n, seed);
    for (size_t i = 0; i < n; i++) {
        if (kind == 1)
            x[i] = (float)check_below(seed, 4) - 2;
        if (kind == 2)
            x[i] = -3;
        if (kind == 3)
            x[i] = ldexpf(x[i], check_below(seed, 200) - 150);
    }
}

Test(cuda_outliers, medians_of_every_version_are_those_of_ref)
{
    uint64_t seed = 6;
    for (int i = 0; i <= CHECK_SIZES; i++)
        for (int kind = 0; kind < 4; kind++) {
            size_t n = i == CHECK_SIZES ? 1027 : (size_t)check_sizes[i];
            float *x = check_floats(n), *copy = check_floats(n);
            fill(x, n, kind, &seed);
            memcpy(copy, x, n * 4);
            float want = kv_median_abs(copy, n);
            for (int version = 0; version <= KV_CUDA_MEDIAN_VERSIONS; version++) {
                cuda_order((version + kind) % CUDA_ORDERS);
                float got = run_median(x, n, version);
                cr_expect(got == want, "m%02d, kind %d, n %zu: %.9g, not %.9g", version, kind, n, got,
                          want);
            }
            free(x), free(copy);
        }
    for (int version = 0; version <= KV_CUDA_MEDIAN_VERSIONS; version++)
        cr_expect_eq(run_median(NULL, 0, version), 0);
    cuda_quiet();
}

Test(cuda_outliers, name_what_is_not_finite)
{
    kv_fault *fault = cuda_fault();
    for (int version = 1; version <= 3; version++) {
        unsigned long long index = 0;
        float x[64] = {0};
        x[37] = NAN, x[38] = INFINITY;
        float *d = cuda_copy(x, sizeof x), *median = cuda_room(4);
        kv_peak *token = cuda_room(64), *channel = cuda_room(64);
        void *work = cuda_room(KV_CUDA_MEDIAN_WORK);
        cr_expect_eq(kv_cuda_peaks(token, channel, d, 8, 8, fault, version, NULL), KV_OK);
        cr_expect_eq(kv_cuda_fault(fault, &index, "hidden states", NULL), KV_FAIL_RUN);
        cr_expect_eq(index, 37, "k%02d: %llu", version, index);
        cr_expect_eq(kv_cuda_median(median, d, 64, work, fault, version, NULL), KV_OK);
        cr_expect_eq(kv_cuda_fault(fault, &index, "hidden states", NULL), KV_FAIL_RUN);
        cr_expect_eq(index, 37, "m%02d: %llu", version, index);
        kv_cuda_free(d), kv_cuda_free(median), kv_cuda_free(token), kv_cuda_free(channel);
        kv_cuda_free(work);
    }
    cuda_quiet();
}

Test(cuda_outliers, refuse_before_they_start)
{
    kv_fault *fault = cuda_fault();
    float *x = cuda_room(256), *median = cuda_room(4);
    kv_peak *p = cuda_room(256);
    void *work = cuda_room(KV_CUDA_MEDIAN_WORK);
    struct {
        kv_peak *token, *channel;
        const float *x;
        int rows, cols, version;
        const char *word;
    } c[] = {
        {p, p, x, -1, 4, 0, "tokens is -1"},      {p, p, x, 4, -1, 0, "channels is -1"},
        {p, p, x, 2, 6, 3, "multiple of 4"},      {p, p, x, 4, 4, 4, "version 4"},
        {p, p, x, 1 << 30, 1 << 30, 0, "2^46"},   {p, p, x, 1 << 23, 1, 0, "at most"},
        {p, p, x + 1, 4, 4, 3, "aligned to 16"},  {p, NULL, x, 4, 4, 0, "channel is NULL"},
    };
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        kv_error e = {0};
        cr_expect_eq(kv_cuda_peaks(c[i].token, c[i].channel, c[i].x, c[i].rows, c[i].cols, fault,
                                   c[i].version, &e), KV_FAIL_USAGE);
        cr_expect(strstr(e.text, c[i].word), "%s: %s", c[i].word, e.text);
    }
    kv_error e = {0};
    cr_expect_eq(kv_cuda_median(median, x, (size_t)1 << 31, work, fault, 0, &e), KV_FAIL_USAGE);
    cr_expect(strstr(e.text, "at most"), "%s", e.text);
    cr_expect_eq(kv_cuda_median(median, x, 4, NULL, fault, 0, &e), KV_FAIL_USAGE);
    cr_expect_eq(kv_cuda_median(median, x + 1, 4, work, fault, 3, &e), KV_FAIL_USAGE);
    cr_expect_eq(kv_cuda_peaks(NULL, NULL, NULL, 0, 4, fault, 0, NULL), KV_OK);
    cuda_quiet();
}
