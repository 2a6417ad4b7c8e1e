//@ top: Check and start launches in one way
/* launch.h - what the launchers of all pieces share. Only host code; what
 * kernels share is in kv.cuh. cuda/ links nothing of ref/, so the few lines
 * that fill in an error are written here a second time. */
#ifndef KV_LAUNCH_H
#define KV_LAUNCH_H

#include "kv.cuh"
#include "kv_cuda.h"

#include <cstdarg>
#include <cstdio>

//@ refuse: Describe a problem and hand the code back
#if defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
static inline int
kv_refuse(kv_error *err, int code, const char *format, ...) {
    if (err) {
        va_list args;
        va_start(args, format);
        vsnprintf(err->text, sizeof err->text, format, args);
        va_end(args);
        err->code = code;
    }
    return code;
}

//@ launched: Ask whether a launch was accepted
static inline int kv_launched(const char *what, kv_error *err) {
    cudaError_t e = cudaGetLastError();
    if (e == cudaSuccess)
        return KV_OK;
    return kv_refuse(err, KV_FAIL_RUN, "%s: the device refused: %s", what,
                     cudaGetErrorString(e));
}

//@ sizes: Refuse sizes that cannot be
/* A product of sizes that no memory holds would overflow an index. */
struct kv_size {
    const char *name;
    long long value, least;
};

static inline int kv_check_sizes(const char *what, const kv_size *size, int n,
                                 kv_error *err) {
    double elements = 1;
    for (int i = 0; i < n; i++) {
        if (size[i].value < size[i].least)
            return kv_refuse(err, KV_FAIL_USAGE, "%s: %s is %lld; at least "
                             "%lld is needed", what, size[i].name,
                             size[i].value, size[i].least);
        elements *= size[i].value ? double(size[i].value) : 1;
    }
    if (elements <= double(1ull << 46))
        return KV_OK;
    return kv_refuse(err, KV_FAIL_USAGE, "%s: %.3g elements are more than any "
                     "device holds (2^46)", what, elements);
}

//@ pointers: Refuse an array that is missing or not aligned
static inline int kv_check_pointer(const char *what, const char *name,
                                   const void *p, size_t align,
                                   kv_error *err) {
    if (!p)
        return kv_refuse(err, KV_FAIL_USAGE, "%s: %s is NULL", what, name);
    if (reinterpret_cast<uintptr_t>(p) % align)
        return kv_refuse(err, KV_FAIL_USAGE, "%s: %s is not aligned to %zu "
                         "bytes", what, name, align);
    return KV_OK;
}

static inline int kv_check_version(const char *what, int version, int most,
                                   kv_error *err) {
    if (version >= 0 && version <= most)
        return KV_OK;
    return kv_refuse(err, KV_FAIL_USAGE, "%s: version %d; expected 1 to %d, "
                     "or 0 to choose by shape", what, version, most);
}

//@ grid: Cover so many things with blocks of so many threads
/* Launchers keep things within 2^31 - 2^16, so that a kernel may add a block
 * to an index held in an int, and a grid has room for a block each. */
enum { KV_INDEX_MAX = 0x7fff0000 };

static inline unsigned kv_blocks(size_t things, size_t per_block) {
    return unsigned((things + per_block - 1) / per_block);
}

#endif
