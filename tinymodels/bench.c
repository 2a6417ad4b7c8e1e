/* Measures how fast things are:
 *   build/bench MODEL.gguf [--decode] [--runs N] [--threads N] [--json FILE]
 * --decode: only the rows about decoding.
 *
 * Every run measures everything once, one after the other, and the table shows medians over runs;
 * so a slow minute of the machine meets all figures alike. With LLAMA_BENCH and LLAMA_PERPLEXITY
 * set to llama.cpp's programs of these names, each run measures them too, right after our own
 * figure of the same kind. Only such ratios from one run mean anything across machines.
 *
 * Rows, unless they say otherwise in tokens per second:
 *   pass      a perplexity pass: forward and logits of every position, keys and values in 16
 *             bits, or quantized and read back (llama.cpp: q4_0)
 *   quantize  share of such a pass that quantizing keys and values to two bits takes
 *   prefill   forward, logits of the last position only
 *   predict   share of a prefill that KVSink's prediction takes: looking at one channel of the
 *             residual after two layers, and building the keep set
 *   decode    one token after the other on top of so many (made up, as far as keys and values go).
 *             What of a token's time is products with weights, and what is the cache (appending to
 *             it and attention), stands below, the rest being norms and the like; and so does
 *             the ratio that matters most: low bits here, 16 bits there
 * What the tokens are does not matter for time; they come from a fixed random sequence. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "fast.h"
#include "files.h"
#include "kv.h"
#include "memory.h"
#include "model.h"
#include "pages.h"

enum { MOST_RUNS = 99, LOGITS_AT_ONCE = 128, NEW = 32, WORDS = 6000 };

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ------------------------------------------------------------------- rows */

typedef enum {
    LOAD, PASS_512, PASS_2048, PASS_2048_4BIT, QUANTIZE_512, PREFILL_512, PREFILL_2048,
    PREDICT_512, PREDICT_2048,
    DECODE_0, DECODE_2048, DECODE_8BIT, DECODE_4BIT, DECODE_2BIT, PRODUCTS, CACHE, AGAINST_4BIT,
    AGAINST_2BIT, PEAK, ROWS
} row;

static const struct { const char *key, *text, *unit; } rows[ROWS] = {
    {"load", "load the model", "s"},
    {"pass_512", "pass, context 512", "tok/s"},
    {"pass_2048", "pass, context 2048", "tok/s"},
    {"pass_2048_4bit", "pass, context 2048, 4 bits", "tok/s"},
    {"quantize_share_512", "quantize, share of the pass at 512", "%"},
    {"prefill_512", "prefill of 512", "tok/s"},
    {"prefill_2048", "prefill of 2048", "tok/s"},
    {"predict_share_512", "predict, share of the prefill of 512", "%"},
    {"predict_share_2048", "predict, share of the prefill of 2048", "%"},
    {"decode_0", "decode from the start, f16", "tok/s"},
    {"decode_2048", "decode after 2048, f16", "tok/s"},
    {"decode_2048_8bit", "decode after 2048, 8 bits", "tok/s"},
    {"decode_2048_4bit", "decode after 2048, 4 bits", "tok/s"},
    {"decode_2048_2bit", "decode after 2048, 2 bits", "tok/s"},
    {"decode_2bit_products", "  products, share of its time", "%"},
    {"decode_2bit_cache", "  append and attention, share", "%"},
    {"decode_4bit_against_f16", "4 bits against llama.cpp's f16", "x"},
    {"decode_2bit_against_f16", "2 bits against llama.cpp's f16", "x"},
    {"peak_rss", "peak resident memory", "MB"},
};

typedef struct {
    double ours[ROWS][MOST_RUNS], theirs[ROWS][MOST_RUNS];
    int n_ours[ROWS], n_theirs[ROWS];
} figures;

static void note(figures *f, row r, double value)
{
    f->ours[r][f->n_ours[r]++] = value;
}

static void note_theirs(figures *f, row r, double value)
{
    if (value > 0)
        f->theirs[r][f->n_theirs[r]++] = value;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *x, int n)
{
    qsort(x, (size_t)n, sizeof *x, ascending);
    return n ? (x[(n - 1) / 2] + x[n / 2]) / 2 : 0;
}

/* -------------------------------------------------------------- our program */

typedef struct {
    const char *path, *json;
    int runs, threads, only_decode;
    tm_model *model;
    const kv_model *kv;
    tm_fast *fast;
    int *tokens;
    float *hidden, *logits, *work;
    size_t work_bytes;
    kv_error err;
} bench;

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

static int make_arrays(bench *b, int most)
{
    uint64_t state = 1;
    size_t width = (size_t)b->kv->width, vocab = (size_t)b->kv->vocab;
    b->work_bytes = kv_forward_work(b->kv, 0, 0, most) * sizeof(float);
    b->work = tm_pages(b->work_bytes);
    b->hidden = malloc((size_t)most * width * sizeof *b->hidden);
    b->logits = malloc(smaller((size_t)most, LOGITS_AT_ONCE) * vocab * sizeof *b->logits);
    b->tokens = malloc((size_t)most * sizeof *b->tokens);
    if (!b->work || !b->hidden || !b->logits || !b->tokens)
        return kv_fail(&b->err, KV_FAIL_RUN, "not enough memory");
    for (int i = 0; i < most; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        b->tokens[i] = (int)((state >> 33) % vocab);
    }
    return KV_OK;
}

static int format(bench *b, kv_format *f, const char *text)
{
    return kv_format_parse(f, text, &b->err);
}

static kv_run new_run(const bench *b, const kv_memory *memory)
{
    return (kv_run){.model = b->kv, .backend = tm_fast_backend(b->fast), .memory = memory,
                    .work = b->work};
}

/* Seconds of a pass over n tokens with logits everywhere; share: of quantizing. */
static int pass(bench *b, const char *keys, const char *values, int n, double *time,
                double *share)
{
    kv_format k, v;
    tm_window *w = NULL;
    int bad = format(b, &k, keys) || format(b, &v, values) ||
              tm_window_open(&w, b->kv, &k, &v, n, tm_fast_pool(b->fast), &b->err);
    if (bad)
        return bad;
    kv_run run = new_run(b, tm_window_memory(w));
    double start = seconds();
    bad = kv_forward(b->hidden, &run, b->tokens, n, &b->err);
    for (int i = 0; i < n && !bad; i += LOGITS_AT_ONCE)
        bad = kv_logits(b->logits, &run, b->hidden + (size_t)i * (size_t)b->kv->width,
                        n - i < LOGITS_AT_ONCE ? n - i : LOGITS_AT_ONCE, &b->err);
    *time = seconds() - start;
    *share = 100 * tm_window_seconds(w) / *time;
    tm_window_close(w);
    return bad;
}

/* What KVSink needs of a pass: one channel after two layers. */
typedef struct {
    int layer[2], channel;
    float *h; /* [2][n] */
    double seconds;
} look;

static void look_at(void *self, kv_tap tap, int layer, float *data, int n, int cols)
{
    look *l = self;
    double start = seconds();
    (void)tap;
    for (int s = 0; s < 2; s++)
        for (int t = 0; layer == l->layer[s] && t < n; t++)
            l->h[s * n + t] = data[(size_t)t * (size_t)cols + (size_t)l->channel];
    l->seconds += seconds() - start;
}

static int build_keep(bench *b, look *l, int n)
{
    int L = b->kv->layers, *count = calloc((size_t)L, sizeof *count), bad;
    int *position = calloc((size_t)(L * n), sizeof *position);
    int *found = calloc((size_t)n, sizeof *found);
    float *scratch = calloc((size_t)n, sizeof *scratch);
    kv_stage stage[2] = {{.layer = l->layer[0], .channel = l->channel, .at_sinks = 2,
                          .elsewhere = 1},
                         {.layer = l->layer[1], .channel = l->channel, .at_sinks = 3,
                          .elsewhere = 1}};
    kv_profile profile = {.layers = L, .width = b->kv->width, .vocab = b->kv->vocab, .n_stages = 2,
                          .stage = stage};
    kv_keep keep = {L, n, count, position};
    kv_keep_rule rule;
    double start = seconds();
    kv_keep_input in = {.T = n, .tokens = b->tokens, .profile = &profile, .h = l->h,
                        .scratch = scratch, .found = found};
    bad = !count || !position || !found || !scratch
              ? kv_fail(&b->err, KV_FAIL_RUN, "not enough memory")
              : kv_keep_parse(&rule, "kvsink:5@each", &b->err);
    if (!bad)
        bad = kv_keep_build(&keep, NULL, &rule, &in, &b->err);
    l->seconds += seconds() - start;
    free(count), free(position), free(found), free(scratch);
    return bad;
}

static int prefill(bench *b, int n, double *time, double *share)
{
    look l = {.layer = {b->kv->layers / 3, b->kv->layers / 2}, .channel = b->kv->width / 2,
              .h = malloc(2 * (size_t)n * sizeof *l.h)};
    kv_run run = new_run(b, NULL);
    run.tap = look_at;
    run.tap_self = &l;
    run.tap_mask = 1u << KV_TAP_H;
    double start = seconds();
    int bad = l.h ? kv_forward(b->hidden, &run, b->tokens, n, &b->err)
                  : kv_fail(&b->err, KV_FAIL_RUN, "not enough memory");
    if (!bad)
        bad = kv_logits(b->logits, &run, b->hidden + (size_t)(n - 1) * (size_t)b->kv->width, 1,
                        &b->err);
    *time = seconds() - start;
    if (!bad)
        bad = build_keep(b, &l, n);
    *share = 100 * l.seconds / *time;
    free(l.h);
    return bad;
}

/* Attention for those who only want a prefill to be over. */
static int no_attention(void *self, float *out, float *weights, const float *q, const float *k,
                        const float *v, const float *sink, kv_shape s, int past, int n,
                        kv_error *err)
{
    (void)self, (void)out, (void)weights, (void)q, (void)k, (void)v, (void)sink, (void)s;
    (void)past, (void)n, (void)err;
    return KV_OK;
}

static int pretend_prefill(bench *b, tm_stream *s, int depth)
{
    size_t row_size = (size_t)(b->kv->shape.kv_heads * b->kv->shape.head_size);
    float *x = malloc((size_t)depth * row_size * sizeof *x);
    kv_backend nothing = {.attention = no_attention};
    const kv_memory *m = tm_stream_memory(s);
    uint64_t state = 2;
    int bad = x ? KV_OK : kv_fail(&b->err, KV_FAIL_RUN, "not enough memory");
    for (size_t i = 0; x && i < (size_t)depth * row_size; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        x[i] = (float)(state >> 40) / 8388608.0f - 1.0f;
    }
    for (int l = 0; l < b->kv->layers && !bad; l++)
        bad = m->attend(m->self, &nothing, l, NULL, NULL, NULL, x, x, x, NULL, 0, depth, &b->err);
    free(x);
    return bad ? bad : tm_stream_begin_decode(s, NULL, &b->err);
}

/* The fast backend's products and a stream's answers, timed. */
typedef struct {
    const kv_backend *backend;
    const kv_memory *memory;
    double products, cache;
} parts;

static void timed_matmul(void *self, float *y, const float *x, const kv_matrix *w, int n)
{
    parts *p = self;
    double start = seconds();
    p->backend->matmul(p->backend->self, y, x, w, n);
    p->products += seconds() - start;
}

static void timed_swiglu(void *self, float *y, const float *gate, const float *up, size_t n)
{
    parts *p = self;
    p->backend->swiglu(p->backend->self, y, gate, up, n);
}

static void timed_rmsnorm(void *self, float *y, const float *x, const float *gain, double eps,
                          int C, int n)
{
    parts *p = self;
    p->backend->rmsnorm(p->backend->self, y, x, gain, eps, C, n);
}

static int timed_attend(void *self, const kv_backend *backend, int layer, float *out, float *rows_,
                        const float *q, const float *k, const float *k_pre, const float *v,
                        const float *sink, int position, int n, kv_error *err)
{
    parts *p = self;
    double start = seconds();
    (void)backend;
    int bad = p->memory->attend(p->memory->self, p->backend, layer, out, rows_, q, k, k_pre, v,
                                sink, position, n, err);
    p->cache += seconds() - start;
    return bad;
}

static int decode(bench *b, const char *keys, const char *values, int recent, int depth,
                  double *time, parts *p)
{
    kv_backend timed = {p, timed_matmul, NULL, timed_swiglu, timed_rmsnorm};
    kv_memory memory = {p, timed_attend};
    tm_stream_spec spec = {.recent = recent, .capacity = depth + NEW + 1};
    tm_stream *s = NULL;
    int bad = format(b, &spec.keys, keys) || format(b, &spec.values, values) ||
              tm_stream_open(&s, b->kv, &spec, b->fast, &b->err);
    if (!bad)
        bad = depth ? pretend_prefill(b, s, depth) : tm_stream_begin_decode(s, NULL, &b->err);
    *p = (parts){tm_fast_backend(b->fast), bad ? NULL : tm_stream_memory(s), 0, 0};
    double start = seconds();
    for (int i = 0; i <= NEW && !bad; i++) {
        if (i == 1) { /* the first warms up */
            start = seconds();
            p->products = p->cache = 0;
        }
        kv_run run = new_run(b, &memory);
        run.backend = &timed;
        run.past = run.position = depth + i;
        bad = kv_forward(b->hidden, &run, b->tokens + i, 1, &b->err);
        if (!bad)
            bad = kv_logits(b->logits, &run, b->hidden, 1, &b->err);
    }
    *time = seconds() - start;
    tm_stream_close(s);
    return bad;
}

/* -------------------------------------------------------------- llama.cpp */

/* The number behind `mark` on the first line that a command prints with `also` on it; 0 if there is
 * none. */
static double ask(const char *command, const char *mark, const char *also)
{
    char line[4096];
    double value = 0;
    FILE *p = popen(command, "r");
    while (p && fgets(line, sizeof line, p)) {
        char *at = strstr(line, mark);
        if (at && value == 0 && strstr(line, also))
            value = strtod(at + strlen(mark), NULL);
    }
    if (p)
        pclose(p);
    return value;
}

/* tokens per second of llama-bench; what: its options */
static double their_bench(const bench *b, const char *what)
{
    char command[2 * TM_PATH_MAX + 256];
    const char *program = getenv("LLAMA_BENCH");
    if (!program)
        return 0;
    snprintf(command, sizeof command, "'%s' -m '%s' -t %d -r 1 -o json %s 2>/dev/null", program,
             b->path, tm_pool_threads(tm_fast_pool(b->fast)), what);
    return ask(command, "\"avg_ts\":", "");
}

/* tokens per second of llama-perplexity: what it reports for its first window of n tokens; more:
 * its options. */
static double their_pass(const bench *b, int n, const char *more)
{
    char command[2 * TM_PATH_MAX + 256], text[] = "/tmp/kvsink-bench-XXXXXX";
    const char *program = getenv("LLAMA_PERPLEXITY");
    int fd = program ? mkstemp(text) : -1;
    if (fd < 0)
        return 0;
    FILE *f = fdopen(fd, "w");
    for (int i = 0; f && i < WORDS; i++)
        fprintf(f, "%s ", i % 3 ? i % 7 ? "the river" : "runs to" : "a quiet sea");
    if (f)
        fclose(f);
    snprintf(command, sizeof command, "'%s' -m '%s' -f %s -c %d -b %d -t %d --chunks 1 %s 2>&1",
             program, b->path, text, n, n, tm_pool_threads(tm_fast_pool(b->fast)), more);
    double each = ask(command, "perplexity: ", "seconds per pass");
    remove(text);
    return each > 0 ? n / each : 0;
}

/* -------------------------------------------------------------------- runs */

static int window_rows(bench *b, figures *f)
{
    double time, share;
    int bad = pass(b, "f16", "f16", 512, &time, &share);
    note(f, PASS_512, 512 / time);
    note_theirs(f, PASS_512, their_pass(b, 512, ""));
    if (!bad)
        bad = pass(b, "f16", "f16", 2048, &time, &share);
    note(f, PASS_2048, 2048 / time);
    note_theirs(f, PASS_2048, their_pass(b, 2048, ""));
    if (!bad)
        bad = pass(b, "4:channel:128", "4:token:all", 2048, &time, &share);
    note(f, PASS_2048_4BIT, 2048 / time);
    note_theirs(f, PASS_2048_4BIT, their_pass(b, 2048, "-fa on -ctk q4_0 -ctv q4_0"));
    if (!bad)
        bad = pass(b, "2:channel:128", "2:token:all", 512, &time, &share);
    note(f, QUANTIZE_512, share);
    return bad;
}

static int prefill_rows(bench *b, figures *f)
{
    double time, share;
    int bad = prefill(b, 512, &time, &share);
    note(f, PREFILL_512, 512 / time);
    note(f, PREDICT_512, share);
    note_theirs(f, PREFILL_512, their_bench(b, "-p 512 -n 0"));
    if (!bad)
        bad = prefill(b, 2048, &time, &share);
    note(f, PREFILL_2048, 2048 / time);
    note(f, PREDICT_2048, share);
    note_theirs(f, PREFILL_2048, their_bench(b, "-p 2048 -n 0 -ub 2048"));
    return bad;
}

static int decode_rows(bench *b, figures *f)
{
    static const struct {
        row r;
        const char *keys, *values;
        int recent, depth;
        const char *theirs;
        row against; /* their f16 cache */
    } list[] = {
        {DECODE_0, "f16", "f16", 0, 0, "-p 0 -n 32", 0},
        {DECODE_2048, "f16", "f16", 0, 2048, "-p 0 -n 32 -d 2048", 0},
        {DECODE_4BIT, "4:channel:128", "4:token:all", 128, 2048,
         "-p 0 -n 32 -d 2048 -fa on -ctk q4_0 -ctv q4_0", AGAINST_4BIT},
        {DECODE_2BIT, "2:channel:128", "2:token:all", 128, 2048, NULL, AGAINST_2BIT},
        {DECODE_8BIT, "8:channel:128", "8:token:all", 128, 2048,
         "-p 0 -n 32 -d 2048 -fa on -ctk q8_0 -ctv q8_0", 0},
    };
    double f16 = 0;
    int bad = KV_OK;
    for (size_t i = 0; i < sizeof list / sizeof *list && !bad; i++) {
        double time = 0, theirs = 0;
        parts p;
        bad = decode(b, list[i].keys, list[i].values, list[i].recent, list[i].depth, &time, &p);
        note(f, list[i].r, NEW / time);
        if (list[i].theirs)
            theirs = their_bench(b, list[i].theirs);
        note_theirs(f, list[i].r, theirs);
        f16 = list[i].r == DECODE_2048 ? theirs : f16;
        if (list[i].against && f16 > 0)
            note(f, list[i].against, NEW / time / f16);
        if (list[i].r == DECODE_2BIT) {
            note(f, PRODUCTS, 100 * p.products / time);
            note(f, CACHE, 100 * p.cache / time);
        }
    }
    return bad;
}

static int one_run(bench *b, figures *f)
{
    int bad = b->only_decode ? KV_OK : window_rows(b, f);
    if (!bad && !b->only_decode)
        bad = prefill_rows(b, f);
    return bad ? bad : decode_rows(b, f);
}

/* ------------------------------------------------------------------- output */

static void print_table(figures *f, const bench *b)
{
    printf("%s\n%d threads, %s, medians of %d runs%s\n\n", b->path,
           tm_pool_threads(tm_fast_pool(b->fast)), tm_fast_simd(b->fast), b->runs,
           getenv("LLAMA_BENCH") || getenv("LLAMA_PERPLEXITY") ? ", llama.cpp measured in between"
                                                               : "");
    for (int r = 0; r < ROWS; r++) {
        if (!f->n_ours[r])
            continue;
        double ours = median(f->ours[r], f->n_ours[r]);
        double theirs = median(f->theirs[r], f->n_theirs[r]);
        printf("%-40s %10.*f %-6s", rows[r].text, ours < 1 ? 4 : ours < 10 ? 2 : 1, ours,
               rows[r].unit);
        if (theirs > 0)
            printf("  llama.cpp %8.1f   ratio %.2f", theirs, ours / theirs);
        printf("\n");
    }
}

static int write_json(figures *f, bench *b)
{
    tm_out out;
    int bad = tm_out_open(&out, b->json, &b->err);
    if (bad)
        return bad;
    fprintf(out.f, "{\"threads\": %d, \"simd\": \"%s\", \"runs\": %d",
            tm_pool_threads(tm_fast_pool(b->fast)), tm_fast_simd(b->fast), b->runs);
    for (int r = 0; r < ROWS; r++) {
        if (!f->n_ours[r])
            continue;
        fprintf(out.f, ",\n \"%s\": {\"unit\": \"%s\", \"median\": %.6g", rows[r].key, rows[r].unit,
                median(f->ours[r], f->n_ours[r]));
        if (f->n_theirs[r])
            fprintf(out.f, ", \"llama.cpp\": %.6g", median(f->theirs[r], f->n_theirs[r]));
        fprintf(out.f, "}");
    }
    fprintf(out.f, "}\n");
    return tm_out_close(&out, &b->err);
}

/* As often as there are runs; the last one stays. */
static int load(bench *b, figures *f)
{
    int bad = KV_OK;
    for (int i = 0; i < b->runs && !bad; i++) {
        tm_model_free(b->model);
        double start = seconds();
        bad = tm_model_load(&b->model, b->path, &b->err);
        note(f, LOAD, seconds() - start);
    }
    return bad;
}

static int measure(bench *b)
{
    static figures f;
    int bad = load(b, &f);
    if (!bad)
        bad = tm_fast_open(&b->fast, b->threads, &b->err);
    if (!bad)
        bad = tm_model_known(b->model, b->fast, &b->err);
    if (bad)
        return bad;
    b->kv = b->model->kv;
    bad = make_arrays(b, 2048);
    for (int i = 0; i < b->runs && !bad; i++)
        bad = one_run(b, &f);
    if (bad)
        return bad;
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    note(&f, PEAK, (double)usage.ru_maxrss / 1024);
    print_table(&f, b);
    return b->json ? write_json(&f, b) : KV_OK;
}

static int usage(void)
{
    fprintf(stderr, "usage: bench MODEL.gguf [--decode] [--runs N] [--threads N] [--json FILE]\n"
                    "LLAMA_BENCH=path and LLAMA_PERPLEXITY=path measure llama.cpp side by side.\n");
    return KV_FAIL_USAGE;
}

static int number(int *n, const char *text, int low, int high)
{
    char *end;
    long value = text ? strtol(text, &end, 10) : -1;
    if (!text || end == text || *end || value < low || value > high)
        return 0;
    *n = (int)value;
    return 1;
}

int main(int argc, char **argv)
{
    bench b = {.runs = 3};
    for (int i = 1; i < argc; i++) {
        const char *next = i + 1 < argc ? argv[i + 1] : NULL;
        int ok = 1;
        if (!strcmp(argv[i], "--runs"))
            ok = number(&b.runs, next, 1, MOST_RUNS), i++;
        else if (!strcmp(argv[i], "--threads"))
            ok = number(&b.threads, next, 1, 1024), i++;
        else if (!strcmp(argv[i], "--json"))
            ok = (b.json = next) != NULL, i++;
        else if (!strcmp(argv[i], "--decode"))
            b.only_decode = 1;
        else if (argv[i][0] != '-' && !b.path)
            b.path = argv[i];
        else
            ok = 0;
        if (!ok)
            return usage();
    }
    if (!b.path)
        return usage();
    int bad = measure(&b);
    if (bad)
        fprintf(stderr, "bench: %s\n", b.err.text);
    tm_pages_free(b.work, b.work_bytes);
    free(b.hidden);
    free(b.logits);
    free(b.tokens);
    tm_fast_close(b.fast);
    tm_model_free(b.model);
    return bad;
}
