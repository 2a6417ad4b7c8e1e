/* The pool of threads.h.
 *
 * One 64-bit word says everything a worker must know: the number of the job in its upper half, the
 * tasks nobody has taken yet in its lower half. A worker takes a task by lowering that count with a
 * compare-and-swap, which fails when the job has changed meanwhile; so a worker that was held up
 * (the machine has other things to do) can never take a task of a job that is over, and nobody
 * has to wait for it. Function and argument are read only after a task has been won: the
 * job cannot end before that task does. */
#define _GNU_SOURCE
#include "threads.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_THREADS = 1024, LOOKS_BEFORE_SLEEP = 20000, LOOKS_BEFORE_YIELD = 2000 };

typedef struct {
    tm_pool *pool;
    int number;
    pthread_t thread;
} worker;

struct tm_pool {
    _Alignas(64) _Atomic uint64_t state; /* job << 32 | tasks not taken */
    _Alignas(64) _Atomic int done;       /* tasks finished */
    _Alignas(64) _Atomic int sleepers;
    _Atomic int closing;
    tm_task *fn;
    void *arg;
    int tasks, threads;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    worker *worker;
};

int tm_cpus(void)
{
#ifdef CPU_COUNT
    cpu_set_t set;
    CPU_ZERO(&set);
    if (!sched_getaffinity(0, sizeof set, &set) && CPU_COUNT(&set) > 0)
        return CPU_COUNT(&set);
#endif
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (int)n : 1;
}

static inline void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Take and run tasks until none is left. */
static void help(tm_pool *p, int number)
{
    uint64_t s = atomic_load_explicit(&p->state, memory_order_acquire);
    while ((uint32_t)s) {
        if (!atomic_compare_exchange_weak_explicit(&p->state, &s, s - 1, memory_order_acq_rel,
                                                   memory_order_acquire))
            continue;
        p->fn(p->arg, p->tasks - (int)(uint32_t)s, number);
        atomic_fetch_add_explicit(&p->done, 1, memory_order_release);
        s = atomic_load_explicit(&p->state, memory_order_acquire);
    }
}

/* Announcing that one is about to sleep and looking once more, against publishing a job and looking
 * for sleepers: both sides are sequentially consistent, so at least one sees the other. */
static void sleep_until_work(tm_pool *p)
{
    pthread_mutex_lock(&p->lock);
    atomic_fetch_add(&p->sleepers, 1);
    while (!(uint32_t)atomic_load(&p->state) && !atomic_load(&p->closing))
        pthread_cond_wait(&p->wake, &p->lock);
    atomic_fetch_sub(&p->sleepers, 1);
    pthread_mutex_unlock(&p->lock);
}

static void *work(void *self)
{
    worker *w = self;
    tm_pool *p = w->pool;
    while (!atomic_load_explicit(&p->closing, memory_order_acquire)) {
        int looks = 0;
        while (!(uint32_t)atomic_load_explicit(&p->state, memory_order_acquire) &&
               !atomic_load_explicit(&p->closing, memory_order_relaxed) &&
               looks++ < LOOKS_BEFORE_SLEEP)
            relax();
        if (looks > LOOKS_BEFORE_SLEEP)
            sleep_until_work(p);
        help(p, w->number);
    }
    return NULL;
}

void tm_parallel(tm_pool *p, tm_task *fn, void *arg, int tasks)
{
    if (!p || p->threads == 1 || tasks <= 1) {
        for (int i = 0; i < tasks; i++)
            fn(arg, i, 0);
        return;
    }
    p->fn = fn;
    p->arg = arg;
    p->tasks = tasks;
    atomic_store_explicit(&p->done, 0, memory_order_relaxed);
    uint64_t job = (atomic_load_explicit(&p->state, memory_order_relaxed) >> 32) + 1;
    atomic_store(&p->state, job << 32 | (uint32_t)tasks);
    if (atomic_load(&p->sleepers)) {
        pthread_mutex_lock(&p->lock);
        pthread_cond_broadcast(&p->wake);
        pthread_mutex_unlock(&p->lock);
    }
    help(p, 0);
    for (int looks = 0; atomic_load_explicit(&p->done, memory_order_acquire) < tasks; looks++) {
        if (looks < LOOKS_BEFORE_YIELD)
            relax();
        else
            sched_yield();
    }
}

static int start_workers(tm_pool *p, int n, kv_error *err)
{
    for (p->threads = 1; p->threads < n; p->threads++) {
        worker *w = p->worker + p->threads;
        *w = (worker){.pool = p, .number = p->threads};
        int bad = pthread_create(&w->thread, NULL, work, w);
        if (bad)
            return kv_fail(err, KV_FAIL_RUN, "cannot start thread %d of %d: %s; use fewer threads",
                           p->threads + 1, n, strerror(bad));
    }
    return KV_OK;
}

int tm_pool_open(tm_pool **out, int n, kv_error *err)
{
    *out = NULL;
    if (n < 0 || n > MAX_THREADS)
        return kv_fail(err, KV_FAIL_USAGE, "%d threads: expected 1 to %d, or 0 for all", n,
                       MAX_THREADS);
    if (!n)
        n = tm_cpus() < MAX_THREADS ? tm_cpus() : MAX_THREADS;
    tm_pool *p = aligned_alloc(64, sizeof *p);
    worker *w = calloc((size_t)n, sizeof *w);
    if (!p || !w) {
        free(p);
        free(w);
        return kv_fail(err, KV_FAIL_RUN, "out of memory for %d threads", n);
    }
    memset(p, 0, sizeof *p);
    p->worker = w;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    if (start_workers(p, n, err)) {
        tm_pool_close(p);
        return KV_FAIL_RUN;
    }
    *out = p;
    return KV_OK;
}

void tm_pool_close(tm_pool *p)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    atomic_store(&p->closing, 1);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
    for (int i = 1; i < p->threads; i++)
        pthread_join(p->worker[i].thread, NULL);
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->wake);
    free(p->worker);
    free(p);
}

int tm_pool_threads(const tm_pool *p)
{
    return p ? p->threads : 1;
}
