/* What a checker is written with.
 *
 * A checker, check.c of an exercise, defines answer(): it reads one case, calls the function that the
 * reader wrote, and hands over what came out. It never sees what ought to come out; the grader
 * (grade.py) compares, in another process.
 *
 *     void answer(void)
 *     {
 *         int n;
 *         const float *s = in_floats("logits", &n);
 *         float *p = out_floats("p", n);
 *         out_code(kv_softmax(p, s, n, NULL));
 *     }
 *
 * Arrays are exactly as long as they say: what is read or written beyond the end crashes, and so does
 * writing to an input. Outputs start as NaN (integers: all bits set). */
#ifndef ANSWER_H
#define ANSWER_H

#include <stddef.h>
#include <stdint.h>

void answer(void); /* the checker's */

/* ---- reading a case; a field that is not there ends the program ------------------------------- */

int in_has(const char *name);
int in_int(const char *name);
double in_number(const char *name);
const char *in_text(const char *name);

/* The elements of a list; n may be NULL. */
const float *in_floats(const char *name, int *n);
const double *in_doubles(const char *name, int *n);
const int *in_ints(const char *name, int *n);
const uint8_t *in_bytes(const char *name, int *n);
const uint16_t *in_shorts(const char *name, int *n);
const uint32_t *in_words(const char *name, int *n);

/* ---- handing over what came out ---------------------------------------------------------------- */

/* An array that is part of the answer, for the function to fill. */
float *out_floats(const char *name, int n);
double *out_doubles(const char *name, int n);
int *out_ints(const char *name, int n);
uint8_t *out_bytes(const char *name, int n);
uint16_t *out_shorts(const char *name, int n);
uint32_t *out_words(const char *name, int n);

void out_length(const char *name, int n);      /* only its first n elements count */
void out_int(const char *name, long long x);
void out_number(const char *name, double x);

/* The error code; if it is not 0, nothing else is part of the answer. Returns it. */
int out_code(int code);

/* Memory until the end of the case, with the same wall behind it; holds 0xff everywhere. */
void *scratch(size_t bytes);

/* ---- kernels: the same on the device ----------------------------------------------------------- */

/* A copy of an input there. */
float *device_floats(const char *name, int *n);
double *device_doubles(const char *name, int *n);
int *device_ints(const char *name, int *n);
uint8_t *device_bytes(const char *name, int *n);
uint16_t *device_shorts(const char *name, int *n);
uint32_t *device_words(const char *name, int *n);

/* An array there that is part of the answer; it holds nothing yet. */
float *device_out_floats(const char *name, int n);
double *device_out_doubles(const char *name, int n);
int *device_out_ints(const char *name, int n);
uint8_t *device_out_bytes(const char *name, int n);
uint16_t *device_out_shorts(const char *name, int n);
uint32_t *device_out_words(const char *name, int n);

void *device_scratch(size_t bytes);

#endif
