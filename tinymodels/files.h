/* Files: write them whole or not at all, read them whole, check their text.
 *
 * Every output of this project goes through a tm_out. A regular file is written
 * under another name beside its final one and renamed when it is complete, so
 * that an interrupted or failed run never leaves half a file under a name that
 * somebody trusts. A path that already exists and is not a regular file
 * (/dev/null, /dev/full, a named pipe, /dev/stdout) is opened and written
 * directly: renaming over it would replace the device by a file. */
#ifndef TM_FILES_H
#define TM_FILES_H

#include <stddef.h>
#include <stdio.h>

#include "kv.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { TM_PATH_MAX = 4096 };

typedef struct {
    FILE *f;                      /* write here with fwrite, fprintf, ... */
    char final[TM_PATH_MAX];      /* the name it will have */
    char aside[TM_PATH_MAX + 32]; /* where it is until then; empty: written directly */
} tm_out;

/* Opens path for writing. Open late, when the content is ready: an existing file keeps its
 * content until tm_out_close. Fails if the folder is missing, the path is a folder, or
 * it may not be written. On failure nothing needs closing. */
int tm_out_open(tm_out *out, const char *path, kv_error *err);

/* Completes the file. Every write error since tm_out_open is found here (a full disk
 * included), so callers need not look at what fwrite returns. On failure the unfinished file is
 * removed and the code is KV_FAIL_RUN. The tm_out is closed in either case. */
int tm_out_close(tm_out *out, kv_error *err);

/* Gives up: removes the unfinished file; an older file of that name stays as it was. Harmless
 * on a tm_out that is closed or all zeros. */
void tm_out_abandon(tm_out *out);

/* The whole of a small text file in one call. */
int tm_write_text(const char *path, const char *text, kv_error *err);

/* From now on SIGINT, SIGTERM and SIGHUP remove unfinished files before they end the program (those
 * that were ignored stay so). For main() only: a library does not take a program's signals. */
void tm_out_clean_up_on_signals(void);

/* Reads a whole file, or a pipe until its end. *data is *n bytes from malloc with a NUL
 * behind them (not counted); the caller frees it. An empty file is no error here (n = 0). */
int tm_read_file(char **data, size_t *n, const char *path, kv_error *err);

/* Returns KV_OK if the n bytes are UTF-8 as RFC 3629 defines it (no surrogates, no overlong
 * forms, nothing above U+10FFFF), else KV_FAIL_RUN and in *bad_offset (may be NULL) the
 * offset of the first byte of the first bad sequence. Empty text and NUL bytes are UTF-8. */
int tm_check_utf8(const char *text, size_t n, size_t *bad_offset);

/* Writes n bytes of anything into out (capacity bytes, always ended by NUL) so that they can stand
 * in a message: control characters escaped, bytes that are not UTF-8 as '?', "..." at the end
 * where it was cut. Returns out. capacity must be at least 8. */
char *tm_printable(char *out, size_t capacity, const char *bytes, size_t n);

#ifdef __cplusplus
}
#endif

#endif
