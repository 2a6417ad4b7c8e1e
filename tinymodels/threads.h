/* A small pool of threads that share out the tasks of one job at a time.
 *
 * A job is a function and a number of tasks; whichever thread is free takes the next task. So that
 * results do not depend on the number of threads, a task must be the same piece of work however
 * many threads there are, write only what is its own, and leave sums over tasks to whoever
 * called (in the order of the tasks). The worker number is for scratch memory and nothing else.
 *
 * A decoder starts hundreds of jobs a second that last a few microseconds each; waking
 * a sleeping thread takes longer than that. So idle workers look out for work for a while before
 * they go to sleep. */
#ifndef TM_THREADS_H
#define TM_THREADS_H

#include "kv.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tm_pool tm_pool;

/* task: 0..tasks-1, worker: 0..tm_pool_threads-1 */
typedef void tm_task(void *arg, int task, int worker);

/* CPUs that this process may run on, at least 1. */
int tm_cpus(void);

/* A pool of n threads, the caller's included; n = 0: tm_cpus(). At most 1024. */
int tm_pool_open(tm_pool **out, int n, kv_error *err);
void tm_pool_close(tm_pool *pool); /* NULL is harmless */
int tm_pool_threads(const tm_pool *pool);

/* Runs fn for every task and returns when all are done. Only the thread that opened the pool may
 * call it, never a task. pool NULL: all in this thread, in order. */
void tm_parallel(tm_pool *pool, tm_task *fn, void *arg, int tasks);

#ifdef __cplusplus
}
#endif

#endif
