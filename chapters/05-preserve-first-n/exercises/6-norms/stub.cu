/* Exercise 05.6: norm[T] is the Euclidean norm of each row of k [T][C], the score of bigkeys and smallkeys.
 * This one is right, and a thread walks down a row by itself, so that the 32 lanes of a warp read 32
 * numbers that lie C floats apart. Read every number once, neighbours by neighbours. */
#include "kv.cuh"

__global__ void norms_kernel(float *norm, const float *k, int T, int C) {
    int t = blockIdx.x * blockDim.x + threadIdx.x;
    if (t >= T)
        return;
    float sum = 0;
    for (int c = 0; c < C; c++)
        sum += k[size_t(t) * C + c] * k[size_t(t) * C + c];
    norm[t] = sqrtf(sum);
}

/* Grid and block are yours to choose as well. */
extern "C" void key_norms(float *norm, const float *k, int T, int C) {
    norms_kernel<<<(T + 127) / 128, 128>>>(norm, k, T, C);
}
