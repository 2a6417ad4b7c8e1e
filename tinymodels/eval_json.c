/* Results of evaluations as JSON, see eval_json.h. */
#include "eval_json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The fields of a window and of an octave, by their names in the file. */
static const struct {
    const char *name;
    size_t offset;
} column[] = {{"loss16", offsetof(tm_eval_window, loss16)},
              {"loss", offsetof(tm_eval_window, loss)}, {"kl", offsetof(tm_eval_window, kl)},
              {"top1", offsetof(tm_eval_window, top1)},
              {"bytes", offsetof(tm_eval_window, bytes)}, {"kept", offsetof(tm_eval_window, kept)}},
  number[] = {{"ppl16", offsetof(tm_eval_result, ppl16)}, {"ppl", offsetof(tm_eval_result, ppl)},
              {"kl", offsetof(tm_eval_result, kl)},
              {"kl_error", offsetof(tm_eval_result, kl_error)},
              {"loss", offsetof(tm_eval_result, loss)},
              {"loss_error", offsetof(tm_eval_result, loss_error)},
              {"top1", offsetof(tm_eval_result, top1)},
              {"top1_error", offsetof(tm_eval_result, top1_error)},
              {"bits", offsetof(tm_eval_result, bits)}, {"bytes", offsetof(tm_eval_result, bytes)},
              {"bytes16", offsetof(tm_eval_result, bytes16)},
              {"kept", offsetof(tm_eval_result, kept)}},
  error[] = {{"keys", offsetof(tm_layer_error, keys)}, {"values", offsetof(tm_layer_error, values)},
             {"attention", offsetof(tm_layer_error, attention)}};
enum { COLUMNS = sizeof column / sizeof *column, NUMBERS = sizeof number / sizeof *number,
       ERRORS = sizeof error / sizeof *error };

/* ---------------------------------------------------------------- writing */

/* Nine digits are more than any of these is worth, and half the file. */
static cJSON *nine_digits(double x)
{
    char text[40];
    if (!isfinite(x)) return cJSON_CreateNull();
    snprintf(text, sizeof text, "%.9g", x);
    return cJSON_CreateRaw(text);
}

static void add_column(cJSON *to, const char *name, const tm_eval_window *each, int n,
                       size_t offset)
{
    cJSON *array = cJSON_AddArrayToObject(to, name);
    for (int i = 0; i < n; i++) {
        const char *at = (const char *)&each[i] + offset;
        cJSON_AddItemToArray(array, nine_digits(*(const double *)at));
    }
}

static void add_octaves(cJSON *to, const tm_eval_result *r)
{
    cJSON *array = cJSON_AddArrayToObject(to, "octaves");
    for (int o = 0; o < TM_OCTAVES; o++) {
        if (!r->octave[o].tokens) continue;
        cJSON *row = cJSON_CreateObject();
        cli_json_add_int(row, "octave", o);
        cli_json_add_int(row, "tokens", r->octave[o].tokens);
        cJSON_AddItemToObject(row, "loss16", nine_digits(r->octave[o].loss16));
        cJSON_AddItemToObject(row, "loss", nine_digits(r->octave[o].loss));
        cJSON_AddItemToObject(row, "kl", nine_digits(r->octave[o].kl));
        cJSON_AddItemToArray(array, row);
    }
}

static cJSON *kinds(const double *x)
{
    cJSON *array = cJSON_CreateArray();
    for (int i = 0; i < TM_TOKEN_KINDS; i++) cJSON_AddItemToArray(array, nine_digits(x[i]));
    return array;
}

/* Per layer [at sinks, elsewhere]. */
static void add_layers(cJSON *to, const tm_eval_result *r, const tm_layer_error *layer, int n)
{
    cJSON *layers = cJSON_AddObjectToObject(to, "layers");
    for (int i = 0; i < ERRORS; i++) {
        cJSON *array = cJSON_AddArrayToObject(layers, error[i].name);
        for (int l = 0; l < n; l++) {
            const char *at = (const char *)&layer[l] + error[i].offset;
            cJSON_AddItemToArray(array, kinds((const double *)at));
        }
    }
    cJSON_AddItemToObject(to, "logits_error", kinds(r->logits_error));
}

void eval_json_add(cJSON *to, const eval_record *r)
{
    cli_json_add_int(to, "windows", r->r.windows);
    cli_json_add_int(to, "tokens", r->r.tokens);
    for (int i = 0; i < NUMBERS; i++)
        cli_json_add_number(to, number[i].name,
                            *(const double *)((const char *)&r->r + number[i].offset));
    cli_json_add_int(to, "capped", r->r.capped);
    cJSON *each = cJSON_AddObjectToObject(to, "each");
    for (int i = 0; i < COLUMNS; i++)
        add_column(each, column[i].name, r->each, r->r.windows, column[i].offset);
    add_octaves(to, &r->r);
    if (r->layers) add_layers(to, &r->r, r->layer, r->layers);
}

/* ---------------------------------------------------------------- reading */

double eval_json_number(const cJSON *object, const char *name, int *ok)
{
    const cJSON *x = cJSON_GetObjectItemCaseSensitive(object, name);
    if (!cJSON_IsNumber(x)) *ok = 0;
    return cJSON_IsNumber(x) ? x->valuedouble : 0;
}

/* An array of n; NULL and *ok = 0 if it is not that. */
static const cJSON *array_of(const cJSON *object, const char *name, int n, int *ok)
{
    const cJSON *x = cJSON_GetObjectItemCaseSensitive(object, name);
    if (cJSON_IsArray(x) && (n < 0 || cJSON_GetArraySize(x) == n)) return x;
    *ok = 0;
    return NULL;
}

static void read_each(eval_record *r, const cJSON *root, int *ok)
{
    const cJSON *each = cJSON_GetObjectItemCaseSensitive(root, "each"), *x;
    r->each = calloc((size_t)r->r.windows + 1, sizeof *r->each);
    if (!r->each) *ok = 0;
    for (int i = 0; i < COLUMNS && *ok; i++) {
        int w = 0;
        const cJSON *array = array_of(each, column[i].name, r->r.windows, ok);
        cJSON_ArrayForEach(x, array)
            *(double *)((char *)&r->each[w++] + column[i].offset) = x->valuedouble;
    }
}

static void read_octaves(tm_eval_result *r, const cJSON *root, int *ok)
{
    const cJSON *row;
    cJSON_ArrayForEach(row, array_of(root, "octaves", -1, ok)) {
        int o = (int)eval_json_number(row, "octave", ok);
        if (o < 0 || o >= TM_OCTAVES) continue;
        r->octave[o].tokens = (long long)eval_json_number(row, "tokens", ok);
        r->octave[o].loss16 = eval_json_number(row, "loss16", ok);
        r->octave[o].loss = eval_json_number(row, "loss", ok);
        r->octave[o].kl = eval_json_number(row, "kl", ok);
    }
}

static void read_kinds(double *to, const cJSON *pair)
{
    for (int i = 0; i < TM_TOKEN_KINDS; i++) {
        const cJSON *x = cJSON_GetArrayItem(pair, i);
        to[i] = x ? x->valuedouble : 0;
    }
}

static void read_layers(eval_record *r, const cJSON *root, int *ok)
{
    const cJSON *layers = cJSON_GetObjectItemCaseSensitive(root, "layers"), *x;
    if (!layers) return;
    r->layers = cJSON_GetArraySize(array_of(layers, "keys", -1, ok));
    r->layer = calloc((size_t)r->layers + 1, sizeof *r->layer);
    for (int i = 0; i < ERRORS && r->layer; i++) {
        int l = 0;
        cJSON_ArrayForEach(x, array_of(layers, error[i].name, r->layers, ok))
            read_kinds((double *)((char *)&r->layer[l++] + error[i].offset), x);
    }
    read_kinds(r->r.logits_error, array_of(root, "logits_error", TM_TOKEN_KINDS, ok));
}

int eval_json_read(eval_record *r, const cJSON *root)
{
    int ok = 1;
    memset(r, 0, sizeof *r);
    r->r.windows = (int)eval_json_number(root, "windows", &ok);
    r->r.tokens = (long long)eval_json_number(root, "tokens", &ok);
    for (int i = 0; i < NUMBERS; i++)
        *(double *)((char *)&r->r + number[i].offset) = eval_json_number(root, number[i].name, &ok);
    r->r.capped = (int)eval_json_number(root, "capped", &ok);
    if (ok) read_each(r, root, &ok);
    if (ok) read_octaves(&r->r, root, &ok);
    if (ok) read_layers(r, root, &ok);
    return ok;
}

int eval_record_init(eval_record *r, int windows, int layers, int ctx, kv_error *err)
{
    memset(r, 0, sizeof *r);
    r->layers = layers;
    r->each = calloc((size_t)windows + 1, sizeof *r->each);
    r->layer = layers ? calloc((size_t)layers, sizeof *r->layer) : NULL;
    r->mark = calloc((size_t)ctx + 1, sizeof *r->mark);
    if (r->each && r->mark && (r->layer || !layers)) return KV_OK;
    return kv_fail(err, KV_FAIL_RUN, "not enough memory for the results of %d windows", windows);
}

void eval_record_free(eval_record *r)
{
    free(r->each);
    free(r->layer);
    free(r->mark);
    memset(r, 0, sizeof *r);
}
