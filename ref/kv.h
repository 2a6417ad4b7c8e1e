//@ top: Declare everything the reference implementation offers
/* (being written; see ref/error.c for the first piece) */
#ifndef KV_H
#define KV_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

//@ errors: Give every failure a code and a sentence
enum { KV_OK = 0, KV_FAIL_RUN = 1, KV_FAIL_USAGE = 2 };

typedef struct {
    int code;       /* KV_OK, KV_FAIL_RUN (file, data, memory) or KV_FAIL_USAGE */
    char text[512]; /* one sentence: what, where, expected, what to do */
} kv_error;

/* Returns code; writes the message unless err is NULL. Long ones are cut. */
int kv_fail(kv_error *err, int code, const char *format, ...)
#if defined(__GNUC__)
    __attribute__((format(printf, 3, 4)))
#endif
    ;

#ifdef __cplusplus
}
#endif

#endif
