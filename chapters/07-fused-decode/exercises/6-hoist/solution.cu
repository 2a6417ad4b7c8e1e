/* Exercise 07.6: a warp for each group. Its lanes fold two channels each; then each lane has one token, whose
 * four words it fetches together. */
#include "kv.cuh"

__global__ void score_kernel(float *s, const float *q, const uint32_t *codes, const float *scale, const float *low,
                             int T) {
    __shared__ float folded[64];
    int lane = threadIdx.x, t = blockIdx.x * 32 + lane;
    float sum = 0;
    for (int c = lane; c < 64; c += 32) {
        float x = q[c];
        folded[c] = x * scale[blockIdx.x * 64 + c];
        sum += x * low[blockIdx.x * 64 + c];
    }
    sum = kv_warp_sum(sum);
    __syncthreads();
    if (t >= T)
        return;
    uint4 v = reinterpret_cast<const uint4 *>(codes)[t];
    uint32_t word[4] = {v.x, v.y, v.z, v.w};
    for (int c = 0; c < 64; c++)
        sum += folded[c] * float(word[c / 16] >> c % 16 * 2 & 3);
    s[t] = sum;
}

extern "C" void scores(float *s, const float *q, const uint32_t *codes, const float *scale, const float *low, int T) {
    score_kernel<<<(T + 31) / 32, 32>>>(s, q, codes, scale, low, T);
}
