//@ top: Quantize the groups of an array
/* kv_quantize on the device, for checks and experiments: one thread a group,
 * codes in bytes. Caches are filled by append.cu, with the same arithmetic. */
#include "quantize.cuh"

enum { BLOCK = 128 };

//@ array: Describe an array and its groups
/* As kv_grouping: n elements, `stride` apart; per token a kept one leaves
 * nothing of its groups. */
struct Array {
    uint8_t *codes;
    uint16_t *scale, *min;
    const float *x;
    const uint8_t *kept;
    int T, row, length, across, per_token, bits, symmetric;
};

struct Group {
    int token, n, stride; /* of the first element; elements, their distance */
    size_t at;            /* index of the first */
};

KV_DEVICE Group group_of(const Array &a, size_t g) {
    int run = int(g / a.across), across = int(g % a.across);
    if (a.per_token)
        return {run, a.length, 1,
                size_t(run) * a.row + size_t(across) * a.length};
    int first = run * a.length;
    return {first, min(a.length, a.T - first), a.row,
            size_t(first) * a.row + across};
}

KV_DEVICE bool is_kept(const Array &a, const Group &g, int j) {
    return a.kept && a.kept[a.per_token ? g.token : g.token + j];
}

//@ array-kernel: Quantize the groups of an array, one thread each
__global__ void array(Array a, size_t groups, kv_fault *fault) {
    size_t i = size_t(blockIdx.x) * BLOCK + threadIdx.x;
    if (i >= groups)
        return;
    Group g = group_of(a, i);
    Range r = no_range();
    for (int j = 0; j < g.n; j++) {
        size_t at = g.at + size_t(j) * g.stride;
        float x = checked(a.x[at], at, fault);
        if (!is_kept(a, g, j))
            extend(r, x);
    }
    Scale s = scale_of(r, a.bits, a.symmetric);
    a.scale[i] = s.scale;
    a.min[i] = s.min;
    for (int j = 0; j < g.n; j++) {
        size_t at = g.at + size_t(j) * g.stride;
        int code = code_of(a.x[at], s.s, s.m, a.bits, a.symmetric);
        a.codes[at] = uint8_t(is_kept(a, g, j) ? 0 : code);
    }
}

//@ array-check: Refuse an array's format
static int check_array(const kv_format *f, kv_shape s, int T, kv_error *err) {
    const char *what = "quantize";
    const kv_size size[] = {{"the number of tokens", T, 0},
                            {"the number of KV heads", s.kv_heads, 1},
                            {"the head size", s.head_size, 1}};
    bool bits = f->bits == 2 || f->bits == 3 || f->bits == 4 || f->bits == 8;
    if (f->kind != KV_INT || !bits || f->hadamard || f->norm ||
        f->is_static || f->sparse || f->kivi || f->exclusion)
        return kv_refuse(err, KV_FAIL_USAGE, "%s: the device quantizes to "
                         "plain integers of 2, 3, 4 or 8 bits", what);
    if (kv_check_sizes(what, size, 3, err))
        return KV_FAIL_USAGE;
    if (f->group < 0 || f->group > 1 << 20)
        return kv_refuse(err, KV_FAIL_USAGE, "%s: a group of %d; expected 1 to "
                         "1048576, or 0 for all", what, f->group);
    if (f->axis == KV_PER_TOKEN && f->group && s.head_size % f->group)
        return kv_refuse(err, KV_FAIL_USAGE, "%s: a group of %d channels does "
                         "not divide the head size %d", what, f->group,
                         s.head_size);
    return KV_OK;
}

//@ array-launcher: Work out the groups and start
extern "C" int kv_cuda_quantize(uint8_t *codes, uint16_t *scale, uint16_t *min,
                                const float *x, const uint8_t *kept,
                                const kv_format *f, kv_shape s, int T,
                                kv_fault *fault, kv_error *err) {
    const char *what = "quantize";
    if (kv_check_pointer(what, "the format", f, alignof(kv_format), err) ||
        check_array(f, s, T, err))
        return KV_FAIL_USAGE;
    if (T == 0)
        return KV_OK;
    if (kv_check_pointer(what, "codes", codes, 1, err) ||
        kv_check_pointer(what, "scale", scale, 2, err) ||
        kv_check_pointer(what, "min", min, 2, err) ||
        kv_check_pointer(what, "x", x, 4, err) ||
        kv_check_pointer(what, "fault", fault, 8, err))
        return KV_FAIL_USAGE;
    long long row = (long long)s.kv_heads * s.head_size;
    bool per_token = f->axis == KV_PER_TOKEN;
    long long length = f->group ? f->group : per_token ? row : T;
    long long across = per_token ? row / length : row;
    long long runs = per_token ? T : (T + length - 1) / length;
    if (row > KV_INDEX_MAX || runs * across > KV_INDEX_MAX)
        return kv_refuse(err, KV_FAIL_USAGE, "%s: %lld groups in rows of %lld; "
                         "at most %d of each", what, runs * across, row,
                         KV_INDEX_MAX);
    Array a = {codes, scale, min, x, kept, T, int(row), int(length),
               int(across), per_token, f->bits, f->symmetric};
    array<<<kv_blocks(runs * across, BLOCK), BLOCK>>>(a, runs * across, fault);
    return kv_launched(what, err);
}
