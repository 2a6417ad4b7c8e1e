/* What tests of kernels need besides check.h. The same programs run in the simulator and, built with
 * -DKV_GPU, on a device. There the orders of threads are the device's, and complaints are those of
 * compute-sanitizer. */
#ifndef TESTS_CUDA_CHECK_H
#define TESTS_CUDA_CHECK_H

#include "check.h"
#include "kv_cuda.h"

#ifdef KV_GPU
enum { CUDA_ORDERS = 1 };
static inline void cuda_order(int i) { (void)i; }
static inline void cuda_quiet(void) {}
#else
enum { CUDA_ORDERS = 4 };
void sim_order(int order, uint64_t seed);
long sim_findings(void);
void sim_report(int with_tables);
void sim_forget(void);
uint64_t sim_sectors(const char *array, int stores);

/* Ascending, descending, strided, shuffled. */
static inline void cuda_order(int i)
{
    sim_order(i, 7);
}

/* The simulator found nothing out of bounds, misaligned, racing or uninitialised. */
static inline void cuda_quiet(void)
{
    if (sim_findings())
        sim_report(0);
    cr_assert_eq(sim_findings(), 0, "%ld findings of the simulator", sim_findings());
}
#endif

/* An array of the device, holding just these bytes. */
static inline void *cuda_copy(const void *host, size_t bytes)
{
    kv_error e = {0};
    void *p = kv_cuda_alloc(bytes, &e);
    cr_assert_not_null(p, "%s", e.text);
    cr_assert_eq(kv_cuda_upload(p, host, bytes, &e), KV_OK, "%s", e.text);
    return p;
}

/* One that holds nothing yet. */
static inline void *cuda_room(size_t bytes)
{
    kv_error e = {0};
    void *p = kv_cuda_alloc(bytes, &e);
    cr_assert_not_null(p, "%s", e.text);
    return p;
}

static inline void cuda_get(void *host, const void *device, size_t bytes)
{
    kv_error e = {0};
    cr_assert_eq(kv_cuda_download(host, device, bytes, &e), KV_OK, "%s", e.text);
}

static inline kv_fault *cuda_fault(void)
{
    kv_error e = {0};
    kv_fault *fault = kv_cuda_fault_new(&e);
    cr_assert_not_null(fault, "%s", e.text);
    return fault;
}

/* Nothing was wrong with the numbers. */
static inline void cuda_fine(kv_fault *fault)
{
    kv_error e = {0};
    cr_assert_eq(kv_cuda_fault(fault, NULL, "input", &e), KV_OK, "%s", e.text);
}

#endif
