/* append.c: what the quantize kernels ask of memory, counted by the simulator.
 *
 *   append traffic          TSV: bytes in whole sectors over the least that must move, by kernel
 *   append report VERSION   the simulator's tables for one prompt of 512 tokens
 *   append tile             text: which lane of a warp holds the code of which token and channel
 *
 * The shape is that of SmolLM2's cache, 3 KV heads of 64 channels; input is binary16. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kv_cuda.h"

void sim_order(int order, uint64_t seed);
void sim_report(int with_tables);
void sim_forget(void);
long sim_findings(void);
uint64_t sim_sectors(const char *array, int stores);

enum { T = 512, HEADS = 3, D = 64, ROW = HEADS * D };

static void need(int bad, const kv_error *e)
{
    if (!bad) return;
    fprintf(stderr, "append: %s\n", e->text);
    exit(1);
}

static void *upload(const void *host, size_t bytes)
{
    kv_error e = {0};
    void *p = kv_cuda_alloc(bytes, &e);
    need(!p || kv_cuda_upload(p, host, bytes, &e), &e);
    return p;
}

static kv_format format(const char *text)
{
    kv_format f;
    kv_error e = {0};
    need(kv_format_parse(&f, text, &e), &e);
    return f;
}

/* A prompt of T tokens goes into an empty cache of one sequence. Returns the bytes that have to
 * move: each number once as binary16, each code, scale and minimum once, rows that stay in 16 bits
 * once more, and 12 bytes for a kept token's place in the list, its position and its hole. */
static double append(const char *keys, const char *values, int recent, int n_kept, int version)
{
    kv_error e = {0};
    kv_format k = format(keys), v = format(values);
    kv_length length = {0, 0, 0, 0};
    kv_cuda_cache c = {.recent = recent, .length = &length};
    kv_pool *p = &c.pool;
    *p = (kv_pool){.sequences = 1, .kv_heads = HEADS, .max_tiles = T / KV_TILE,
                   .kept_capacity = n_kept, .window = recent + KV_TILE};
    need(kv_tile_init(&p->tile, &k, &v, D, &e), &e);
    size_t bytes = kv_pool_place(p, 0, NULL);
    void *zeros = calloc(1, bytes);
    kv_pool_place(p, 0, upload(zeros, bytes));
    c.plan = kv_cuda_alloc(kv_cuda_plan_bytes(p), &e);
    uint16_t *x = malloc((size_t)T * ROW * sizeof *x);
    for (size_t i = 0; i < (size_t)T * ROW; i++)
        x[i] = (uint16_t)(0x3800 + ((uint32_t)i * 2654435761u >> 23)); /* between 0.5 and 0.75 */
    void *rows[2] = {upload(x, (size_t)T * ROW * 2), upload(x, (size_t)T * ROW * 2)};
    int n = T, kept[32];
    for (int i = 0; i < n_kept; i++) kept[i] = 7 + 61 * i;
    kv_fault *fault = kv_cuda_fault_new(&e);
    sim_forget();
    need(kv_cuda_append(&c, rows[0], rows[1], 1, &n, kept, &n_kept, fault, version, &e), &e);
    need(kv_cuda_fault(fault, NULL, "append", &e), &e);
    double coded_k = length.quantized_keys, coded_v = length.quantized_values, row = ROW;
    double codes = row * (coded_k * k.bits + coded_v * v.bits) / 8;
    double scales = row * (coded_k / k.group + coded_v / v.group) * 4;
    double stay = row * 2 * (2 * n_kept + (T - coded_k) + (T - coded_v));
    free(zeros);
    free(x);
    return 2.0 * T * row * 2 + codes + scales + stay + 12.0 * n_kept;
}

static void traffic(void)
{
    static const struct { const char *name, *keys, *values; int recent, kept; } c[] = {
        {"2-bit", "2:channel:128", "2:token:64", 0, 0},
        {"3-bit", "3:channel:128", "3:token:64", 0, 0},
        {"4-bit", "4:channel:128", "4:token:64", 0, 0},
        {"2-bit-mixed", "2:channel:128", "2:token:64", 128, 5}};
    printf("row\tloaded\tstored\tmoved\tleast\tratio\n");
    for (size_t i = 0; i < sizeof c / sizeof *c; i++)
        for (int version = 1; version <= 3; version++) {
            double least = append(c[i].keys, c[i].values, c[i].recent, c[i].kept, version);
            double in = 32.0 * (double)sim_sectors(NULL, 0), out = 32.0 * (double)sim_sectors(NULL, 1);
            printf("%s/k%02d\t%.0f\t%.0f\t%.0f\t%.0f\t%.4g\n", c[i].name, version, in, out, in + out,
                   least, (in + out) / least);
        }
}

/* The tile is asked: put one code that is not zero into a cache, copy it over, see where it is. */
static int lane_of(const kv_pool *p, kv_cache *c, void *memory, size_t bytes, int values, int t, int ch)
{
    kv_error e = {0};
    kv_store *st = values ? &c->layer[0].v : &c->layer[0].k;
    const kv_tile *l = &p->tile;
    int bits = st->format.bits, G = st->format.group;
    size_t at = values ? (size_t)t * (D / G) + (size_t)(ch / G) : (size_t)(t / G) * D + (size_t)ch;
    int j = values ? ch % G : t % G;
    uint32_t *word = st->words + at * (size_t)kv_packed_words(G, bits) + j * bits / 32;
    memset(memory, 0, bytes);
    *word = 1u << j * bits % 32;
    need(kv_pool_from_cache((kv_pool *)p, 0, c, 0, &e), &e);
    *word = 0;
    const uint32_t *codes = (const uint32_t *)(p->tiles + (values ? l->value_codes : 0));
    int words = KV_TILE * D * bits / 32, i = 0;
    while (i < words && !codes[i]) i++;
    return i % 128; /* of the 128 words that a warp reads at once: lane * 4 + word */
}

static void tile(void)
{
    enum { CH = 32 };
    kv_error e = {0};
    kv_cache c;
    kv_cache_spec spec = {.layers = 1, .shape = {1, 1, D}, .keys = format("2:channel:128"),
                          .values = format("2:token:64"), .capacity = KV_TILE};
    float *x = calloc((size_t)KV_TILE * D, sizeof *x);
    need(kv_cache_init(&c, &spec, calloc(1, kv_cache_size(&spec)), &e), &e);
    need(kv_cache_append(&c, 0, x, x, NULL, 0, KV_TILE, &e), &e);
    kv_pool p = {.sequences = 1, .kv_heads = 1, .max_tiles = 1, .window = KV_TILE};
    need(kv_tile_init(&p.tile, &spec.keys, &spec.values, D, &e), &e);
    size_t bytes = kv_pool_place(&p, 0, NULL);
    void *memory = aligned_alloc(128, bytes);
    kv_pool_place(&p, 0, memory);
    for (int values = 0; values < 2; values++) {
        printf("%s: lane, and its word of four\n\n  token \\ channel\n     ", values ? "values" : "keys");
        for (int ch = 0; ch < CH; ch++) printf("%5d", ch);
        printf("\n");
        for (int t = 0; t < 16; t++) {
            printf("  %2d ", t);
            for (int ch = 0; ch < CH; ch++) {
                int at = lane_of(&p, &c, memory, bytes, values, t, ch);
                printf(" %2d.%d", at / 4, at % 4);
            }
            printf("\n");
        }
        printf("\n");
    }
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    sim_order(0, 0);
    if (argc == 2 && !strcmp(what, "traffic")) traffic();
    else if (argc == 2 && !strcmp(what, "tile")) tile();
    else if (argc == 3 && !strcmp(what, "report")) {
        append("2:channel:128", "2:token:64", 0, 0, atoi(argv[2]));
        fflush(stdout);
        sim_report(1);
    } else {
        fprintf(stderr, "append: found '%s', expected traffic, tile or report VERSION\n", what);
        return 2;
    }
    return sim_findings() != 0;
}
