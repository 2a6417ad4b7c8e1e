/* Files: write them whole or not at all, read them whole, check their text.
 * files.h says what each function promises; here is how.
 *
 * The unfinished file lies in the same folder as the final one, because a
 * rename is atomic only within one file system. We do not fsync: a power cut
 * may lose the last file, which the user can make again; a crash or a kill of this
 * program cannot produce a half one. Names of unfinished files are remembered, so
 * that a program that is told to stop can remove them. */
#define _XOPEN_SOURCE 700 /* realpath, lstat; includes POSIX 2008 */

#include "files.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int starts_with(const char *s, const char *prefix)
{
    return strncmp(s, prefix, strlen(prefix)) == 0;
}

/* /dev/stdout and its kin look like regular files when a shell has redirected them, but belong to
 * whoever opened them: they are never renamed over. */
static int is_descriptor(const char *path)
{
    return starts_with(path, "/dev/std") || starts_with(path, "/dev/fd/") ||
           starts_with(path, "/proc/");
}

/* The number in /dev/fd/7 and its kin, -1 in other names. */
static int descriptor_number(const char *path)
{
    if (strcmp(path, "/dev/stdout") == 0) return 1;
    if (strcmp(path, "/dev/stderr") == 0) return 2;
    if (starts_with(path, "/dev/fd/")) path += 8;
    else if (starts_with(path, "/proc/self/fd/")) path += 14;
    else return -1;
    if (!*path || strlen(path) > 4 || path[strspn(path, "0123456789")]) return -1;
    return atoi(path);
}

/* Opened by name, a descriptor that the shell has redirected to a file would be cut to nothing and
 * get a second place to write at; its copy goes on where the other writers are. */
static int open_directly(tm_out *out, const char *path, kv_error *err)
{
    int number = descriptor_number(path), fd = number < 0 ? -1 : dup(number);
    out->f = number < 0 ? fopen(path, "wb") : fd < 0 ? NULL : fdopen(fd, "wb");
    if (!out->f) return kv_fail(err, KV_FAIL_RUN, "cannot write %s: %s", path, strerror(errno));
    return KV_OK;
}

/* Unfinished files of this process. A signal may come at any moment, so a name is complete before
 * its flag is set, and the flag is cleared before the name goes. */
enum { UNFINISHED = 8 };
static char unfinished[UNFINISHED][TM_PATH_MAX + 32];
static volatile sig_atomic_t is_unfinished[UNFINISHED];

static void remember(const char *name)
{
    for (int i = 0; i < UNFINISHED; i++)
        if (!is_unfinished[i]) {
            memcpy(unfinished[i], name, strlen(name) + 1);
            is_unfinished[i] = 1;
            return;
        }
}

static void forget(const char *name)
{
    for (int i = 0; i < UNFINISHED; i++)
        if (is_unfinished[i] && strcmp(unfinished[i], name) == 0) is_unfinished[i] = 0;
}

static void remove_unfinished(int number)
{
    for (int i = 0; i < UNFINISHED; i++)
        if (is_unfinished[i]) unlink(unfinished[i]);
    signal(number, SIG_DFL);
    raise(number);
}

void tm_out_clean_up_on_signals(void)
{
    static const int stops[] = {SIGINT, SIGTERM, SIGHUP};
    for (int i = 0; i < 3; i++)
        if (signal(stops[i], SIG_IGN) != SIG_IGN) signal(stops[i], remove_unfinished);
}

/* Creates the file beside its final name. The process number and a counter keep two runs with the
 * same output apart; O_EXCL makes sure that neither opens the other's file. */
static int open_aside(tm_out *out, mode_t mode, kv_error *err)
{
    int fd = -1;
    for (int i = 0; i < 1000 && fd < 0; i++) {
        snprintf(out->aside, sizeof out->aside, "%s.%ld-%d.part", out->final, (long)getpid(), i);
        fd = open(out->aside, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
        if (fd < 0 && errno != EEXIST) break;
    }
    if (fd < 0)
        return kv_fail(err, KV_FAIL_RUN, "cannot write %s: its folder does not take a new file: %s",
                       out->final, strerror(errno));
    out->f = fdopen(fd, "wb");
    if (!out->f) {
        int why = errno;
        close(fd);
        unlink(out->aside);
        return kv_fail(err, KV_FAIL_RUN, "cannot write %s: %s", out->final, strerror(why));
    }
    remember(out->aside);
    return KV_OK;
}

int tm_out_open(tm_out *out, const char *path, kv_error *err)
{
    memset(out, 0, sizeof *out);
    size_t length = strlen(path);
    if (length == 0) return kv_fail(err, KV_FAIL_USAGE, "the name of the output file is empty");
    if (length >= sizeof out->final)
        return kv_fail(err, KV_FAIL_USAGE, "the name of the output file has %zu bytes; at most %zu",
                       length, sizeof out->final - 1);
    memcpy(out->final, path, length + 1);
    mode_t mode = 0666; /* less the umask */
    struct stat st;
    if (is_descriptor(path)) return open_directly(out, path, err);
    if (stat(path, &st) == 0) {
        if (S_ISDIR(st.st_mode))
            return kv_fail(err, KV_FAIL_RUN, "cannot write %s: it is a folder; name a file", path);
        if (!S_ISREG(st.st_mode)) return open_directly(out, path, err);
        if (access(path, W_OK) != 0)
            return kv_fail(err, KV_FAIL_RUN, "cannot write %s: %s", path, strerror(errno));
        mode = st.st_mode & 0777; /* a replaced file keeps its permissions */
        /* A link stays a link; the file it points to is the one replaced. */
        char *real = realpath(path, NULL);
        if (real && strlen(real) < sizeof out->final) memcpy(out->final, real, strlen(real) + 1);
        free(real);
    }
    return open_aside(out, mode, err);
}

int tm_out_close(tm_out *out, kv_error *err)
{
    if (!out->f) return kv_fail(err, KV_FAIL_RUN, "an output file was closed twice");
    errno = 0;
    int bad = fflush(out->f) != 0 || ferror(out->f);
    int why = errno; /* 0 when the error came earlier: the stream only remembers that it came */
    if (fclose(out->f) != 0 && !bad) {
        bad = 1;
        why = errno;
    }
    out->f = NULL;
    if (!bad && out->aside[0] && rename(out->aside, out->final) != 0) {
        bad = 1;
        why = errno;
    }
    if (bad && out->aside[0]) unlink(out->aside);
    forget(out->aside);
    out->aside[0] = 0;
    if (bad)
        return kv_fail(err, KV_FAIL_RUN, "cannot write %s: %s; nothing was left there", out->final,
                       why ? strerror(why) : "a write failed (is the disk full?)");
    return KV_OK;
}

void tm_out_abandon(tm_out *out)
{
    if (out->f) fclose(out->f);
    out->f = NULL;
    if (out->aside[0]) unlink(out->aside);
    forget(out->aside);
    out->aside[0] = 0;
}

int tm_write_text(const char *path, const char *text, kv_error *err)
{
    tm_out out;
    int bad = tm_out_open(&out, path, err);
    if (bad) return bad;
    fputs(text, out.f);
    return tm_out_close(&out, err);
}

/* Reads f to its end into a growing buffer; a pipe has no size to ask for. */
static int read_all(char **data, size_t *n, FILE *f, size_t guess, const char *path, kv_error *err)
{
    size_t capacity = guess + 1, used = 0;
    char *buffer = malloc(capacity);
    while (buffer) {
        used += fread(buffer + used, 1, capacity - 1 - used, f);
        if (used < capacity - 1 || feof(f)) break;
        int next = getc(f); /* full: is there more? */
        if (next == EOF) break;
        char *larger = capacity <= SIZE_MAX / 2 ? realloc(buffer, capacity * 2) : NULL;
        if (!larger) {
            free(buffer);
            buffer = NULL;
            break;
        }
        buffer = larger;
        capacity *= 2;
        buffer[used++] = (char)next;
    }
    if (!buffer) return kv_fail(err, KV_FAIL_RUN, "%s: not enough memory to read it", path);
    if (ferror(f)) {
        free(buffer);
        return kv_fail(err, KV_FAIL_RUN, "cannot read %s: %s", path, strerror(errno));
    }
    buffer[used] = 0;
    *data = buffer;
    *n = used;
    return KV_OK;
}

int tm_read_file(char **data, size_t *n, const char *path, kv_error *err)
{
    *data = NULL;
    *n = 0;
    FILE *f = fopen(path, "rb");
    struct stat st;
    if (!f || fstat(fileno(f), &st) != 0) {
        int why = errno;
        if (f) fclose(f);
        return kv_fail(err, KV_FAIL_RUN, "cannot read %s: %s", path, strerror(why));
    }
    int code;
    if (S_ISDIR(st.st_mode))
        code = kv_fail(err, KV_FAIL_RUN, "cannot read %s: it is a folder; name a file", path);
    else
        code =
            read_all(data, n, f, S_ISREG(st.st_mode) ? (size_t)st.st_size + 1 : 65536, path, err);
    fclose(f);
    return code;
}

/* Length of the UTF-8 sequence at s (n > 0 bytes are left), 0 if there is none. The second byte
 * carries the narrower limits that shut out overlong forms, surrogates and what is
 * above U+10FFFF (RFC 3629, section 4). */
static size_t utf8_length(const unsigned char *s, size_t n)
{
    unsigned char low = 0x80, high = 0xBF;
    size_t length;
    if (s[0] < 0x80) return 1;
    if (s[0] < 0xC2) return 0;
    if (s[0] < 0xE0)
        length = 2;
    else if (s[0] < 0xF0)
        length = 3;
    else if (s[0] < 0xF5)
        length = 4;
    else
        return 0;
    if (s[0] == 0xE0) low = 0xA0;
    if (s[0] == 0xED) high = 0x9F;
    if (s[0] == 0xF0) low = 0x90;
    if (s[0] == 0xF4) high = 0x8F;
    if (n < length || s[1] < low || s[1] > high) return 0;
    for (size_t i = 2; i < length; i++)
        if ((s[i] & 0xC0) != 0x80) return 0;
    return length;
}

int tm_check_utf8(const char *text, size_t n, size_t *bad_offset)
{
    for (size_t i = 0; i < n;) {
        size_t length = utf8_length((const unsigned char *)text + i, n - i);
        if (length == 0) {
            if (bad_offset) *bad_offset = i;
            return KV_FAIL_RUN;
        }
        i += length;
    }
    return KV_OK;
}

char *tm_printable(char *out, size_t capacity, const char *bytes, size_t n)
{
    size_t used = 0, safe = 0, i = 0; /* safe: as far as the dots would still fit behind */
    while (i < n) {
        const unsigned char *s = (const unsigned char *)bytes + i;
        size_t length = utf8_length(s, n - i);
        char piece[8];
        size_t size = length;
        if (length == 0) {
            piece[0] = '?';
            size = length = 1;
        } else if (s[0] == '\n' || s[0] == '\t') {
            size = (size_t)snprintf(piece, sizeof piece, "\\%c", s[0] == '\n' ? 'n' : 't');
        } else if (s[0] < 0x20 || s[0] == 0x7F) {
            size = (size_t)snprintf(piece, sizeof piece, "\\x%02x", s[0]);
        } else {
            memcpy(piece, s, length);
        }
        if (used + size + 1 > capacity) break;
        memcpy(out + used, piece, size);
        used += size;
        i += length;
        if (used + sizeof "..." <= capacity) safe = used;
    }
    if (i < n) {
        memcpy(out + safe, "...", 3);
        used = safe + 3;
    }
    out[used] = 0;
    return out;
}
