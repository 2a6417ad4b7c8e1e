//@ top: Halve numbers on a device
#include "half.h"

//@ k01: Give each thread one number
__global__ void halve_k01(float *x, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        x[i] = x[i] / 2;
}

//@ launch: Start enough blocks
void halve_cuda(float *x, int n)
{
    halve_k01<<<(n + 255) / 256, 256>>>(x, n);
}
