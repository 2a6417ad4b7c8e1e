//@ top: Set up a cache in the caller's memory
/* Nothing here allocates: a cache says how many bytes it needs, and lays its
 * arrays out in what it is given. Measuring and laying out are the same walk,
 * once without memory and once with it, so that they cannot disagree. Before
 * either, formats that this cache cannot hold are refused. */
#include "cache_inside.h"

//@ carve: Lay out all arrays in the caller's memory
typedef struct {
    char *base; /* NULL: only measure */
    size_t used;
} carver;

static void *carve(carver *c, size_t bytes)
{
    size_t at = c->used;
    c->used += (bytes + 15) / 16 * 16;
    return c->base ? c->base + at : NULL;
}

static kv_store plain_store(const kv_cache_spec *spec, int layer, int values)
{
    size_t row = (size_t)spec->shape.kv_heads * (size_t)spec->shape.head_size;
    kv_limits limits = values ? spec->value_limits : spec->key_limits;
    kv_store st = {.format = values ? spec->values : spec->keys,
                   .shape = spec->shape, .is_values = values,
                   .recent = spec->recent, .capacity = spec->capacity};
    if (st.format.is_static && limits.lo && limits.hi) {
        st.lo = limits.lo + (size_t)layer * row;
        st.hi = limits.hi + (size_t)layer * row;
    }
    return st;
}

//@ carve-store: Lay out one store
/* Rows that can wait at once: the recent ones and a run that is filling up. */
static int waiting_capacity(const kv_store *st)
{
    int run = batch_tokens(st);
    if (!kv_format_coded(&st->format) || st->recent >= st->capacity - run)
        return st->capacity;
    return st->recent + run;
}

static void carve_store(kv_store *st, carver *m, const kv_cache_spec *spec)
{
    const kv_format *f = &st->format;
    size_t groups = stored_scales(st, st->capacity);
    int run = run_tokens(st), runs = 0;
    if (kv_format_coded(f))
        runs = st->capacity / run + (st->capacity % run > 0);
    st->words = carve(m, words_before(st, runs) * sizeof *st->words);
    st->blocks = carve(m, block_bytes(st, st->capacity));
    st->scale = carve(m, groups * sizeof *st->scale);
    st->min = carve(m, kv_format_has_min(f) ? groups * sizeof *st->min : 0);
    st->norm = carve(m, f->norm ? (size_t)st->capacity * sizeof *st->norm : 0);
    st->sparse = carve(m, kv_sparse_count(f, st->shape, st->capacity, 0,
                                          st->is_values) * sizeof *st->sparse);
    st->kept = carve(m, (size_t)spec->kept_capacity * row_halves(st) *
                            sizeof *st->kept);
    st->waiting = carve(m, (size_t)waiting_capacity(st) * row_halves(st) *
                               sizeof *st->waiting);
}

//@ work: Lay out what quantizing a batch needs
static size_t carve_work(kv_cache_work *w, const kv_cache_spec *spec,
                         char *base)
{
    carver m = {base, 0};
    kv_store k = plain_store(spec, 0, 0), v = plain_store(spec, 0, 1);
    int more = batch_tokens(&k) > batch_tokens(&v) ? batch_tokens(&k)
                                                   : batch_tokens(&v);
    size_t n = (size_t)(more ? more : 1), size = n * (size_t)row_size(&k);
    w->rows = carve(&m, size * sizeof *w->rows);
    w->x_hat = carve(&m, size * sizeof *w->x_hat);
    w->codes = carve(&m, size);
    w->flags = carve(&m, n);
    w->scale = carve(&m, size * sizeof *w->scale);
    w->min = carve(&m, size * sizeof *w->min);
    return m.used;
}

size_t kv_cache_work_size(const kv_cache_spec *spec)
{
    kv_cache_work unused;
    return carve_work(&unused, spec, NULL);
}

void kv_cache_work_init(kv_cache_work *w, const kv_cache_spec *spec,
                        void *memory)
{
    carve_work(w, spec, memory);
}

//@ carve-cache: Lay out all layers
/* Without a base it only measures: every layer then goes into `spare`. */
static size_t carve_cache(kv_cache *c, const kv_cache_spec *spec, char *base)
{
    carver m = {base, 0};
    kv_cache_layer spare, *layer = carve(&m, (size_t)spec->layers *
                                                 sizeof *layer);
    for (int l = 0; l < spec->layers; l++) {
        kv_cache_layer *cl = base ? &layer[l] : &spare;
        cl->k = plain_store(spec, l, 0);
        cl->v = plain_store(spec, l, 1);
        carve_store(&cl->k, &m, spec);
        carve_store(&cl->v, &m, spec);
        cl->position = carve(&m, (size_t)spec->kept_capacity *
                                     sizeof *cl->position);
        cl->n_kept = 0;
    }
    char *work = carve(&m, kv_cache_work_size(spec));
    c->layer = layer;
    carve_work(&c->work, spec, work);
    return m.used;
}

//@ check-limits: Refuse constants that cannot be, layer by layer
static int check_limits(const kv_cache_spec *spec, int values, kv_error *err)
{
    int bad = KV_OK;
    for (int l = 0; l < spec->layers && !bad; l++) {
        const kv_store st = plain_store(spec, l, values);
        if (st.format.is_static)
            bad = kv_static_check(st.lo, st.hi, row_size(&st), err);
    }
    return bad;
}

//@ check-side: Refuse a format that this cache cannot hold
static int check_side(const kv_cache_spec *spec, int values, kv_error *err)
{
    const kv_store st = plain_store(spec, 0, values);
    const kv_format *f = &st.format;
    int bad = kv_format_check(f, spec->shape, values, err);
    if (bad || !kv_format_coded(f))
        return bad;
    if (needs_all(&st) && (values || !f->outliers) && !spec->window)
        return kv_fail(err, KV_FAIL_USAGE, "channel:all makes one group of "
                       "the whole text, which never ends while tokens "
                       "arrive; give a group size, for example channel:128");
    if (needs_all(&st) && !spec->window)
        return kv_fail(err, KV_FAIL_USAGE, "outliers of keys are chosen per "
                       "channel from the whole text, which never ends while "
                       "tokens arrive; outP on keys is for whole windows");
    if (f->kivi && f->axis == KV_PER_CHANNEL && f->group &&
        spec->recent % f->group)
        return kv_fail(err, KV_FAIL_USAGE, "kivi flushes its %d recent keys "
                       "together, so their number must be a multiple of the "
                       "group size %d", spec->recent, f->group);
    if (f->is_static && !st.lo)
        return kv_fail(err, KV_FAIL_USAGE, "a static format needs the ranges "
                       "of each channel; 'kvsink calibrate --static' writes "
                       "them into the profile");
    if (f->outliers && !values && spec->capacity > 65536)
        return kv_fail(err, KV_FAIL_USAGE, "outliers of keys have a 16-bit "
                       "index, and a window of %d tokens is longer than "
                       "65536", spec->capacity);
    return check_limits(spec, values, err);
}

//@ check-spec: Refuse a cache that makes no sense
static int check_spec(const kv_cache_spec *spec, kv_error *err)
{
    if (spec->capacity < 1 || spec->layers < 1 || spec->recent < 0 ||
        spec->kept_capacity < 0 || spec->shape.head_size > KV_HEAD_MAX ||
        spec->rope.dims > spec->shape.head_size)
        return kv_fail(err, KV_FAIL_USAGE, "a cache needs at least one layer "
                       "and room for one token, a head size of at most %d, "
                       "and no more rotated channels than that", KV_HEAD_MAX);
    int bad = check_side(spec, 0, err);
    return bad ? bad : check_side(spec, 1, err);
}

//@ init: Measure and set up a cache
size_t kv_cache_size(const kv_cache_spec *spec)
{
    kv_cache unused;
    return check_spec(spec, NULL) ? 0 : carve_cache(&unused, spec, NULL);
}

int kv_cache_init(kv_cache *c, const kv_cache_spec *spec, void *memory,
                  kv_error *err)
{
    int bad = check_spec(spec, err);
    if (bad)
        return bad;
    if (!memory)
        return kv_fail(err, KV_FAIL_RUN, "no memory for a cache of %zu bytes",
                       kv_cache_size(spec));
    c->spec = *spec;
    carve_cache(c, spec, memory);
    return KV_OK;
}
