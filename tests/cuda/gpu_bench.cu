/* Measures the kernels of cuda/ on a device, against what the device can do:
 *   build/gpu/bench RESULTS COMMIT
 * prints a table and appends its rows to RESULTS (tab-separated: date, commit, device, row, what it
 * moves at least, microseconds). A time is the median of 15 launches after 3 that do not count.
 *
 * The roof is a copy within device memory. The peer is attention in 16 bits from cuBLAS: scores,
 * softmax, weighted sum, for the same shapes as the fused decode, G query heads for each KV head.
 * Caches hold 131072 tokens of 8 KV heads of 128, so that even at 2 bits they do not fit the L2. */
#include "kv_cuda.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cublas_v2.h>
#include <ctime>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <string>
#include <vector>

static FILE *results;
static std::string commit, device;
static double roof; /* bytes per second */

static void need(bool good, const char *what, const char *why) {
    if (good)
        return;
    fprintf(stderr, "bench: %s: %s\n", what, why);
    exit(1);
}

static void need(cudaError_t e, const char *what) {
    need(e == cudaSuccess, what, cudaGetErrorString(e));
}

template <class T> static T *room(size_t count) {
    kv_error e = {};
    void *p = kv_cuda_alloc(count * sizeof(T), &e);
    need(p != nullptr, "memory", e.text);
    return static_cast<T *>(p);
}

/* Seconds of one call. */
template <class F> static double time_of(F call) {
    cudaEvent_t begin, end;
    need(cudaEventCreate(&begin), "event"), need(cudaEventCreate(&end), "event");
    std::vector<float> ms;
    for (int i = 0; i < 18; i++) {
        float t = 0;
        need(cudaEventRecord(begin), "event");
        call();
        need(cudaEventRecord(end), "event");
        need(cudaEventSynchronize(end), "a kernel");
        need(cudaEventElapsedTime(&t, begin, end), "event");
        if (i >= 3)
            ms.push_back(t);
    }
    cudaEventDestroy(begin), cudaEventDestroy(end);
    std::sort(ms.begin(), ms.end());
    return ms[ms.size() / 2] * 1e-3;
}

static void say(const std::string &row, double bytes, double seconds) {
    time_t now = time(nullptr);
    char date[32];
    strftime(date, sizeof date, "%Y-%m-%d", gmtime(&now));
    if (roof == 0)
        roof = bytes / seconds;
    printf("%-58s %10.1f us %8.0f GB/s %6.1f %% of a copy\n", row.c_str(), seconds * 1e6,
           bytes / seconds * 1e-9, 100 * bytes / seconds / roof);
    fprintf(results, "%s\t%s\t%s\t%s\t%.0f\t%.2f\n", date, commit.c_str(), device.c_str(),
            row.c_str(),
            bytes, seconds * 1e6);
    fflush(stdout), fflush(results);
}

/* Each call is checked, which costs the host a microsecond. */
#define DO(call) \
    do { \
        kv_error e_ = {}; \
        need((call) == KV_OK, #call, e_.text); \
    } while (0)
#define E &e_

__global__ static void fill(float *x, __half *h, size_t n) {
    size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= n)
        return;
    unsigned u = unsigned(i) * 2654435761u;
    u = (u ^ u >> 15) * 2246822519u;
    float v = float(u >> 8) / float(1 << 23) - 1;
    if (x)
        x[i] = v;
    if (h)
        h[i] = __float2half(v);
}

static float *random_floats(size_t n) {
    float *x = room<float>(n);
    fill<<<unsigned((n + 255) / 256), 256>>>(x, nullptr, n);
    return x;
}

static __half *random_halves(size_t n) {
    __half *x = room<__half>(n);
    fill<<<unsigned((n + 255) / 256), 256>>>(nullptr, x, n);
    return x;
}

/* ---- the simple pieces ----------------------------------------------------------------------- */

static void copy_roof() {
    size_t n = size_t(256) << 20;
    char *a = room<char>(n), *b = room<char>(n);
    say("copy within the device, 256 MiB", 2.0 * double(n),
        time_of([=] { cudaMemcpyAsync(b, a, n, cudaMemcpyDeviceToDevice); }));
    kv_cuda_free(a), kv_cuda_free(b);
}

static void softmax_and_alpha(kv_fault *fault) {
    const int R = 8192, T = 4096, H = 16, L = 2048;
    float *s = random_floats(size_t(R) * T), *p = room<float>(size_t(R) * T);
    for (int v = 1; v <= KV_CUDA_SOFTMAX_VERSIONS; v++)
        say("softmax k0" + std::to_string(v) + ", 8192 rows of 4096", 8.0 * R * T, time_of([=] {
                DO(kv_cuda_softmax(p, nullptr, s, nullptr, KV_SOFTMAX_PLAIN, R, 1, T - 1, fault, v,
                                   E));
            }));
    double *alpha = room<double>(size_t(H) * L);
    for (int v = 1; v <= KV_CUDA_ALPHA_VERSIONS; v++)
        say("sink metric k0" + std::to_string(v) + ", 16 heads of 2048 tokens",
            2.0 * H * L * (L + 1),
            time_of([=] { DO(kv_cuda_sink_alpha(alpha, s, H, L, fault, v, E)); }));
    kv_cuda_free(s), kv_cuda_free(p), kv_cuda_free(alpha);
}

static void outliers(kv_fault *fault) {
    const int T = 8192, C = 4096;
    float *x = random_floats(size_t(T) * C), *median = room<float>(1);
    kv_peak *token = room<kv_peak>(T), *channel = room<kv_peak>(C);
    void *work = room<char>(KV_CUDA_MEDIAN_WORK);
    for (int v = 1; v <= KV_CUDA_PEAKS_VERSIONS; v++)
        say("peaks k0" + std::to_string(v) + ", 8192 x 4096", 4.0 * T * C,
            time_of([=] { DO(kv_cuda_peaks(token, channel, x, T, C, fault, v, E)); }));
    for (int v = 1; v <= KV_CUDA_MEDIAN_VERSIONS; v++)
        say("median m0" + std::to_string(v) + ", 8192 x 4096 (three reads)", 12.0 * T * C,
            time_of([=] { DO(kv_cuda_median(median, x, size_t(T) * C, work, fault, v, E)); }));
    kv_cuda_free(x), kv_cuda_free(median), kv_cuda_free(token), kv_cuda_free(channel);
    kv_cuda_free(work);
}

/* The difference between the two kinds of row is what prediction costs. */
static void prediction(kv_fault *fault) {
    const int T = 8192, C = 4096;
    float *h = random_floats(size_t(T) * C), *add = room<float>(size_t(T) * C);
    need(cudaMemset(add, 0, size_t(T) * C * 4), "memset");
    void *memory = room<char>(kv_cuda_topk_bytes(T));
    for (int v = 1; v <= KV_CUDA_RESIDUAL_VERSIONS; v++)
        for (int with = 0; with < 2; with++)
            say("residual k0" + std::to_string(v) + ", 8192 x 4096" + (with ? ", with top-5" : ""),
                12.0 * T * C, time_of([=] {
                    kv_cuda_topk top;
                    if (with)
                        DO(kv_cuda_topk_start(&top, memory, 5, T, E));
                    DO(kv_cuda_residual(h, add, T, C, 77, with ? &top : nullptr, fault, v, E));
                }));
    kv_cuda_free(h), kv_cuda_free(add), kv_cuda_free(memory);
}

/* ---- caches ---------------------------------------------------------------------------------- */

enum { KV_HEADS = 8, D = 128, TOKENS = 131072 };

struct Cache {
    kv_cuda_cache c;
    std::vector<kv_length> length;
    std::vector<int> n;
    void *memory;
    size_t bytes;
};

static void open_cache(Cache &cache, const char *keys, const char *values, int S) {
    kv_format k, v;
    DO(kv_format_parse(&k, keys, E));
    DO(kv_format_parse(&v, values, E));
    kv_pool p = {};
    DO(kv_tile_init(&p.tile, &k, &v, D, E));
    p.sequences = S, p.kv_heads = KV_HEADS, p.max_tiles = TOKENS / S / KV_TILE, p.window = 256;
    cache.bytes = kv_pool_place(&p, 0, nullptr);
    cache.memory = room<char>(cache.bytes);
    kv_pool_place(&p, 0, cache.memory);
    cache.n.assign(size_t(S), TOKENS / S);
    cache.length.assign(size_t(S), kv_length{});
    cache.c = {p, 0, cache.length.data(), room<char>(kv_cuda_plan_bytes(&p))};
}

static void fill_cache(Cache &cache, const __half *k, const __half *v, kv_fault *fault,
                       int version) {
    need(cudaMemsetAsync(cache.memory, 0, cache.bytes), "memset");
    cache.length.assign(cache.length.size(), kv_length{});
    DO(kv_cuda_append(&cache.c, k, v, 1, cache.n.data(), nullptr, nullptr, fault, version, E));
}

static void decode_rows(const Cache &cache, const char *name, int S, int G, int sms,
                        kv_fault *fault) {
    int H = G * KV_HEADS, T = TOKENS / S, splits = (4 * sms + S * KV_HEADS - 1) / (S * KV_HEADS);
    splits = std::max(1, std::min(splits, T / 256));
    float *q = random_floats(size_t(S) * H * D), *out = room<float>(size_t(S) * H * D);
    const kv_pool *p = &cache.c.pool;
    void *work = room<char>(kv_cuda_decode_work(p, H, splits));
    double bytes = double(TOKENS) / KV_TILE * KV_HEADS * p->tile.bytes + 8.0 * S * H * D;
    for (int v = 1; v <= KV_CUDA_DECODE_VERSIONS; v++)
        say("decode k0" + std::to_string(v) + ", " + name + ", " + std::to_string(S) + " x " +
                std::to_string(T) + ", G = " + std::to_string(G),
            bytes, time_of([=] {
                DO(kv_cuda_decode(out, q, p, H, nullptr, nullptr, splits, work, fault, v, E));
            }));
    kv_cuda_free(q), kv_cuda_free(out), kv_cuda_free(work);
}

static void caches(int sms, kv_fault *fault) {
    static const char *const formats[][2] = {{"2:channel:64", "2:token:64"},
                                             {"3:channel:64", "3:token:64"},
                                             {"4:channel:64", "4:token:64"}};
    size_t size = size_t(TOKENS) * KV_HEADS * D;
    __half *k = random_halves(size), *v = random_halves(size);
    for (auto &f : formats)
        for (int S : {32, 4}) {
            Cache cache;
            open_cache(cache, f[0], f[1], S);
            double tiles = double(TOKENS) / KV_TILE * KV_HEADS * cache.c.pool.tile.bytes;
            for (int version = 2; S == 32 && version <= KV_CUDA_APPEND_VERSIONS; version++) {
                double zero = time_of([&] { cudaMemsetAsync(cache.memory, 0, cache.bytes); });
                double all = time_of([&] { fill_cache(cache, k, v, fault, version); });
                say(std::string("quantize k0") + std::to_string(version) + ", " + f[0] +
                        ", 131072 tokens",
                    4.0 * double(size) + tiles, all - zero);
            }
            fill_cache(cache, k, v, fault, 0);
            for (int G : {1, 4, 8})
                decode_rows(cache, f[0], S, G, sms, fault);
            kv_cuda_free(cache.memory), kv_cuda_free(cache.c.plan);
        }
    kv_cuda_free(k), kv_cuda_free(v);
}

/* ---- the peer -------------------------------------------------------------------------------- */

__global__ static void to_halves(__half *y, const float *x, size_t n) {
    size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < n)
        y[i] = __float2half(x[i]);
}

static void need(cublasStatus_t s) {
    need(s == CUBLAS_STATUS_SUCCESS, "cuBLAS", cublasGetStatusString(s));
}

/* Keys and values [S][Hk][T][D], one query token of G heads for each KV head. cuBLAS counts by
 * columns: scores[G][T] is a T x G matrix to it. */
static void peer(int S, int G, kv_fault *fault) {
    int T = TOKENS / S, batch = S * KV_HEADS;
    size_t size = size_t(TOKENS) * KV_HEADS * D, rows = size_t(batch) * G;
    __half *k = random_halves(size), *v = random_halves(size), *q = random_halves(rows * D);
    __half *p16 = room<__half>(rows * T), *out = room<__half>(rows * D);
    float *scores = room<float>(rows * T), scale = 0.0883883476f, one = 1, zero = 0;
    cublasHandle_t handle;
    need(cublasCreate(&handle));
    double seconds = time_of([=] {
        need(cublasGemmStridedBatchedEx(handle, CUBLAS_OP_T, CUBLAS_OP_N, T, G, D, &scale, k,
                                        CUDA_R_16F, D, (long long)T * D, q, CUDA_R_16F, D,
                                        (long long)G * D, &zero, scores, CUDA_R_32F, T,
                                        (long long)G * T, batch, CUBLAS_COMPUTE_32F,
                                        CUBLAS_GEMM_DEFAULT));
        DO(kv_cuda_softmax(scores, nullptr, scores, nullptr, KV_SOFTMAX_PLAIN, int(rows), 1, T - 1,
                           fault, 0, E));
        to_halves<<<unsigned((rows * T + 255) / 256), 256>>>(p16, scores, rows * T);
        need(cublasGemmStridedBatchedEx(handle, CUBLAS_OP_N, CUBLAS_OP_N, D, G, T, &one, v,
                                        CUDA_R_16F, D, (long long)T * D, p16, CUDA_R_16F, T,
                                        (long long)G * T, &zero, out, CUDA_R_16F, D,
                                        (long long)G * D, batch, CUBLAS_COMPUTE_32F,
                                        CUBLAS_GEMM_DEFAULT));
    });
    say("attention of cuBLAS, 16 bits, " + std::to_string(S) + " x " + std::to_string(T) +
            ", G = " + std::to_string(G),
        4.0 * double(size), seconds);
    cublasDestroy(handle);
    kv_cuda_free(k), kv_cuda_free(v), kv_cuda_free(q), kv_cuda_free(p16), kv_cuda_free(out);
    kv_cuda_free(scores);
}

int main(int argc, char **argv) {
    char text[256];
    kv_error e = {};
    cudaDeviceProp properties;
    need(argc == 3, "usage", "bench RESULTS COMMIT");
    need(cudaGetDeviceProperties(&properties, 0), "no device");
    results = fopen(argv[1], "a");
    need(results != nullptr, argv[1], "cannot be written");
    commit = argv[2];
    device = kv_cuda_device(text, sizeof text);
    printf("%s, commit %s\n\n", text, argv[2]);
    kv_fault *fault = kv_cuda_fault_new(&e);
    need(fault != nullptr, "memory", e.text);
    copy_roof();
    softmax_and_alpha(fault);
    outliers(fault);
    prediction(fault);
    caches(properties.multiProcessorCount, fault);
    for (int S : {32, 4})
        for (int G : {1, 4, 8})
            peer(S, G, fault);
    need(kv_cuda_fault(fault, nullptr, "a piece", &e) == KV_OK, "numbers", e.text);
    fclose(results);
    return 0;
}
