/* cost.c: what the kernels of this chapter ask of memory, as the simulator counts it. One launch of
 * each version: softmax of 64 rows of 1024 scores, and the sink metric of one head of 256 tokens. */
#include <stdio.h>
#include <stdlib.h>

#include "kv_cuda.h"

void sim_order(int order, uint64_t seed);
void sim_report(int with_tables);
void sim_forget(void);

static kv_error e;

static void need(int bad)
{
    if (!bad) return;
    fprintf(stderr, "cost: %s\n", e.text);
    exit(1);
}

static void report(const char *what, int version)
{
    need(kv_cuda_wait(&e));
    printf("%s k%02d\n", what, version);
    fflush(stdout);
    sim_report(1);
    printf("\n");
    fflush(stdout);
    sim_forget();
}

int main(void)
{
    enum { ROWS = 64, T = 1024, TOKENS = 256 };
    size_t bytes = ROWS * T * sizeof(float);
    float *host = malloc(bytes), *s = kv_cuda_alloc(bytes, &e), *p = kv_cuda_alloc(bytes, &e);
    double *alpha = kv_cuda_alloc(TOKENS * sizeof(double), &e);
    kv_fault *fault = kv_cuda_fault_new(&e);
    need(!host || !s || !p || !alpha || !fault);
    for (size_t i = 0; i < ROWS * T; i++) host[i] = (float)(i * 7 % 11);
    need(kv_cuda_upload(s, host, bytes, &e));
    free(host);
    sim_order(0, 0);
    sim_forget();
    for (int v = 1; v <= KV_CUDA_SOFTMAX_VERSIONS; v++) {
        need(kv_cuda_softmax(p, NULL, s, NULL, KV_SOFTMAX_PLAIN, ROWS, 1, T - 1, fault, v, &e));
        report("softmax", v);
    }
    for (int v = 1; v <= KV_CUDA_ALPHA_VERSIONS; v++) {
        need(kv_cuda_sink_alpha(alpha, s, 1, TOKENS, fault, v, &e));
        report("sinks", v);
    }
    return 0;
}
