/* Access patterns whose cost anybody can work out: what one request of a warp
 * takes in 32-byte sectors of global, or in wavefronts of shared memory. */
#include "kv.cuh"

//sim launch good_strides grid=1 block=32 args=y:float[32],x:float[1024]=random
__global__ void good_strides(float *y, const float *x) {
    int i = threadIdx.x;
    float a = x[i];       // expect: sectors=4 bytes=128
    float b = x[2 * i];   // expect: sectors=8 bytes=128
    float c = x[32 * i];  // expect: sectors=32 bytes=128
    float d = x[7];       // expect: sectors=1 bytes=4
    float e = x[i + 1];   // expect: sectors=5 bytes=128
    float f = x[31 - i];  // expect: sectors=4 bytes=128
    y[i] = a + b + c + d + e + f; // expect: sectors=4 bytes=128
}

//sim launch good_widths grid=1 block=32 args=y:float4[32],x:float4[32]=random,z:float2[32]=random,h:uint16_t[32]=zero,c:uint8_t[32]=zero
__global__ void good_widths(float4 *y, const float4 *x, const float2 *z,
                            const uint16_t *h, const uint8_t *c) {
    int i = threadIdx.x;
    float4 v = x[i];      // expect: sectors=16 bytes=512
    float2 w = z[i];      // expect: sectors=8 bytes=256
    v.x += w.x + w.y;
    v.y += h[i];          // expect: sectors=2 bytes=64
    v.z += c[i];          // expect: sectors=1 bytes=32
    y[i] = v;             // expect: sectors=16 bytes=512
}

/* Lanes 16 bytes apart that read 4 bytes each use a quarter of what comes. */
//sim launch good_sparse grid=1 block=32 args=y:unsigned[32],x:unsigned[128]=zero
__global__ void good_sparse(unsigned *y, const unsigned *x) {
    int i = threadIdx.x;
    unsigned v = x[4 * i]; // expect: sectors=16 bytes=128
    if (i < 8)
        v += x[i];         // expect: sectors=1 bytes=32
    y[i] = v;              // expect: sectors=4 bytes=128
}

//sim launch good_banks grid=1 block=32 smem=8192 args=y:float[32]
__global__ void good_banks(float *y) {
    extern __shared__ float s[];
    int i = threadIdx.x;
    for (int k = 0; k < 64; k++)
        s[32 * k + i] = 1;   // expect: wavefronts=1
    __syncwarp();
    float a = s[i];          // expect: wavefronts=1
    float b = s[2 * i];      // expect: wavefronts=2
    float c = s[32 * i];     // expect: wavefronts=32
    float d = s[33 * i];     // expect: wavefronts=1
    float e = s[5];          // expect: wavefronts=1
    float f = s[4 * i];      // expect: wavefronts=4
    float g = s[i / 4];      // expect: wavefronts=1
    y[i] = a + b + c + d + e + f + g;
}

/* A transpose: columns of 32 conflict, columns of 33 do not. */
//sim launch good_padding grid=1 block=32,32 args=y:float[1024],x:float[1024]=random
__global__ void good_padding(float *y, const float *x) {
    __shared__ float bare[32][32], padded[32][33];
    int i = threadIdx.x, j = threadIdx.y;
    bare[j][i] = x[32 * j + i];    // expect: wavefronts=1
    padded[j][i] = 2 * bare[j][i]; // expect: wavefronts=1
    __syncthreads();
    float a = bare[i][j];          // expect: wavefronts=32
    float b = padded[i][j];        // expect: wavefronts=1
    y[32 * j + i] = a + b;         // expect: sectors=4 bytes=128
}

/* 64 bits: two phases of half a warp; 128 bits: four of a quarter. */
//sim launch good_wide_banks grid=1 block=32 args=y:float[32]
__global__ void good_wide_banks(float *y) {
    __shared__ float4 s[128];
    float2 *t = reinterpret_cast<float2 *>(s);
    int i = threadIdx.x;
    for (int k = 0; k < 4; k++)
        s[32 * k + i] = make_float4(1, 2, 3, 4); // expect: wavefronts=4
    __syncwarp();
    float2 a = t[i];         // expect: wavefronts=2
    float2 b = t[2 * i];     // expect: wavefronts=4
    float4 c = s[i];         // expect: wavefronts=4
    float4 d = s[2 * i];     // expect: wavefronts=8
    float4 e = s[3];         // expect: wavefronts=4
    float4 f = s[(i & 24) + ((i & 7) ^ (i >> 3))]; // expect: wavefronts=4
    y[i] = a.x + b.y + c.z + d.w + e.x + f.y;
}

/* Asynchronous copies ask for memory as loads and stores do. */
//sim launch good_copy_cost grid=1 block=32 args=y:float4[32],x:float4[64]=random
__global__ void good_copy_cost(float4 *y, const float4 *x) {
    __shared__ float4 s[32];
    int i = threadIdx.x;
    kv_copy16(&s[i], &x[2 * i]);   // expect: sectors=32 bytes=512 wavefronts=4
    kv_copy_commit();
    kv_copy_wait<0>();
    y[i] = s[i];                   // expect: sectors=16 wavefronts=4
}
