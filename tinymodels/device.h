/* Device: the kernels of cuda/ behind the decoder, on a GPU or in the simulator.
 *
 * The kernels are a library that is loaded when it is asked for, so that kvsink itself needs neither
 * CUDA nor a C++ compiler: build/libkvcuda-sim.so (make cusim-lib) runs them on the processor,
 * build/libkvcuda.so (make gpu-lib) on a GPU. Matrix products stay with another backend. What runs on the
 * device is the softmax of the prefill's attention, quantizing into packed caches, and attention from
 * the codes: by the definitions of ref/, so that codes are the same bit for bit and texts are the same
 * unless two logits are closer than float32 can tell. */
#ifndef TM_DEVICE_H
#define TM_DEVICE_H

#include "kv.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tm_device tm_device;

/* simulated: 1 the simulator's library, 0 the GPU's. rest: whose matrix products are used, as long as
 * the device is open. A library or a GPU that is not there is KV_FAIL_RUN, and the message says how it
 * is made. */
int tm_device_open(tm_device **out, int simulated, const kv_backend *rest, kv_error *err);
void tm_device_close(tm_device *d); /* NULL is harmless */

/* "Simulator", or the GPU's name. */
const char *tm_device_name(const tm_device *d);

/* Attention whose softmax runs on the device. */
const kv_backend *tm_device_backend(const tm_device *d);

/* Empty packed caches for all layers of a sequence. Formats and head sizes that have no layout on the
 * device are KV_FAIL_USAGE. */
int tm_device_begin(tm_device *d, const kv_cache_spec *spec, kv_error *err);

/* As kv_cache_append, kv_cache_keep and kv_decode (without rows). */
int tm_device_append(tm_device *d, int layer, const float *k, const float *v, const int *kept,
                     int n_kept, int n, kv_error *err);
int tm_device_keep(tm_device *d, int layer, int position, int *done, kv_error *err);
int tm_device_decode(tm_device *d, float *out, const float *q, int layer, int heads, const float *sink,
                     int shift, kv_error *err);

/* Brings a layer into a cache of ref/ of the same spec: to be measured, or compared. */
int tm_device_fetch(tm_device *d, kv_cache *c, int layer, kv_error *err);

/* What the simulator found wrong with the kernels so far (a GPU: 0); it is printed. */
long tm_device_findings(const tm_device *d);

#ifdef __cplusplus
}
#endif

#endif
