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
#include "profile.h"
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
    uint8_t *blocks;
    size_t groups, entries, block_bytes;
    int is_values, layer; /* layer: of the profile, or -1 */
    kv_profile profile;
    kv_limits limits;
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
    return kv_format_check(&j->format, j->shape, j->is_values, err);
}

/* The constants of a static format. */
static int read_limits(job *j, const char *path, kv_error *err)
{
    int row = j->shape.kv_heads * j->shape.head_size;
    if (!j->format.is_static) return KV_OK;
    if (!path || j->layer < 0)
        return kv_fail(err, KV_FAIL_USAGE, "a static format needs --profile F, which 'kvsink calibrate"
                       " --static' writes, and --layer L, whose ranges to use");
    if (tm_profile_read(&j->profile, path, err) ||
        kv_profile_limits(&j->limits, &j->profile, &j->format, j->is_values, err)) return err->code;
    if (j->layer >= j->profile.layers)
        return kv_fail(err, KV_FAIL_USAGE, "--layer %d: the profile has layers 0 to %d", j->layer,
                       j->profile.layers - 1);
    if (j->profile.range_row != row)
        return kv_fail(err, KV_FAIL_RUN, "%.200s: its static ranges are for %d channels; %.200s has"
                       " %d (KV heads times head size)", path, j->profile.range_row, j->path, row);
    j->limits.lo += (size_t)j->layer * (size_t)row;
    j->limits.hi += (size_t)j->layer * (size_t)row;
    return KV_OK;
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

/* llama.cpp's kinds as a cache holds them; a kept token's blocks are zero. */
static int pack_blocks(job *j, kv_error *err)
{
    if (!kv_format_blocks(&j->format)) return KV_OK;
    size_t bytes = (size_t)kv_block_bytes(j->format.kind), across = j->groups / (size_t)j->T;
    j->block_bytes = bytes;
    j->blocks = calloc(j->groups, bytes);
    if (!j->blocks) return kv_fail(err, KV_FAIL_RUN, "not enough memory");
    for (size_t i = 0; i < j->groups; i++)
        if (!j->kept[i / across] || j->format.exclusion == KV_KEPT_EXCLUDE_ONLY)
            kv_block_pack(j->blocks + i * bytes, j->codes + i * KV_BLOCK, j->scale[i], j->min[i],
                          j->format.kind);
    return KV_OK;
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
    j->entries = kv_sparse_count(&j->format, j->shape, j->T, kept, j->is_values);
    j->sparse = calloc(j->entries + 1, sizeof *j->sparse);
    if (!j->codes || !j->scale || !j->min || !j->dequant || !j->norm || !j->sparse)
        return kv_fail(err, KV_FAIL_RUN, "not enough memory");
    kv_rows in = {.x = j->in.data, .kept = j->kept, .shape = j->shape, .T = j->T,
                  .is_values = j->is_values, .lo = j->limits.lo, .hi = j->limits.hi};
    kv_quantized out = {.codes = j->codes, .scale = j->scale, .min = j->min, .x_hat = j->dequant,
                        .norm = j->norm, .sparse = j->sparse};
    if (kv_quantize(&out, &in, &j->format, err)) {
        char text[sizeof err->text];
        memcpy(text, err->text, sizeof text);
        return kv_fail(err, err->code, "%.200s: %.280s", path, text);
    }
    return pack_blocks(j, err);
}

/* ----------------------------------------------------------------- output */

enum { DEQUANT, CODES, SCALE, MIN, NORM, SPARSE_VALUE, SPARSE_INDEX, BLOCKS, OUTPUTS };
static const char *const output_name[OUTPUTS] = {"dequant.npy", "codes.npy", "scale.npy", "min.npy",
                                                 "norm.npy", "sparse_value.npy",
                                                 "sparse_index.npy", "blocks.npy"};

static int has_output(const job *j, int which)
{
    const kv_format *f = &j->format;
    switch (which) {
    case DEQUANT: return 1;
    case NORM: return f->norm;
    case SPARSE_VALUE: case SPARSE_INDEX: return f->sparse;
    case BLOCKS: return kv_format_blocks(f);
    default: return kv_format_coded(f);
    }
}

static void write_sparse(tm_out *out, int which, const job *j)
{
    size_t Hk = j->in.dims[1], D = j->in.dims[2];
    size_t each = 2 * (size_t)kv_outliers_each(&j->format, (int)(Hk * D)), dims[3] = {Hk, D, 0};
    dims[2] = j->entries / (Hk * D);
    if (j->is_values) {
        dims[0] = each ? j->entries / each : 0;
        dims[1] = each;
    }
    npy_header(out, which == SPARSE_VALUE ? "<f2" : "<u2", dims, j->is_values ? 2 : 3);
    for (size_t i = 0; i < j->entries; i++)
        npy_halves(out, which == SPARSE_VALUE ? &j->sparse[i].value : &j->sparse[i].index, 1);
}

static void write_one(tm_out *out, int which, const job *j)
{
    size_t T = (size_t)j->T, Hk = j->in.dims[1], D = j->in.dims[2], G = (size_t)j->format.group;
    size_t all[3] = {T, Hk, D}, groups[3] = {T, Hk, D};
    int blocks = kv_format_blocks(&j->format), dims = blocks ? 2 : 3;
    if (blocks) groups[1] = Hk * D / KV_BLOCK, groups[2] = j->block_bytes;
    else if (j->format.axis == KV_PER_CHANNEL) groups[0] = G ? (T + G - 1) / G : 1;
    else if (G) groups[2] = D / G;
    else groups[1] = groups[2] = 1;
    switch (which) {
    case DEQUANT: npy_header(out, "<f4", all, 3); npy_floats(out, j->dequant, j->in.elements); break;
    case CODES: npy_header(out, "|u1", all, 3); fwrite(j->codes, 1, j->in.elements, out->f); break;
    case SCALE: npy_header(out, "<f2", groups, dims); npy_halves(out, j->scale, j->groups); break;
    case MIN: npy_header(out, "<f2", groups, dims); npy_halves(out, j->min, j->groups); break;
    case NORM: npy_header(out, "<f4", &T, 1); npy_floats(out, j->norm, T); break;
    case BLOCKS:
        npy_header(out, "|u1", groups, 3);
        fwrite(j->blocks, j->block_bytes, j->groups, out->f);
        break;
    default: write_sparse(out, which, j);
    }
}

static int is_input(const char *path, const char *input)
{
    struct stat a, b;
    return stat(path, &a) == 0 && stat(input, &b) == 0 && a.st_dev == b.st_dev &&
           a.st_ino == b.st_ino;
}

/* Opens one file and writes it, under a name for the time being. */
static int open_one(tm_out *out, int which, const job *j, const char *folder, kv_error *err)
{
    char path[TM_PATH_MAX];
    if (snprintf(path, sizeof path, "%s/%s", folder, output_name[which]) >= (int)sizeof path)
        return kv_fail(err, KV_FAIL_USAGE, "-o: the name of the folder is too long");
    if (is_input(path, j->path))
        return kv_fail(err, KV_FAIL_USAGE, "-o %.400s: its %s is the input, which would be replaced;"
                       " name another folder", folder, output_name[which]);
    if (tm_out_open(out, path, err)) return err->code;
    write_one(out, which, j);
    errno = 0;
    if (fflush(out->f) || ferror(out->f))
        return kv_fail(err, KV_FAIL_RUN, "cannot write %.400s: %s; nothing was left there", path,
                       errno ? strerror(errno) : "is the disk full?");
    return KV_OK;
}

/* All files or none: every one is complete, and known to be on the disk, before the first gets
 * its name. */
static int write_files(const job *j, const char *folder, kv_error *err)
{
    tm_out *out = calloc(OUTPUTS, sizeof *out);
    int code = out ? KV_OK : kv_fail(err, KV_FAIL_RUN, "not enough memory");
    for (int i = 0; i < OUTPUTS && code == KV_OK; i++)
        if (has_output(j, i)) code = open_one(&out[i], i, j, folder, err);
    for (int i = 0; i < OUTPUTS && code == KV_OK; i++)
        if (has_output(j, i)) code = tm_out_close(&out[i], err);
    for (int i = 0; i < OUTPUTS && out; i++) tm_out_abandon(&out[i]);
    free(out);
    return code;
}

static int write_folder(const job *j, const char *folder, kv_error *err)
{
    int made = mkdir(folder, 0777) == 0;
    struct stat st;
    if (!made && (errno != EEXIST || stat(folder, &st) != 0))
        return kv_fail(err, KV_FAIL_RUN, "-o %.400s: cannot make this folder: %s", folder,
                       strerror(errno));
    if (!made && !S_ISDIR(st.st_mode))
        return kv_fail(err, KV_FAIL_RUN, "-o %.400s: exists and is not a folder; name another",
                       folder);
    for (int i = 0; i < OUTPUTS; i++) {
        char stale[TM_PATH_MAX];
        snprintf(stale, sizeof stale, "%s/%s", folder, output_name[i]);
        if (!has_output(j, i) && access(stale, F_OK) == 0)
            return kv_fail(err, KV_FAIL_RUN, "-o %.400s: holds the %s of an earlier run, and this"
                           " format has none; name another folder", folder, output_name[i]);
    }
    int code = write_files(j, folder, err);
    if (code && made) rmdir(folder);
    return code;
}

static void report(const job *j, const cli_common *common, const char *folder)
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
        cli_json_add_int(root, "outliers", (long long)j->entries);
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
               kv_format_has_min(&j->format) ? " and a minimum" : "");
    if (j->format.sparse) printf("outliers  %zu\n", j->entries);
    printf("kept      %d tokens%s\n", kept,
           j->format.exclusion == KV_KEPT_EXCLUDE_ONLY ? ", in codes" : " in 16 bits");
    printf("error     %.6g root mean square, %.6g at most\n", rms, largest);
    printf("written   %s:", folder);
    for (int i = OUTPUTS - 1; i >= 0; i--)
        if (has_output(j, i)) printf(" %s%s", output_name[i], i ? "," : "");
    printf(" (%s as float32)\n", cli_bytes(bytes, 4.0 * (double)j->in.elements));
}

int cmd_quantize(int argc, char **argv)
{
    const char *format, *keep, *folder, *profile;
    int side, layer, overwrite, exclude_only;
    const cli_option options[] = {
        {"--format", CLI_STRING, &format, "FORMAT", NULL, 0, 0, "how to store them, see below"},
        {"--side", CLI_CHOICE, &side, "keys|values", "keys", 0, 0,
         "what the array holds: outP counts along tokens or channels; pre is for keys"},
        {"--keep", CLI_STRING, &keep, "KEEP", "none", 0, 0,
         "tokens that stay in 16 bits and out of the groups: first:N or positions:A,B,..."},
        {"--overwrite", CLI_FLAG, &overwrite, NULL, NULL, 0, 0,
         "kept tokens stay in the statistics of their groups: the common mistake"},
        {"--exclude-only", CLI_FLAG, &exclude_only, NULL, NULL, 0, 0,
         "kept tokens leave the statistics but are coded, not kept in 16 bits"},
        {"--profile", CLI_STRING, &profile, "F", NULL, 0, 0,
         "for static formats: what kvsink calibrate --static wrote"},
        {"--layer", CLI_INT, &layer, "L", "(none)", 0, 1 << 20,
         "for static formats: the layer whose ranges to use"},
        {"-o", CLI_STRING, &folder, "DIR", NULL, 0, 0, "folder for the results, made if missing"},
        {0}};
    static const char *const examples[] = {
        "kvsink quantize keys.npy --format 2:channel:32 -o out",
        "kvsink quantize keys.npy --format 2:channel:32 --keep positions:0,17 -o out",
        "kvsink quantize values.npy --format 2:token:32:out1 --side values -o out", NULL};
    const cli_command command = {
        "quantize",
        "Quantize an array of keys or values [tokens, KV heads, head size].",
        "IN.npy",
        0,
        options,
        "Reads float32, float16 or float64 (as float32). Writes to DIR:\n"
        "  codes.npy    uint8 [T,Hk,D]: stored codes, one a byte; 0 for kept tokens\n"
        "  scale.npy    float16: channel:G [ceil(T/G),Hk,D], channel:all [1,Hk,D],\n"
        "  min.npy      token:G [T,Hk,D/G], token:all [T,1,1], blocks [T,Hk*D/32];\n"
        "               minima are 0 where a format has none\n"
        "  dequant.npy  float32 [T,Hk,D]: what comes back\n"
        "  norm.npy     norm: float32 [T], 0 for kept tokens\n"
        "  sparse_value.npy, sparse_index.npy   outP: float16 and uint16, ascending by\n"
        "               index; keys [Hk,D,N] (index: token), values [tokens that are not\n"
        "               kept,N] (index: channel within the row)\n"
        "  blocks.npy   q4_0 and its like: uint8 [T,Hk*D/32,bytes], as llama.cpp has them\n"
        "f16, bf16 and f32 have no codes: dequant.npy only. pre changes nothing here.\n"
        "\n" CLI_FORMAT_HELP,
        examples};
    cli_common common;
    kv_error err;
    int status;
    job j = {0};
    if (!cli_parse(&common, &command, argc, argv, &status)) return status;
    if (!format) return cli_say_fail(&command, KV_FAIL_USAGE, "--format is missing");
    if (!folder || !*folder) return cli_say_fail(&command, KV_FAIL_USAGE, "-o DIR is missing");
    if (overwrite && exclude_only)
        return cli_say_fail(&command, KV_FAIL_USAGE, "--overwrite and --exclude-only are opposites;"
                            " give one of them, or neither");
    j.path = common.positional;
    j.is_values = side;
    j.layer = cli_given("--layer") ? layer : -1;
    int code = read_arguments(&j, format, keep, &err);
    j.format.exclusion = overwrite ? KV_KEPT_OVERWRITE
                                   : exclude_only ? KV_KEPT_EXCLUDE_ONLY : KV_KEPT_BOTH;
    if (code || read_array(&j, j.path, &err) || read_limits(&j, profile, &err) ||
        mark_kept(&j, &err) || quantize(&j, j.path, &err) || write_folder(&j, folder, &err))
        status = cli_fail(&command, &err);
    else report(&j, &common, folder);
    npy_free(&j.in);
    free(j.kept);
    free(j.codes);
    free(j.scale);
    free(j.min);
    free(j.dequant);
    free(j.norm);
    free(j.sparse);
    free(j.blocks);
    tm_profile_free(&j.profile);
    return status;
}
