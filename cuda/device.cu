//@ top: Manage memory of the device
/* The few functions of the CUDA runtime that a C program needs, so that it
 * can be compiled without CUDA's headers. In the simulator the same lines
 * manage the simulator's arrays. */
#include "launch.h"

//@ memory: Get memory and give it back
extern "C" void *kv_cuda_alloc(size_t bytes, kv_error *err) {
    char *p = nullptr;
    cudaError_t e = cudaMalloc(&p, bytes ? bytes : 1);
    if (e == cudaSuccess)
        return p;
    cudaGetLastError(); /* told here, so not again at the next launch */
    kv_refuse(err, KV_FAIL_RUN, "no %zu bytes of device memory: %s", bytes,
              cudaGetErrorString(e));
    return nullptr;
}

extern "C" void kv_cuda_free(void *p) {
    if (p)
        cudaFree(p);
}

//@ copies: Copy to the device and back
static int copied(cudaError_t e, const char *where, size_t bytes,
                  kv_error *err) {
    if (e == cudaSuccess)
        return KV_OK;
    cudaGetLastError();
    return kv_refuse(err, KV_FAIL_RUN, "copying %zu bytes %s the device: %s",
                     bytes, where, cudaGetErrorString(e));
}

extern "C" int kv_cuda_upload(void *device, const void *host, size_t bytes,
                              kv_error *err) {
    if (!bytes)
        return KV_OK;
    return copied(cudaMemcpy(device, host, bytes, cudaMemcpyHostToDevice),
                  "to", bytes, err);
}

extern "C" int kv_cuda_download(void *host, const void *device, size_t bytes,
                                kv_error *err) {
    if (!bytes)
        return KV_OK;
    return copied(cudaMemcpy(host, device, bytes, cudaMemcpyDeviceToHost),
                  "from", bytes, err);
}

//@ wait: Wait for the device
extern "C" int kv_cuda_wait(kv_error *err) {
    cudaError_t e = cudaDeviceSynchronize();
    cudaError_t launch = cudaGetLastError();
    if (e == cudaSuccess)
        e = launch;
    return e == cudaSuccess
               ? KV_OK
               : kv_refuse(err, KV_FAIL_RUN, "a kernel failed: %s",
                           cudaGetErrorString(e));
}

//@ describe: Name the device
extern "C" char *kv_cuda_device(char *text, size_t size) {
    kv_describe_device(text, size);
    return text;
}

//@ fault: Look at what kernels found wrong
extern "C" kv_fault *kv_cuda_fault_new(kv_error *err) {
    kv_fault *fault = static_cast<kv_fault *>(
        kv_cuda_alloc(sizeof(kv_fault), err));
    kv_fault none = ~kv_fault(0);
    if (fault && kv_cuda_upload(fault, &none, sizeof none, err)) {
        kv_cuda_free(fault);
        return nullptr;
    }
    return fault;
}

extern "C" int kv_cuda_fault(kv_fault *fault, unsigned long long *index,
                             const char *what, kv_error *err) {
    kv_fault found = 0, none = ~kv_fault(0);
    if (kv_check_pointer("kv_cuda_fault", "fault", fault, 8, err))
        return KV_FAIL_USAGE;
    if (kv_cuda_wait(err) ||
        kv_cuda_download(&found, fault, sizeof found, err))
        return KV_FAIL_RUN;
    if (found == none)
        return KV_OK;
    if (index)
        *index = found;
    if (kv_cuda_upload(fault, &none, sizeof none, err))
        return KV_FAIL_RUN;
    return kv_refuse(err, KV_FAIL_RUN, "%s: element %llu is not finite, or "
                     "more than its type can hold", what, found);
}
