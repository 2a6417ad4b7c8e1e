/* Small things that several commands print in the same way. */
#include "report.h"

#include <string.h>

#include "files.h"
#include "profile.h"

tm_engine report_engine(const session *s)
{
    return (tm_engine){s->model, s->backend};
}

char *report_piece(char *buffer, size_t capacity, const session *s, int id)
{
    size_t n;
    const char *bytes = tok_bytes(s->tok, id, &n);
    if (n == 0) bytes = tok_piece(s->tok, id, &n); /* a control token stands for no text */
    buffer[0] = '\'';
    tm_printable(buffer + 1, capacity - 2, bytes, n);
    strcat(buffer, "'");
    return buffer;
}

/* Bytes above 127 become one '?' a character. */
char *report_piece_plain(char *buffer, size_t capacity, const session *s, int id)
{
    char *to = report_piece(buffer, capacity, s, id);
    for (const char *from = buffer; *from; from++) {
        unsigned char c = (unsigned char)*from;
        if (c < 0x80) *to++ = *from;
        else if (c >= 0xC0) *to++ = '?';
    }
    *to = 0;
    return buffer;
}

int report_profile(kv_profile *p, const session *s, const char *path, kv_error *err)
{
    int other_hash;
    if (tm_profile_read(p, path, err)) return err->code;
    if (tm_profile_check(p, s->model, s->weights->hash, &other_hash, path, err)) {
        tm_profile_free(p);
        return err->code;
    }
    if (other_hash)
        cli_warn("%s was made from other weights of these sizes (another weight format, or another"
                 " model)", path);
    return KV_OK;
}

void report_add_token(cJSON *object, const session *s, const int *ids, int position)
{
    size_t n;
    const char *bytes = tok_bytes(s->tok, ids[position], &n);
    if (n == 0) bytes = tok_piece(s->tok, ids[position], &n);
    cli_json_add_int(object, "position", position);
    cli_json_add_int(object, "id", ids[position]);
    cli_json_add_text(object, "piece", bytes, n);
}

cJSON *report_doubles(const double *x, int n)
{
    return cJSON_CreateDoubleArray(x, n);
}

cJSON *report_floats(const float *x, int n)
{
    cJSON *array = cJSON_CreateArray();
    for (int i = 0; i < n; i++) cJSON_AddItemToArray(array, cJSON_CreateNumber(x[i]));
    return array;
}

void report_progress(void *label, double done, double total)
{
    cli_progress(done, total, label);
}
