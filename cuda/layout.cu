//@ top: Move a cache between ref/ and the device's layout
/* Host code only. A pool is one piece of memory, so that it is built here and
 * copied to the device as it is. Both directions go through kv_tile_code: one
 * code at a time, obviously a one-to-one map, and no matter of speed. */
#include "launch.h"
#include "layout.cuh"

//@ refuse-format: Say which formats have a layout
static int refuse_format(const char *what, const kv_format *f, kv_axis axis,
                         int most, kv_error *err) {
    if (kv_check_pointer(what, "the format", f, alignof(kv_format), err))
        return KV_FAIL_USAGE;
    bool bits = f->bits == 2 || f->bits == 3 || f->bits == 4 || f->bits == 8;
    bool group = f->group == 32 || f->group == 64 || f->group == 128;
    if (f->kind == KV_INT && f->axis == axis && bits && group &&
        f->group <= most)
        return KV_OK;
    return kv_refuse(err, KV_FAIL_USAGE, "%s: the device holds 2, 3, 4 or 8 "
                     "bits per %s in groups of 32, 64 or 128, at most %d; for "
                     "example 2:%s:64", what,
                     axis == KV_PER_TOKEN ? "token" : "channel", most,
                     axis == KV_PER_TOKEN ? "token" : "channel");
}

//@ tile-init: Cut up a tile
extern "C" int kv_tile_init(kv_tile *l, const kv_format *keys,
                            const kv_format *values, int head_size,
                            kv_error *err) {
    if (kv_check_pointer("tiles", "l", l, alignof(kv_tile), err))
        return KV_FAIL_USAGE;
    if (head_size != 64 && head_size != 128)
        return kv_refuse(err, KV_FAIL_USAGE, "tiles: the device knows head "
                         "sizes 64 and 128, not %d", head_size);
    if (refuse_format("keys", keys, KV_PER_CHANNEL, KV_TILE, err) ||
        refuse_format("values", values, KV_PER_TOKEN, head_size, err))
        return KV_FAIL_USAGE;
    l->head_size = head_size;
    l->key_bits = keys->bits, l->value_bits = values->bits;
    l->key_group = keys->group, l->value_group = values->group;
    l->key_symmetric = keys->symmetric, l->value_symmetric = values->symmetric;
    int codes = KV_TILE * head_size / 8, numbers = KV_TILE * head_size * 2;
    l->value_codes = codes * l->key_bits;
    l->value_params = l->value_codes + codes * l->value_bits;
    l->key_params = l->value_params + numbers / l->value_group *
                                          (l->value_symmetric ? 1 : 2);
    l->bytes = l->key_params + numbers / l->key_group *
                                   (l->key_symmetric ? 1 : 2);
    return KV_OK;
}

//@ place: Put the arrays of a pool into one piece of memory
struct Carver {
    char *base;
    size_t used;
};

template <class T> static void carve(Carver *m, T **p, size_t count) {
    *p = m->base && count ? reinterpret_cast<T *>(m->base + m->used)
                          : nullptr;
    m->used += (count * sizeof(T) + 127) / 128 * 128;
}

/* Tiles of all sequences, or of all pages. */
static size_t place_tiles(kv_pool *p, int paged) {
    size_t tile = size_t(p->tile.bytes), heads = size_t(p->kv_heads);
    if (!paged)
        p->page_count = p->max_tiles;
    size_t pages = size_t(p->page_count);
    p->page_stride = paged ? heads * tile : tile;
    p->head_stride = paged ? tile : pages * tile;
    p->sequence_stride = paged ? 0 : heads * pages * tile;
    return (paged ? 1 : size_t(p->sequences)) * pages * heads * tile;
}

//@ place-all: Put them there, or measure
extern "C" size_t kv_pool_place(kv_pool *p, int paged, void *memory) {
    Carver m = {static_cast<char *>(memory), 0};
    size_t S = size_t(p->sequences), slots = S * size_t(p->max_tiles);
    size_t row = size_t(p->kv_heads) * size_t(p->tile.head_size);
    size_t kept = S * size_t(p->kept_capacity), window = S * size_t(p->window);
    int *pages;
    carve(&m, &p->tiles, place_tiles(p, paged));
    carve(&m, &pages, paged ? slots : 0);
    carve(&m, &p->holes, kept ? 4 * slots : 0);
    carve(&m, &p->kept_keys, kept * row);
    carve(&m, &p->kept_values, kept * row);
    carve(&m, &p->position, kept);
    carve(&m, &p->window_keys, window * row);
    carve(&m, &p->window_values, window * row);
    carve(&m, &p->tokens, S);
    carve(&m, &p->quantized_keys, S);
    carve(&m, &p->quantized_values, S);
    carve(&m, &p->kept, S);
    p->pages = pages;
    return m.used;
}

//@ canonical: Find a code in the packing of ref/
/* group: number of the group; at: first word of it; j: index in it. */
struct Canonical {
    size_t group, word;
    int j;
};

static Canonical key_canonical(const kv_store *st, int t, int element) {
    size_t row = size_t(st->shape.kv_heads) * size_t(st->shape.head_size);
    int G = st->format.group, run = t / G, left = st->quantized - run * G;
    int bits = st->format.bits, n = left < G ? left : G;
    size_t full = size_t(G * bits + 31) / 32;
    size_t words = size_t(n * bits + 31) / 32;
    return {size_t(run) * row + size_t(element),
            size_t(run) * row * full + size_t(element) * words, t % G};
}

static Canonical value_canonical(const kv_store *st, int t, int element) {
    size_t row = size_t(st->shape.kv_heads) * size_t(st->shape.head_size);
    int G = st->format.group;
    size_t words = size_t(G * st->format.bits + 31) / 32;
    size_t group = size_t(t) * (row / size_t(G)) + size_t(element / G);
    return {group, group * words, element % G};
}

//@ canonical-code: Read and write a code there
static int canonical_code(const uint32_t *words, int j, int bits) {
    int code = 0;
    for (int k = 0; k < bits; k++) {
        int at = j * bits + k;
        code |= int(words[at / 32] >> at % 32 & 1) << k;
    }
    return code;
}

static void set_canonical_code(uint32_t *words, int j, int bits, int code) {
    for (int k = 0; k < bits; k++) {
        int at = j * bits + k;
        words[at / 32] &= ~(1u << at % 32);
        words[at / 32] |= uint32_t(code >> k & 1) << at % 32;
    }
}

//@ element: Move one element's code, scale and minimum
/* Where the same element lies on either side. */
struct Element {
    uint32_t *codes, *words;
    kv_spot spot;
    Canonical there;
    uint16_t *scale, *min;
    int bits, symmetric;
};

static Element element_at(const kv_pool *p, int s, const kv_store *st,
                          int values, int t, int head, int c) {
    const kv_tile *l = &p->tile;
    uint8_t *tile = kv_tile_of(p, s, head, t / KV_TILE);
    int D = l->head_size, at = t % KV_TILE;
    int codes = values ? l->value_codes : 0;
    int params = values ? l->value_params : l->key_params;
    uint16_t *scale = reinterpret_cast<uint16_t *>(tile + params) +
                      (values ? kv_value_param_at(l, at, c)
                              : kv_key_param_at(l, at, c));
    return {reinterpret_cast<uint32_t *>(tile + codes), st->words,
            values ? kv_value_spot(D, at, c) : kv_key_spot(D, at, c),
            values ? value_canonical(st, t, head * D + c)
                   : key_canonical(st, t, head * D + c),
            scale, scale + (values ? kv_value_min(l) : kv_key_min(l)),
            st->format.bits, st->format.symmetric};
}

//@ move: Move it one way or the other
static void move(const Element &e, kv_store *st, int to_cache) {
    if (to_cache) {
        int code = kv_tile_code(e.codes, e.spot, e.bits);
        set_canonical_code(e.words + e.there.word, e.there.j, e.bits, code);
        st->scale[e.there.group] = *e.scale;
        if (!e.symmetric)
            st->min[e.there.group] = *e.min;
    } else {
        int code = canonical_code(e.words + e.there.word, e.there.j, e.bits);
        kv_tile_set_code(e.codes, e.spot, e.bits, code);
        *e.scale = st->scale[e.there.group];
        if (!e.symmetric)
            *e.min = st->min[e.there.group];
    }
}

static void move_codes(const kv_pool *p, int s, kv_store *st, int values,
                       int to_cache) {
    for (int t = 0; t < st->quantized; t++)
        for (int h = 0; h < st->shape.kv_heads; h++)
            for (int c = 0; c < st->shape.head_size; c++)
                move(element_at(p, s, st, values, t, h, c), st, to_cache);
}

//@ rows: Move the rows that are held in 16 bits
static void move_row(uint16_t *a, uint16_t *b, size_t n, int to_cache) {
    memcpy(to_cache ? b : a, to_cache ? a : b, n * sizeof *a);
}

/* Waiting rows of ref/ follow each other without the kept ones. */
static void move_rows(const kv_pool *p, int s, kv_store *st, int values,
                      const kv_cache_layer *cl, int to_cache) {
    size_t row = size_t(st->shape.kv_heads) * size_t(st->shape.head_size);
    uint16_t *kept = values ? p->kept_values : p->kept_keys;
    uint16_t *window = values ? p->window_values : p->window_keys;
    for (int i = 0; i < cl->n_kept; i++)
        move_row(kept + (size_t(s) * p->kept_capacity + i) * row,
                 st->kept + size_t(i) * row, row, to_cache);
    int next = 0, at = 0;
    for (int t = st->quantized; t < st->tokens; t++) {
        while (next < cl->n_kept && cl->position[next] < t)
            next++;
        if (next < cl->n_kept && cl->position[next] == t)
            continue;
        size_t slot = size_t(s) * p->window + t % p->window;
        move_row(window + slot * row, st->waiting + size_t(at++) * row, row,
                 to_cache);
    }
    st->n_waiting = at;
}

//@ fits: See whether pool and cache are of one kind
static int check_kind(const kv_pool *p, int s, const kv_cache *c,
                      kv_error *err) {
    kv_tile l;
    kv_shape shape = c->spec.shape;
    if (kv_tile_init(&l, &c->spec.keys, &c->spec.values, shape.head_size, err))
        return KV_FAIL_USAGE;
    if (memcmp(&l, &p->tile, sizeof l) || p->kv_heads != shape.kv_heads)
        return kv_refuse(err, KV_FAIL_USAGE, "pool: its formats or shape are "
                         "not those of the cache");
    if (s < 0 || s >= p->sequences)
        return kv_refuse(err, KV_FAIL_USAGE, "pool: sequence %d of %d", s,
                         p->sequences);
    return KV_OK;
}

static int check_room(const kv_pool *p, const kv_cache_layer *cl,
                      kv_error *err) {
    int T = cl->k.tokens, wait = T - cl->k.quantized;
    if (T <= p->max_tiles * KV_TILE && cl->n_kept <= p->kept_capacity &&
        wait <= p->window)
        return KV_OK;
    return kv_refuse(err, KV_FAIL_RUN, "pool: room for %d tokens, %d kept and "
                     "%d waiting; the cache has %d, %d and %d",
                     p->max_tiles * KV_TILE, p->kept_capacity, p->window, T,
                     cl->n_kept, wait);
}

//@ from-cache: Copy a layer of a cache into a pool
extern "C" int kv_pool_from_cache(kv_pool *p, int s, const kv_cache *c,
                                  int layer, kv_error *err) {
    kv_cache_layer *cl = &c->layer[layer];
    int bad = check_kind(p, s, c, err);
    if (!bad)
        bad = check_room(p, cl, err);
    if (bad)
        return bad;
    p->tokens[s] = cl->k.tokens;
    p->quantized_keys[s] = cl->k.quantized;
    p->quantized_values[s] = cl->v.quantized;
    p->kept[s] = cl->n_kept;
    for (int i = 0; i < cl->n_kept; i++) {
        int t = cl->position[i];
        p->position[size_t(s) * p->kept_capacity + i] = t;
        p->holes[size_t(s * p->max_tiles + t / KV_TILE) * 4 +
                 t % KV_TILE / 32] |= 1u << t % 32;
    }
    for (int values = 0; values < 2; values++) {
        kv_store *st = values ? &cl->v : &cl->k;
        move_codes(p, s, st, values, 0);
        move_rows(p, s, st, values, cl, 0);
    }
    return KV_OK;
}

//@ to-cache: Copy it back
extern "C" int kv_pool_to_cache(kv_cache *c, int layer, const kv_pool *p,
                                int s, kv_error *err) {
    kv_cache_layer *cl = &c->layer[layer];
    int bad = check_kind(p, s, c, err);
    if (bad)
        return bad;
    if (p->tokens[s] > c->spec.capacity || p->kept[s] > c->spec.kept_capacity)
        return kv_refuse(err, KV_FAIL_RUN, "cache: room for %d tokens and %d "
                         "kept; the pool has %d and %d", c->spec.capacity,
                         c->spec.kept_capacity, p->tokens[s], p->kept[s]);
    cl->n_kept = p->kept[s];
    for (int i = 0; i < cl->n_kept; i++)
        cl->position[i] = p->position[size_t(s) * p->kept_capacity + i];
    for (int values = 0; values < 2; values++) {
        kv_store *st = values ? &cl->v : &cl->k;
        st->tokens = p->tokens[s];
        st->quantized = values ? p->quantized_values[s]
                               : p->quantized_keys[s];
        move_codes(p, s, st, values, 1);
        move_rows(p, s, st, values, cl, 1);
    }
    return KV_OK;
}
