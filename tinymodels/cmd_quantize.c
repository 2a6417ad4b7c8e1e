/* kvsink quantize: what a format does to an array, for whoever writes a quantizer of their own. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "analysis.h"
#include "commands.h"
#include "npy.h"
#include "session.h"

typedef struct {
    const char *path; /* of the input */
    npy_array in;
    int T;
    kv_shape shape;
    kv_format format;
    kv_keep_rule keep;
    uint8_t *kept, *codes;
    uint16_t *scale, *min;
    float *dequant, *norm;
    kv_entry *sparse;
    size_t groups, entries;
} job;

/* Rules that need a model have no meaning for a bare array. */
static int read_arguments(job *j, const char *format, const char *keep, kv_error *err)
{
    if (kv_format_parse(&j->format, format, err)) return err->code;
    if (kv_keep_parse(&j->keep, keep, err)) return err->code;
    if (j->keep.kind != KV_KEEP_NONE && j->keep.kind != KV_KEEP_FIRST &&
        j->keep.kind != KV_KEEP_POSITIONS)
        return kv_fail(err, KV_FAIL_USAGE, "--keep: found '%.100s', which needs a model; expected "
                       "none, first:N or positions:A,B,...", keep);
    if (j->keep.layers != KV_LAYERS_ALL || j->keep.decode)
        return kv_fail(err, KV_FAIL_USAGE, "--keep: found '%.100s'; an array has no layers and no "
                       "generated tokens, so leave out what follows '/' and '+'", keep);
    return KV_OK;
}

static int read_array(job *j, const char *path, kv_error *err)
{
    if (npy_read(&j->in, path, err)) return err->code;
    if (j->in.n_dims != 3)
        return kv_fail(err, KV_FAIL_RUN,
                       "%s: an array of %d dimensions; expected 3: tokens, KV heads, "
                       "head size",
                       path, j->in.n_dims);
    if (j->in.elements == 0 || j->in.elements > INT32_MAX)
        return kv_fail(err, KV_FAIL_RUN, "%s: the array has %zu elements; expected 1 to %d", path,
                       j->in.elements, INT32_MAX);
    j->T = (int)j->in.dims[0];
    j->shape.heads = j->shape.kv_heads = (int)j->in.dims[1];
    j->shape.head_size = (int)j->in.dims[2];
    return kv_format_check(&j->format, j->shape, 0, err);
}

/* The keep rule as a flag for each token: one imaginary layer. */
static int mark_kept(job *j, kv_error *err)
{
    kv_keep keep;
    j->kept = calloc((size_t)j->T, 1);
    if (!j->kept) return kv_fail(err, KV_FAIL_RUN, "not enough memory");
    if (tm_keep_init(&keep, 1, j->T, err)) return err->code;
    int code = tm_keep_build(&keep, NULL, &j->keep, NULL, j->T, NULL, NULL, err);
    for (int i = 0; code == KV_OK && i < keep.count[0]; i++) j->kept[keep.position[i]] = 1;
    tm_keep_free(&keep);
    return code;
}

static int quantize(job *j, const char *path, kv_error *err)
{
    int kept = 0;
    if (kv_check_finite(j->in.data, j->in.elements, path, err)) return err->code;
    j->groups = kv_group_count(&j->format, j->shape, j->T);
    j->codes = calloc(j->in.elements, 1);
    j->scale = calloc(j->groups + 1, sizeof *j->scale);
    j->min = calloc(j->groups + 1, sizeof *j->min);
    j->dequant = calloc(j->in.elements, sizeof *j->dequant);
    j->norm = calloc((size_t)j->T, sizeof *j->norm);
    for (int t = 0; t < j->T; t++) kept += j->kept[t];
    j->entries = kv_sparse_count(&j->format, j->shape, j->T, kept, 0);
    j->sparse = calloc(j->entries + 1, sizeof *j->sparse);
    if (!j->codes || !j->scale || !j->min || !j->dequant || !j->norm || !j->sparse)
        return kv_fail(err, KV_FAIL_RUN, "not enough memory");
    kv_rows in = {.x = j->in.data, .kept = j->kept, .shape = j->shape, .T = j->T};
    kv_quantized out = {.codes = j->codes, .scale = j->scale, .min = j->min, .x_hat = j->dequant,
                        .norm = j->norm, .sparse = j->sparse};
    if (kv_quantize(&out, &in, &j->format, err)) {
        char text[sizeof err->text];
        memcpy(text, err->text, sizeof text);
        return kv_fail(err, err->code, "%.200s: %.280s", path, text);
    }
    return KV_OK;
}

/* ----------------------------------------------------------------- output */

enum { OUTPUTS = 4 };

static void write_one(tm_out *out, int which, const job *j)
{
    size_t T = (size_t)j->T, Hk = j->in.dims[1], D = j->in.dims[2], G = (size_t)j->format.group;
    size_t all[3] = {T, Hk, D}, groups[3] = {T, Hk, D};
    if (kv_format_blocks(&j->format)) groups[1] = 1, groups[2] = Hk * D / KV_BLOCK;
    else if (j->format.axis == KV_PER_CHANNEL) groups[0] = G ? (T + G - 1) / G : 1;
    else if (G) groups[2] = D / G;
    else groups[1] = groups[2] = 1;
    switch (which) {
    case 0: npy_header(out, "<f4", all, 3); npy_floats(out, j->dequant, j->in.elements); break;
    case 1: npy_header(out, "|u1", all, 3); fwrite(j->codes, 1, j->in.elements, out->f); break;
    case 2: npy_header(out, "<f2", groups, 3); npy_halves(out, j->scale, j->groups); break;
    case 3: npy_header(out, "<f2", groups, 3); npy_halves(out, j->min, j->groups); break;
    }
}

static int is_input(const char *path, const char *input)
{
    struct stat a, b;
    return stat(path, &a) == 0 && stat(input, &b) == 0 && a.st_dev == b.st_dev &&
           a.st_ino == b.st_ino;
}

/* All files or none: every one is complete, and known to be on the disk, before the first gets
 * its name. */
static int write_files(const job *j, const char *folder, int outputs, kv_error *err)
{
    static const char *const name[OUTPUTS] = {"dequant.npy", "codes.npy", "scale.npy", "min.npy"};
    tm_out *out = calloc(OUTPUTS, sizeof *out);
    int code = out ? KV_OK : kv_fail(err, KV_FAIL_RUN, "not enough memory");
    for (int i = 0; i < outputs && code == KV_OK; i++) {
        char path[TM_PATH_MAX];
        if (snprintf(path, sizeof path, "%s/%s", folder, name[i]) >= (int)sizeof path)
            code = kv_fail(err, KV_FAIL_USAGE, "-o: the name of the folder is too long");
        else if (is_input(path, j->path))
            code = kv_fail(err, KV_FAIL_USAGE, "-o %.400s: its %s is the input, which would be "
                           "replaced; name another folder", folder, name[i]);
        else code = tm_out_open(&out[i], path, err);
        if (code) break;
        write_one(&out[i], i, j);
        errno = 0;
        if (fflush(out[i].f) || ferror(out[i].f))
            code = kv_fail(err, KV_FAIL_RUN, "cannot write %.400s: %s; nothing was left there",
                           path, errno ? strerror(errno) : "is the disk full?");
    }
    for (int i = 0; i < outputs && code == KV_OK; i++) code = tm_out_close(&out[i], err);
    for (int i = 0; i < outputs && out; i++) tm_out_abandon(&out[i]);
    free(out);
    return code;
}

static int write_folder(const job *j, const char *folder, int outputs, kv_error *err)
{
    int made = mkdir(folder, 0777) == 0;
    struct stat st;
    if (!made && (errno != EEXIST || stat(folder, &st) != 0))
        return kv_fail(err, KV_FAIL_RUN, "-o %.400s: cannot make this folder: %s", folder,
                       strerror(errno));
    if (!made && !S_ISDIR(st.st_mode))
        return kv_fail(err, KV_FAIL_RUN, "-o %.400s: exists and is not a folder; name another",
                       folder);
    char stale[TM_PATH_MAX];
    snprintf(stale, sizeof stale, "%s/codes.npy", folder);
    if (outputs < OUTPUTS && access(stale, F_OK) == 0)
        return kv_fail(err, KV_FAIL_RUN,
                       "-o %.400s: holds the codes of an earlier run, and this format "
                       "has none; name another folder",
                       folder);
    int code = write_files(j, folder, outputs, err);
    if (code && made) rmdir(folder);
    return code;
}

static void report(const job *j, const cli_common *common, const char *folder, int outputs)
{
    double squares = 0, largest = 0;
    int kept = 0;
    char format[KV_FORMAT_TEXT], bytes[32];
    for (int t = 0; t < j->T; t++) kept += j->kept[t];
    for (size_t i = 0; i < j->in.elements; i++) {
        double d = fabs((double)j->in.data[i] - (double)j->dequant[i]);
        squares += d * d;
        if (d > largest) largest = d;
    }
    double rms = sqrt(squares / (double)j->in.elements);
    kv_format_print(format, sizeof format, &j->format);
    if (common->json) {
        cJSON *root = cJSON_CreateObject();
        cJSON_AddStringToObject(root, "format", format);
        cli_json_add_int(root, "tokens", j->T);
        cli_json_add_int(root, "kv_heads", j->shape.kv_heads);
        cli_json_add_int(root, "head_size", j->shape.head_size);
        cli_json_add_int(root, "groups", (long long)j->groups);
        cJSON *positions = cJSON_AddArrayToObject(root, "kept");
        for (int t = 0; t < j->T; t++)
            if (j->kept[t]) cJSON_AddItemToArray(positions, cJSON_CreateNumber(t));
        cli_json_add_number(root, "rms_error", rms);
        cli_json_add_number(root, "max_error", largest);
        cli_json_add_text(root, "folder", folder, strlen(folder));
        cli_json_print(root);
        return;
    }
    printf("%s: %d tokens, %d KV heads of %d, as %s\n", common->positional, j->T, j->shape.kv_heads,
           j->shape.head_size, format);
    if (j->groups)
        printf("groups    %zu, each with a scale%s\n", j->groups,
               j->format.symmetric ? "" : " and a minimum");
    printf("kept      %d tokens in 16 bits\n", kept);
    printf("error     %.6g root mean square, %.6g at most\n", rms, largest);
    printf("written   %s: %sdequant.npy (%s as float32)\n", folder,
           outputs == OUTPUTS ? "codes.npy, scale.npy, min.npy, " : "",
           cli_bytes(bytes, 4.0 * (double)j->in.elements));
}

int cmd_quantize(int argc, char **argv)
{
    const char *format, *keep, *folder;
    const cli_option options[] = {
        {"--format", CLI_STRING, &format, "FORMAT", NULL, 0, 0,
         "BITS:channel|token:GROUP[:sym], for example 2:channel:32; or f16, bf16, f32"},
        {"--keep", CLI_STRING, &keep, "KEEP", "none", 0, 0,
         "tokens that stay in 16 bits and out of the groups: first:N or positions:A,B,..."},
        {"-o", CLI_STRING, &folder, "DIR", NULL, 0, 0, "folder for the results, made if missing"},
        {0}};
    static const char *const examples[] = {
        "kvsink quantize keys.npy --format 2:channel:32 -o out",
        "kvsink quantize keys.npy --format 2:channel:32 --keep positions:0,17 -o out", NULL};
    const cli_command command = {
        "quantize",
        "Quantize an array of keys or values [tokens, KV heads, head size].",
        "IN.npy",
        0,
        options,
        "Reads float32, float16 or float64 (as float32). Writes to DIR:\n"
        "  codes.npy    uint8 [T,Hk,D]: stored codes, one a byte; 0 for kept tokens\n"
        "  scale.npy    float16: channel:G [ceil(T/G),Hk,D], channel:all [1,Hk,D],\n"
        "  min.npy      token:G [T,Hk,D/G], token:all [T,1,1]; minima are 0 under sym\n"
        "  dequant.npy  float32 [T,Hk,D]: what comes back\n"
        "f16, bf16 and f32 have no codes: dequant.npy only.",
        examples};
    cli_common common;
    kv_error err;
    int status;
    job j = {0};
    if (!cli_parse(&common, &command, argc, argv, &status)) return status;
    if (!format) return cli_say_fail(&command, KV_FAIL_USAGE, "--format is missing");
    if (!folder || !*folder) return cli_say_fail(&command, KV_FAIL_USAGE, "-o DIR is missing");
    j.path = common.positional;
    if (read_arguments(&j, format, keep, &err) || read_array(&j, j.path, &err) ||
        mark_kept(&j, &err) || quantize(&j, j.path, &err) ||
        write_folder(&j, folder, kv_format_coded(&j.format) ? OUTPUTS : 1, &err))
        status = cli_fail(&command, &err);
    else report(&j, &common, folder, kv_format_coded(&j.format) ? OUTPUTS : 1);
    npy_free(&j.in);
    free(j.kept);
    free(j.codes);
    free(j.scale);
    free(j.min);
    free(j.dequant);
    free(j.norm);
    free(j.sparse);
    return status;
}
