/* The functions of cuda/kv_cuda.h, found by name in the loaded library, and the arrays they work on. */
#define _GNU_SOURCE
#include "device.h"

#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../cuda/kv_cuda.h"

#define FUNCTIONS(X) \
    X(kv_cuda_alloc) X(kv_cuda_free) X(kv_cuda_upload) X(kv_cuda_download) X(kv_cuda_device) \
    X(kv_cuda_fault_new) X(kv_cuda_fault) X(kv_cuda_softmax) X(kv_tile_init) X(kv_pool_place) \
    X(kv_pool_to_cache) X(kv_turn_speeds) X(kv_cuda_plan_bytes) X(kv_cuda_append) \
    X(kv_cuda_keep) X(kv_cuda_decode) X(kv_cuda_decode_work)

/* An array of the device that grows. */
typedef struct {
    void *at;
    size_t bytes;
} room;

enum { SCORES, SINK, ROWS_K, ROWS_V, QUERY, OUT, WORK, SPEEDS, ROOMS };

struct tm_device {
    void *library;
#define DECLARE(name) __typeof__(&name) name;
    FUNCTIONS(DECLARE)
#undef DECLARE
    long (*findings)(void); /* the simulator's, or NULL */
    void (*report)(int with_tables);
    char name[256];
    kv_backend backend;
    const kv_backend *rest;
    kv_fault *fault;
    room room[ROOMS];
    float *scores; /* of the host, grows */
    size_t scores_size;
    kv_cache_spec spec;
    int layers;
    kv_cuda_cache *cache; /* [layers] */
    kv_length *length;    /* [layers] */
    void **memory;        /* [layers] of the pools */
    void *plan, *copy;    /* of the device; a pool's bytes on the host */
    size_t pool_bytes;
};

/* ------------------------------------------------------------------ library */

/* The library lies beside the program, or in build/ for programs in folders below it. */
static int load(tm_device *d, int simulated, kv_error *err)
{
    const char *file = simulated ? "libkvcuda-sim.so" : "libkvcuda.so";
    const char *how = simulated ? "make cusim-lib" : "make gpu-lib";
    char self[4096], path[4200];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    self[n > 0 ? n : 0] = 0;
    for (int up = 0; up < 2 && !d->library; up++) {
        char *slash = strrchr(self, '/');
        if (slash) *slash = 0;
        snprintf(path, sizeof path, "%s/%s", slash ? self : ".", file);
        if (access(path, R_OK) == 0) d->library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        else continue;
        if (!d->library)
            return kv_fail(err, KV_FAIL_RUN, "cannot load the kernels: %.300s; '%s' makes them anew",
                           dlerror(), how);
    }
    if (!d->library)
        return kv_fail(err, KV_FAIL_RUN, "the kernels are not built: there is no %s beside the "
                       "program; run '%s'", file, how);
    int missing = 0;
#define FIND(name) \
    *(void **)&d->name = dlsym(d->library, #name); \
    missing += !d->name;
    FUNCTIONS(FIND)
#undef FIND
    *(void **)&d->findings = dlsym(d->library, "sim_findings");
    *(void **)&d->report = dlsym(d->library, "sim_report");
    return missing ? kv_fail(err, KV_FAIL_RUN, "%.300s is of another version: run '%s'", path, how)
                   : KV_OK;
}

/* At least so many bytes. */
static void *take(tm_device *d, int which, size_t bytes, kv_error *err)
{
    room *r = &d->room[which];
    if (bytes <= r->bytes && r->at) return r->at;
    d->kv_cuda_free(r->at);
    r->at = d->kv_cuda_alloc(bytes, err);
    r->bytes = r->at ? bytes : 0;
    return r->at;
}

static void *put(tm_device *d, int which, const void *x, size_t bytes, kv_error *err)
{
    void *at = take(d, which, bytes, err);
    return at && !d->kv_cuda_upload(at, x, bytes, err) ? at : NULL;
}

/* ------------------------------------------------------------------ backend */

static void matmul(void *self, float *y, const float *x, const kv_matrix *w, int n)
{
    const kv_backend *b = ((tm_device *)self)->rest;
    b->matmul(b->self, y, x, w, n);
}

static void swiglu(void *self, float *y, const float *gate, const float *up, size_t n)
{
    const kv_backend *b = ((tm_device *)self)->rest;
    b->swiglu(b->self, y, gate, up, n);
}

static void rmsnorm(void *self, float *y, const float *x, const float *gain, double eps, int C, int n)
{
    const kv_backend *b = ((tm_device *)self)->rest;
    b->rmsnorm(b->self, y, x, gain, eps, C, n);
}

/* Scores of all queries with the keys they see, [H][n][past+n]. */
static void score(float *scores, const float *q, const float *k, kv_shape s, int past, int n)
{
    int D = s.head_size, step = s.kv_heads * D, T = past + n;
    double scale = 1 / sqrt((double)D);
    for (int h = 0; h < s.heads; h++)
        for (int i = 0; i < n; i++) {
            const float *qi = q + ((size_t)i * (size_t)s.heads + (size_t)h) * (size_t)D;
            const float *kv = k + h / (s.heads / s.kv_heads) * D;
            float *row = scores + ((size_t)h * (size_t)n + (size_t)i) * (size_t)T;
            memset(row, 0, (size_t)T * sizeof *row);
            for (int t = 0; t <= past + i; t++)
                row[t] = (float)(scale * kv_dot(qi, kv + (size_t)t * (size_t)step, D));
        }
}

static int attention(void *self, float *out, float *rows, const float *q, const float *k,
                     const float *v, const float *sink, kv_shape s, int past, int n, kv_error *err)
{
    tm_device *d = self;
    size_t T = (size_t)past + (size_t)n, size = (size_t)s.heads * (size_t)n * T;
    if (kv_check_finite(v, T * (size_t)s.kv_heads * (size_t)s.head_size, "values", err))
        return KV_FAIL_RUN;
    if (!rows && size > d->scores_size) {
        free(d->scores);
        d->scores = malloc(size * sizeof *d->scores);
        d->scores_size = d->scores ? size : 0;
        if (!d->scores) return kv_fail(err, KV_FAIL_RUN, "not enough memory for attention rows");
    }
    float *scores = rows ? rows : d->scores, *on_device, *logits = NULL;
    score(scores, q, k, s, past, n);
    if (!(on_device = put(d, SCORES, scores, size * sizeof *scores, err)) ||
        (sink && !(logits = put(d, SINK, sink, (size_t)s.heads * sizeof *sink, err))))
        return KV_FAIL_RUN;
    int bad = d->kv_cuda_softmax(on_device, NULL, on_device, logits,
                                 sink ? KV_SOFTMAX_LEARNED : KV_SOFTMAX_PLAIN, s.heads, n, past,
                                 d->fault, 0, err);
    if (!bad) bad = d->kv_cuda_fault(d->fault, NULL, "softmax scores", err);
    if (!bad) bad = d->kv_cuda_download(scores, on_device, size * sizeof *scores, err);
    if (!bad) kv_attention_mix(out, scores, v, s, n, (int)T);
    return bad;
}

int tm_device_open(tm_device **out, int simulated, const kv_backend *rest, kv_error *err)
{
    *out = NULL;
    tm_device *d = calloc(1, sizeof *d);
    if (!d) return kv_fail(err, KV_FAIL_RUN, "not enough memory");
    int bad = load(d, simulated, err);
    if (!bad && !(d->fault = d->kv_cuda_fault_new(err))) bad = KV_FAIL_RUN;
    if (bad) {
        tm_device_close(d);
        return bad;
    }
    d->kv_cuda_device(d->name, sizeof d->name);
    d->rest = rest;
    d->backend = (kv_backend){d, matmul, attention, rest->swiglu ? swiglu : NULL,
                              rest->rmsnorm ? rmsnorm : NULL};
    *out = d;
    return KV_OK;
}

const char *tm_device_name(const tm_device *d)
{
    return d->name;
}

const kv_backend *tm_device_backend(const tm_device *d)
{
    return &d->backend;
}

long tm_device_findings(const tm_device *d)
{
    long n = d->findings ? d->findings() : 0;
    if (n) d->report(0);
    return n;
}

/* ------------------------------------------------------------------- caches */

static void end(tm_device *d)
{
    for (int l = 0; l < d->layers && d->memory; l++)
        if (d->memory[l]) d->kv_cuda_free(d->memory[l]);
    if (d->plan) d->kv_cuda_free(d->plan);
    free(d->memory);
    free(d->cache);
    free(d->length);
    free(d->copy);
    d->memory = NULL, d->cache = NULL, d->length = NULL, d->plan = d->copy = NULL;
    d->layers = 0;
}

void tm_device_close(tm_device *d)
{
    if (!d) return;
    end(d);
    for (int i = 0; i < ROOMS; i++)
        if (d->room[i].at) d->kv_cuda_free(d->room[i].at);
    if (d->fault) d->kv_cuda_free(d->fault);
    if (d->library) dlclose(d->library);
    free(d->scores);
    free(d);
}

static int plain(const kv_format *f)
{
    return f->kind == KV_INT && !f->hadamard && !f->norm && !f->is_static && !f->sparse && !f->kivi &&
           f->exclusion == KV_KEPT_BOTH;
}

/* The pool of one layer: memory, filled with zeros. */
static int open_layer(tm_device *d, int l, const kv_pool *sizes, kv_error *err)
{
    kv_pool p = *sizes;
    d->memory[l] = d->kv_cuda_alloc(d->pool_bytes, err);
    if (!d->memory[l] || d->kv_cuda_upload(d->memory[l], d->copy, d->pool_bytes, err))
        return KV_FAIL_RUN;
    d->kv_pool_place(&p, 0, d->memory[l]);
    d->cache[l] = (kv_cuda_cache){p, d->spec.recent, &d->length[l], d->plan};
    return KV_OK;
}

int tm_device_begin(tm_device *d, const kv_cache_spec *spec, kv_error *err)
{
    kv_pool p = {.sequences = 1, .kv_heads = spec->shape.kv_heads,
                 .max_tiles = (spec->capacity + KV_TILE - 1) / KV_TILE,
                 .kept_capacity = spec->kept_capacity};
    end(d);
    if (!plain(&spec->keys) || !plain(&spec->values))
        return kv_fail(err, KV_FAIL_USAGE, "the device holds plain integers, for example --keys "
                       "2:channel:64 --values 2:token:64; other formats run with --backend ref or fast");
    int bad = d->kv_tile_init(&p.tile, &spec->keys, &spec->values, spec->shape.head_size, err);
    if (bad) return bad;
    p.window = (spec->recent + spec->keys.group + 15) / 16 * 16;
    d->spec = *spec;
    d->pool_bytes = d->kv_pool_place(&p, 0, NULL);
    d->copy = calloc(1, d->pool_bytes);
    d->memory = calloc((size_t)spec->layers, sizeof *d->memory);
    d->cache = calloc((size_t)spec->layers, sizeof *d->cache);
    d->length = calloc((size_t)spec->layers, sizeof *d->length);
    if (!d->copy || !d->memory || !d->cache || !d->length)
        return kv_fail(err, KV_FAIL_RUN, "not enough memory for a cache");
    d->layers = spec->layers;
    if (!(d->plan = d->kv_cuda_alloc(d->kv_cuda_plan_bytes(&p), err))) return KV_FAIL_RUN;
    for (int l = 0; l < spec->layers && !bad; l++) bad = open_layer(d, l, &p, err);
    if (!bad && spec->keys.pre) {
        size_t n = (size_t)spec->rope.dims / 2;
        double *speed = calloc(n + 1, sizeof *speed);
        if (speed) d->kv_turn_speeds(speed, &spec->rope);
        if (!speed || !put(d, SPEEDS, speed, n * sizeof *speed, err)) bad = KV_FAIL_RUN;
        free(speed);
    }
    return bad;
}

int tm_device_append(tm_device *d, int layer, const float *k, const float *v, const int *kept,
                     int n_kept, int n, kv_error *err)
{
    size_t bytes = (size_t)n * (size_t)(d->spec.shape.kv_heads * d->spec.shape.head_size) * sizeof *k;
    void *dk = put(d, ROWS_K, k, bytes, err), *dv = dk ? put(d, ROWS_V, v, bytes, err) : NULL;
    if (!dv) return KV_FAIL_RUN;
    int bad = d->kv_cuda_append(&d->cache[layer], dk, dv, 0, &n, n_kept ? kept : NULL,
                                n_kept ? &n_kept : NULL, d->fault, 0, err);
    return bad ? bad : d->kv_cuda_fault(d->fault, NULL, "keys (first) and values", err);
}

int tm_device_keep(tm_device *d, int layer, int position, int *done, kv_error *err)
{
    return d->kv_cuda_keep(&d->cache[layer], 0, position, done, err);
}

int tm_device_decode(tm_device *d, float *out, const float *q, int layer, int heads, const float *sink,
                     int shift, kv_error *err)
{
    const kv_pool *p = &d->cache[layer].pool;
    size_t bytes = (size_t)heads * (size_t)d->spec.shape.head_size * sizeof *q;
    int splits = d->length[layer].tokens / 512 + 1;
    kv_turn turn = {d->room[SPEEDS].at, d->spec.rope.dims, d->spec.rope.interleaved, shift};
    float *dq = put(d, QUERY, q, bytes, err), *dout = dq ? take(d, OUT, bytes, err) : NULL;
    void *work = dout ? take(d, WORK, d->kv_cuda_decode_work(p, heads, splits), err) : NULL;
    float *logits = NULL;
    if (!work || (sink && !(logits = put(d, SINK, sink, (size_t)heads * sizeof *sink, err))))
        return KV_FAIL_RUN;
    int bad = d->kv_cuda_decode(dout, dq, p, heads, logits, d->spec.keys.pre ? &turn : NULL, splits,
                                work, d->fault, 0, err);
    if (!bad) bad = d->kv_cuda_fault(d->fault, NULL, "scores", err);
    return bad ? bad : d->kv_cuda_download(out, dout, bytes, err);
}

int tm_device_fetch(tm_device *d, kv_cache *c, int layer, kv_error *err)
{
    kv_pool p = d->cache[layer].pool;
    int bad = d->kv_cuda_download(d->copy, d->memory[layer], d->pool_bytes, err);
    d->kv_pool_place(&p, 0, d->copy);
    return bad ? bad : d->kv_pool_to_cache(c, layer, &p, 0, err);
}
