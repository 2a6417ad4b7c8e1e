/* decode_counts D G BITS GROUP T RECENT KEPT VERSION: run one decode in the simulator and print its
 * tables, and the least bytes there are to move. One sequence, one KV head, one block; RECENT = -1
 * quantizes all. For report.py. */
#include <stdio.h>
#include <stdlib.h>

#include "kv_cuda.h"

void sim_order(int order, uint64_t seed);
void sim_report(int with_tables);
long sim_findings(void);

static void need(int bad, const kv_error *e)
{
    if (!bad)
        return;
    fprintf(stderr, "decode_counts: %s\n", e->text);
    exit(2);
}

static void *upload(const void *host, size_t bytes)
{
    kv_error e = {0};
    void *p = kv_cuda_alloc(bytes, &e);
    need(!p || kv_cuda_upload(p, host, bytes, &e), &e);
    return p;
}

static float *numbers(size_t n, uint64_t seed)
{
    float *x = malloc((n ? n : 1) * sizeof *x);
    for (size_t i = 0; i < n; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        x[i] = (float)(int32_t)(seed >> 32) / 1073741824.0f;
    }
    return x;
}

/* One layer of T tokens, the kept ones spread evenly. */
static void fill(kv_cache *c, int T, int kept, int sealed)
{
    kv_error e = {0};
    size_t row = (size_t)c->spec.shape.head_size;
    need(kv_cache_init(c, &c->spec, calloc(1, kv_cache_size(&c->spec)), &e), &e);
    float *k = numbers((size_t)T * row, 1), *v = numbers((size_t)T * row, 2);
    int *position = calloc((size_t)kept + 1, sizeof *position);
    for (int i = 0; i < kept; i++)
        position[i] = (int)((long long)i * T / kept);
    need(kv_cache_append(c, 0, k, v, position, kept, T, &e), &e);
    need(sealed && kv_cache_seal(c, 0, &e), &e);
    free(k), free(v), free(position);
}

/* Bytes of codes, parameters, rows that wait or are kept, query and output. */
static double least(const kv_cache *c, int G)
{
    const kv_cache_layer *l = c->layer;
    int T = l->k.tokens, D = c->spec.shape.head_size, nk = l->k.quantized, nv = l->v.quantized;
    double codes = (double)D * (nk + nv) * c->spec.keys.bits / 8;
    double params = 4.0 * D * ((double)nk / c->spec.keys.group + (double)nv / c->spec.values.group);
    int rows = T - nk + T - nv + 2 * l->n_kept;
    for (int i = 0; i < l->n_kept; i++)
        rows -= (l->position[i] >= nk) + (l->position[i] >= nv);
    return codes + params + 2.0 * D * rows + 8.0 * G * D;
}

int main(int argc, char **argv)
{
    int a[8];
    kv_error e = {0};
    if (argc != 9)
        return 2;
    for (int i = 0; i < 8; i++)
        a[i] = atoi(argv[1 + i]);
    int D = a[0], G = a[1], T = a[4], recent = a[5], kept = a[6];
    kv_cache c = {.spec = {.layers = 1, .shape = {G, 1, D}, .rope = {D, 0, 10000, 1, NULL},
                           .keys = {KV_INT, a[2], KV_PER_CHANNEL, a[3], 0, 0},
                           .values = {KV_INT, a[2], KV_PER_TOKEN, a[3], 0, 0},
                           .recent = recent < 0 ? 0 : recent, .capacity = T,
                           .kept_capacity = kept}};
    fill(&c, T, kept, recent < 0);
    kv_pool host = {.sequences = 1, .kv_heads = 1, .max_tiles = (T + KV_TILE - 1) / KV_TILE,
                    .kept_capacity = kept, .window = (c.spec.recent + a[3] + 15) / 16 * 16};
    need(kv_tile_init(&host.tile, &c.spec.keys, &c.spec.values, D, &e), &e);
    size_t bytes = kv_pool_place(&host, 0, NULL);
    void *memory = aligned_alloc(128, bytes);
    for (size_t i = 0; i < bytes; i++)
        ((char *)memory)[i] = 0;
    kv_pool_place(&host, 0, memory);
    need(kv_pool_from_cache(&host, 0, &c, 0, &e), &e);
    kv_pool pool = host;
    kv_pool_place(&pool, 0, upload(memory, bytes));
    float *q = numbers((size_t)(G * D), 3);
    void *work = kv_cuda_alloc(kv_cuda_decode_work(&pool, G, 1), &e);
    float *out = kv_cuda_alloc((size_t)(G * D) * 4, &e);
    kv_fault *fault = kv_cuda_fault_new(&e);
    sim_order(0, 0);
    float *dq = upload(q, (size_t)(G * D) * 4);
    need(kv_cuda_decode(out, dq, &pool, G, NULL, NULL, 1, work, fault, a[7], &e), &e);
    need(kv_cuda_fault(fault, NULL, "decode", &e), &e);
    printf("tile %d bytes\nleast %.0f bytes\n", pool.tile.bytes, least(&c, G));
    fflush(stdout);
    sim_report(1);
    return sim_findings() != 0;
}
