/* The sum of each row, by a block of 128 threads, with a mistake. */
//sim launch rowsum grid=3 block=128 args=y:float[3],x:float[384]=random
__global__ void rowsum(float *y, const float *x) {
    __shared__ float part[4];
    int i = threadIdx.x;
    float v = x[blockIdx.x * 128 + i];
    for (int k = 16; k; k /= 2)
        v += __shfl_down_sync(0xffffffff, v, k);
    if (i % 32 == 0)
        part[i / 32] = v;
    if (i == 0)
        y[blockIdx.x] = part[0] + part[1] + part[2] + part[3];
}
