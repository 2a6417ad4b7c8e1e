/* What prediction asks of memory, version by version, in the simulator: kernel.sh builds and runs it.
 *
 * kernel.tsv  row (version): bytes a token that the update itself moves, what prediction adds to it
 *   (sectors of 32 bytes that are asked for), and that as a share, in percent, of the residual
 *   updates of a prefill: two in each of 30 layers, and prediction at one of them.
 * 512 tokens of width 576 in two chunks; the five largest are read at the end. */
#include <stdio.h>
#include <stdlib.h>

#include "kv_cuda.h"

enum { T = 512, WIDTH = 576, CHANNEL = 300, LAYERS = 30, CHUNK = 256, K = 5 };

void sim_forget(void);
long sim_findings(void);
uint64_t sim_sectors(const char *array, int stores);

/* Ordinary numbers, and a few that are not in the channel. */
static void fill(float *h)
{
    uint32_t state = 1;
    for (int i = 0; i < CHUNK * WIDTH; i++) {
        state = state * 1664525u + 1013904223u;
        h[i] = (float)(state >> 8) / (1 << 24) - 0.5f;
    }
    for (int t = 50; t < CHUNK; t += 100) h[t * WIDTH + CHANNEL] = 500;
}

/* Bytes that the versions ask for, with prediction or without; 0: something failed. */
static uint64_t bytes_of(int version, int with, float *h, float *add, void *memory, int *position,
                         int *count, kv_fault *fault)
{
    kv_error err = {0, ""};
    kv_cuda_topk top;
    sim_forget();
    int bad = kv_cuda_topk_start(&top, memory, K, T, &err);
    for (int t = 0; t < T && !bad; t += CHUNK)
        bad = kv_cuda_residual(h, add, CHUNK, WIDTH, CHANNEL, with ? &top : NULL, fault, version,
                               &err);
    if (with && !bad) bad = kv_cuda_topk_read(position, count, &top, &err);
    if (bad) fprintf(stderr, "kernel: %s\n", err.text);
    return bad ? 0 : 32 * (sim_sectors(NULL, 0) + sim_sectors(NULL, 1));
}

int main(void)
{
    static float h[CHUNK * WIDTH], add[CHUNK * WIDTH];
    kv_error err = {0, ""};
    float *dh = kv_cuda_alloc(sizeof h, &err), *da = kv_cuda_alloc(sizeof add, &err);
    void *memory = kv_cuda_alloc(kv_cuda_topk_bytes(T), &err);
    int *position = kv_cuda_alloc(K * sizeof *position, &err);
    int *count = kv_cuda_alloc(sizeof *count, &err);
    kv_fault *fault = kv_cuda_fault_new(&err);
    fill(h);
    if (err.text[0] || kv_cuda_upload(dh, h, sizeof h, &err) ||
        kv_cuda_upload(da, add, sizeof add, &err)) {
        fprintf(stderr, "kernel: %s\n", err.text);
        return 1;
    }
    printf("version\tupdate\tprediction\tshare\n");
    for (int version = 1; version <= KV_CUDA_RESIDUAL_VERSIONS; version++) {
        uint64_t plain = bytes_of(version, 0, dh, da, memory, position, count, fault);
        uint64_t whole = bytes_of(version, 1, dh, da, memory, position, count, fault);
        if (!plain || !whole || sim_findings()) return 1;
        double update = (double)plain / T, prediction = (double)(whole - plain) / T;
        printf("k%02d\t%.0f\t%.2f\t%.4f\n", version, update, prediction,
               100 * prediction / (update * 2 * LAYERS));
    }
    return 0;
}
