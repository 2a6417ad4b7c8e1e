/* weigh.c: what the packed cache holds, asked of the cache itself.
 *
 *   weigh kinds    TSV: the bytes of a layer by kind, of several formats with 512 tokens
 *   weigh lengths  TSV: bits a number behind each of the first tokens, of a few formats
 *   weigh table    the same behind some lengths, of more formats
 *   weigh room     TSV: bytes that a cache holds when it is full, and those it asked for
 *   weigh stream   text: the state of every token of a small cache as it fills
 *
 * The shape is that of SmolLM2's cache, 3 KV heads of 64 channels, one layer. What the numbers are
 * does not matter for their weight, so they are a simple hash. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kv.h"

enum { HEADS = 3, D = 64, ROW = HEADS * D, MOST = 640 };

typedef struct {
    const char *name, *keys, *values;
    int recent, kept, seal;
} kind;

typedef struct {
    kv_cache c;
    void *memory;
} held;

static void need(int bad, const kv_error *e)
{
    if (!bad) return;
    fprintf(stderr, "weigh: %s\n", e->text);
    exit(1);
}

static held open_cache(const kind *k, kv_shape s, int capacity)
{
    held h = {0};
    kv_error e = {0};
    kv_cache_spec spec = {.layers = 1, .shape = s, .recent = k->recent, .capacity = capacity,
                          .kept_capacity = k->kept, .window = k->seal};
    need(kv_format_parse(&spec.keys, k->keys, &e), &e);
    need(kv_format_parse(&spec.values, k->values, &e), &e);
    h.memory = malloc(kv_cache_size(&spec) + 1);
    need(kv_cache_init(&h.c, &spec, h.memory, &e), &e);
    return h;
}

static void append(held *h, const int *kept, int n_kept, int n)
{
    kv_error e = {0};
    size_t row = (size_t)(h->c.spec.shape.kv_heads * h->c.spec.shape.head_size);
    float *x = malloc((size_t)n * row * sizeof *x);
    for (size_t i = 0; i < (size_t)n * row; i++)
        x[i] = (float)((uint32_t)i * 2654435761u >> 8) / 16777216.0f - 0.5f;
    need(kv_cache_append(&h->c, 0, x, x, kept, n_kept, n, &e), &e);
    free(x);
}

/* What a cache holds when T tokens are in it and the pass over them is over. */
static kv_bytes weigh(const kind *k, int T, size_t *reserved)
{
    kv_error e = {0};
    held h = open_cache(k, (kv_shape){3 * HEADS, HEADS, D}, T);
    int *kept = calloc((size_t)k->kept + 1, sizeof *kept);
    for (int i = 0; i < k->kept; i++) kept[i] = i;
    append(&h, kept, k->kept < T ? k->kept : T, T);
    if (k->seal) need(kv_cache_seal(&h.c, 0, &e), &e);
    else kv_cache_settle(&h.c, 0);
    *reserved = kv_cache_size(&h.c.spec) - kv_cache_work_size(&h.c.spec);
    kv_bytes b = kv_cache_bytes(&h.c, 0);
    free(kept);
    free(h.memory);
    return b;
}

static double bits(const kv_bytes *b, int T)
{
    return 8.0 * (double)b->total / (2.0 * ROW * T);
}

static void kinds(void)
{
    static const kind k[] = {
        {"f16", "f16", "f16", 0, 0, 1},
        {"8-bit", "8:channel:128", "8:token:64", 0, 0, 1},
        {"4-bit", "4:channel:128", "4:token:64", 0, 0, 1},
        {"q4_0", "q4_0", "q4_0", 0, 0, 1},
        {"3-bit", "3:channel:128", "3:token:64", 0, 0, 1},
        {"3-g16", "3:channel:16", "3:token:16", 0, 0, 1},
        {"2-bit", "2:channel:128", "2:token:64", 0, 0, 1},
        {"2-sym", "2:channel:128:sym", "2:token:64:sym", 0, 0, 1},
        {"2-g32", "2:channel:32", "2:token:32", 0, 0, 1},
        {"2-norm", "2:channel:128:norm", "2:token:64:norm", 0, 0, 1},
        {"2-out2", "2:channel:128:out2", "2:token:64:out2", 0, 0, 1},
        {"2-keep5", "2:channel:128", "2:token:64", 0, 5, 1},
        {"2-keep20", "2:channel:128", "2:token:64", 0, 20, 1},
        {"2-recent", "2:channel:128", "2:token:64", 128, 0, 0},
        {"kivi-2", "2:channel:32:kivi", "2:token:32:kivi", 128, 0, 0}};
    enum { T = 512 };
    printf("format\tcodes\tscales\tnorms\toutliers\tkept\trecent\ttotal\tbits\n");
    for (size_t i = 0; i < sizeof k / sizeof *k; i++) {
        size_t reserved;
        kv_bytes b = weigh(&k[i], T, &reserved);
        printf("%s\t%zu\t%zu\t%zu\t%zu\t%zu\t%zu\t%zu\t%.4g\n", k[i].name, b.codes, b.scales, b.norms,
               b.outliers, b.kept, b.recent, b.total, bits(&b, T));
    }
}

static void one_length(const kind *k, int n, int T)
{
    printf("%d", T);
    for (int i = 0; i < n; i++) {
        size_t reserved;
        kv_bytes b = weigh(&k[i], T, &reserved);
        printf("\t%.4g", bits(&b, T));
    }
    printf("\n");
}

static void lengths(void)
{
    static const kind k[] = {{"", "2:channel:128", "2:token:64", 0, 0, 1},
                             {"", "2:channel:128", "2:token:64", 0, 5, 1},
                             {"", "2:channel:128", "2:token:64", 0, 0, 0},
                             {"", "2:channel:32:kivi", "2:token:32:kivi", 128, 0, 0}};
    printf("T\twhole\tkeep5\tstream\tkivi-2\n");
    for (int T = 1; T <= MOST; T++) one_length(k, 4, T);
}

static void table(void)
{
    static const kind k[] = {{"", "2:channel:128", "2:token:64", 0, 0, 1},
                             {"", "2:channel:128", "2:token:64", 0, 5, 1},
                             {"", "2:channel:128", "2:token:64", 0, 20, 1},
                             {"", "2:channel:128", "2:token:64", 0, 0, 0},
                             {"", "2:channel:128", "2:token:64", 128, 0, 0},
                             {"", "2:channel:32:kivi", "2:token:32:kivi", 128, 0, 0}};
    static const int T[] = {1, 16, 127, 128, 130, 512, 1000, 1024, 2048, 4096, 16384};
    printf("T\twhole\tkeep5\tkeep20\tstream\trecent128\tkivi-2\n");
    for (size_t i = 0; i < sizeof T / sizeof *T; i++) one_length(k, 6, T[i]);
}

static void room(void)
{
    static const kind k = {"", "2:channel:128", "2:token:64", 0, 0, 1};
    static const int T[] = {128, 512, 2048, 16384};
    printf("T\theld\treserved\tratio\n");
    for (size_t i = 0; i < sizeof T / sizeof *T; i++) {
        size_t reserved;
        kv_bytes b = weigh(&k, T[i], &reserved);
        printf("%d\t%zu\t%zu\t%.3g\n", T[i], b.total, reserved, (double)reserved / (double)b.total);
    }
}

/* One letter a token: K kept, c coded, w waiting. */
static void print_state(const kv_cache_layer *cl, const kv_store *st, int width)
{
    for (int t = 0; t < width; t++) {
        int at = kv_positions_before(cl->position, cl->n_kept, t);
        int is_kept = at < cl->n_kept && cl->position[at] == t;
        putchar(t >= st->tokens ? ' ' : is_kept ? 'K' : t < st->quantized ? 'c' : 'w');
    }
}

static void fill(const char *title, const char *keys, const char *values, int recent)
{
    enum { T = 18 };
    kind k = {"", keys, values, recent, 2, 0};
    held h = open_cache(&k, (kv_shape){1, 1, 16}, T);
    static const int kept[2] = {2, 9};
    printf("%s\n\n  tokens  keys                values\n", title);
    for (int t = 0; t < T; t++) {
        append(&h, kept, 2, 1);
        if (t % 2 == 0 && t > 9) continue; /* enough is enough */
        printf("  %6d  ", t + 1);
        print_state(h.c.layer, &h.c.layer->k, T + 2);
        print_state(h.c.layer, &h.c.layer->v, T);
        printf("\n");
    }
    printf("\n");
    free(h.memory);
}

int main(int argc, char **argv)
{
    const char *what = argc == 2 ? argv[1] : "";
    if (!strcmp(what, "kinds")) kinds();
    else if (!strcmp(what, "lengths")) lengths();
    else if (!strcmp(what, "table")) table();
    else if (!strcmp(what, "room")) room();
    else if (!strcmp(what, "stream")) {
        fill("Groups of 4 keys, R = 3", "2:channel:4", "2:token:16", 3);
        fill("The same, KIVI's ageing, R = 4", "2:channel:4:kivi", "2:token:16:kivi", 4);
    } else {
        fprintf(stderr, "weigh: found '%s', expected kinds, lengths, table, room or stream\n", what);
        return 2;
    }
    return 0;
}
