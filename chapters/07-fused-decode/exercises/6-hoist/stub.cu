/* Exercise 07.6: s[t] = q . key t for T keys of 64 channels. Codes of two bits [T][4 words], channel 0 lowest;
 * every 32 tokens have a scale and a minimum for each channel, scale and low [ceil(T / 32)][64], and a number
 * is code * scale + low. This one is right: a thread for each token. It fetches scale, minimum and query for
 * every code, and its codes word by word. Read everything once for 32 tokens. */
#include "kv.cuh"

__global__ void score_kernel(float *s, const float *q, const uint32_t *codes, const float *scale, const float *low,
                             int T) {
    int t = blockIdx.x * blockDim.x + threadIdx.x;
    if (t >= T)
        return;
    float sum = 0;
    for (int c = 0; c < 64; c++) {
        uint32_t code = codes[4 * t + c / 16] >> c % 16 * 2 & 3;
        int at = t / 32 * 64 + c;
        sum += q[c] * (float(code) * scale[at] + low[at]);
    }
    s[t] = sum;
}

/* Grid and block are yours to choose as well. */
extern "C" void scores(float *s, const float *q, const uint32_t *codes, const float *scale, const float *low, int T) {
    score_kernel<<<(T + 31) / 32, 32>>>(s, q, codes, scale, low, T);
}
