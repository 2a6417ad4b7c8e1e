//@ top: Fill packed caches
/* Rows arrive, some of them stop being recent, and whole groups become codes
 * in the tiles of layout.h (kv_cuda_append). What is recent stays in 16 bits
 * in the window, kept rows go to the side table. Four kernels: note what is
 * kept, quantize keys, quantize values, store rows. The middle two come in
 * versions:
 *
 *   k01  one thread a group, which puts each code into its word by an atomic
 *   k02  one block a unit of 64 or 128 tokens of a head: its rows are staged
 *        in shared memory, and each thread builds whole words of codes
 *   k03  rows are staged with loads of 16 bytes
 *
 * A new row is read once, from where the caller put it; a row that has waited
 * is read from the window. */
#include "append_units.cuh"

#include <vector>

//@ fetch: Bring a sequence's step to a block, once
KV_DEVICE const Step &fetch_step(const Job &job, int s) {
    __shared__ Step step;
    constexpr int words = sizeof(Step) / 4;
    if (threadIdx.x < words)
        reinterpret_cast<int *>(&step)[threadIdx.x] =
            reinterpret_cast<const int *>(&job.step[s])[threadIdx.x];
    __syncthreads();
    return step;
}

//@ k01-element: Put a code into its word by an atomic
KV_DEVICE void put_code(uint8_t *tile, const Side &d, kv_spot spot, int code) {
    uint32_t *codes = reinterpret_cast<uint32_t *>(tile + d.codes);
    if (!kv_is_split(spot, d.bits)) {
        kv_place at = kv_code_place(spot, d.bits);
        atomicOr(&codes[at.word], unsigned(code) << at.bit);
        return;
    }
    for (int k = 0; k < 3; k++) {
        kv_place at = kv_split_place(spot, k);
        atomicOr(&codes[at.word], unsigned(code >> k & 1) << at.bit);
    }
}

//@ k01-keys: Quantize one channel of a group of tokens
KV_DEVICE void one_key_group(const Job &job, const Side &d, int s, int head,
                             int first, int c) {
    const kv_tile &l = job.pool.tile;
    int end = min(first + d.group, d.to);
    uint8_t *tile = find_tile(job, s, head, first / KV_TILE);
    if (!tile)
        return;
    Range r = no_range();
    for (int t = first; t < end; t++)
        if (!is_kept(job.pool, s, t))
            extend(r, element(job, d, s, head, t, c));
    Scale v = scale_of(r, d.bits, d.symmetric);
    put_scale(tile, d, kv_key_param_at(&l, first % KV_TILE, c),
              kv_key_min(&l), v);
    for (int t = first; t < end; t++)
        if (!is_kept(job.pool, s, t))
            put_code(tile, d, kv_key_spot(l.head_size, t % KV_TILE, c),
                     code_of(element(job, d, s, head, t, c), v.s, v.m, d.bits,
                             d.symmetric));
}

//@ k01-values: Quantize some channels of one token
KV_DEVICE void one_value_group(const Job &job, const Side &d, int s, int head,
                               int t, int first) {
    const kv_tile &l = job.pool.tile;
    uint8_t *tile = find_tile(job, s, head, t / KV_TILE);
    if (!tile)
        return;
    bool kept = is_kept(job.pool, s, t);
    Range r = no_range();
    for (int c = first; c < first + d.group && !kept; c++)
        extend(r, element(job, d, s, head, t, c));
    Scale v = scale_of(r, d.bits, d.symmetric);
    put_scale(tile, d, kv_value_param_at(&l, t % KV_TILE, first),
              kv_value_min(&l), v);
    for (int c = first; c < first + d.group && !kept; c++)
        put_code(tile, d, kv_value_spot(l.head_size, t % KV_TILE, c),
                 code_of(element(job, d, s, head, t, c), v.s, v.m, d.bits,
                         d.symmetric));
}

//@ k01: Let one thread quantize a group
/* Grid: groups of a head, heads, sequences. */
template <bool VALUES> __global__ void k01(Job job) {
    int s = blockIdx.z, head = blockIdx.y, D = job.pool.tile.head_size;
    long long i = (long long)blockIdx.x * BLOCK + threadIdx.x;
    Side d = side_of(job, fetch_step(job, s), VALUES);
    if (VALUES) {
        int groups = D / d.group;
        long long t = d.from + i / groups;
        if (t < d.to)
            one_value_group(job, d, s, head, int(t),
                            int(i % groups) * d.group);
    } else {
        long long first = d.from + i / D * d.group;
        if (first < d.to)
            one_key_group(job, d, s, head, int(first), int(i % D));
    }
}

//@ k02: Let a block quantize a unit, staged in shared memory
template <bool VALUES, int BITS>
__global__ void __launch_bounds__(BLOCK, 6) k02(Job job) {
    extern __shared__ __align__(16) uint32_t rows[];
    __shared__ Shared sh;
    Side d = side_of(job, fetch_step(job, blockIdx.z), VALUES);
    Unit u;
    if (!find_unit<VALUES>(job, d, u, sh))
        return;
    int D = job.pool.tile.head_size;
    stage<VALUES>(job, d, u, sh, rows);
    if (VALUES)
        value_scales(d, u, job.pool.tile, sh, rows);
    else
        key_scales(d, u, D, sh, rows);
    build<VALUES, BITS>(d, u, D, sh, rows);
}

//@ k03: Stage 16 bytes at a time
template <bool VALUES, int BITS>
__global__ void __launch_bounds__(BLOCK, 6) k03(Job job) {
    extern __shared__ __align__(16) uint32_t rows[];
    __shared__ Shared sh;
    Side d = side_of(job, fetch_step(job, blockIdx.z), VALUES);
    Unit u;
    if (!find_unit<VALUES>(job, d, u, sh))
        return;
    int D = job.pool.tile.head_size;
    stage_wide<VALUES>(job, d, u, sh, rows);
    if (VALUES)
        value_scales(d, u, job.pool.tile, sh, rows);
    else
        key_scales(d, u, D, sh, rows);
    build<VALUES, BITS>(d, u, D, sh, rows);
}

//@ mark: Note which of the new tokens are kept
/* One block a sequence. Several of them may share a word of holes. */
__global__ void mark(Job job) {
    const kv_pool &p = job.pool;
    int s = blockIdx.x;
    const Step &step = job.step[s];
    for (int i = threadIdx.x; i < step.kept_after - step.kept_before;
         i += BLOCK) {
        int t = job.list[step.list + i];
        size_t at = size_t(s) * p.kept_capacity + step.kept_before + i;
        p.position[at] = t;
        size_t tile = size_t(s) * p.max_tiles + t / KV_TILE;
        atomicOr(&p.holes[tile * 4 + t % KV_TILE / 32], 1u << t % 32);
    }
}

//@ store-eight: Store eight numbers of a row that stays in 16 bits
/* to: row of the side table or of the window; e: element of the row. */
KV_DEVICE void store_eight(const Job &job, const Side &d, uint16_t *rows,
                           size_t to, int t, int e) {
    size_t row = size_t(job.pool.kv_heads) * job.pool.tile.head_size;
    size_t from = size_t(d.first + t - d.before) * row + e;
    *reinterpret_cast<uint4 *>(rows + to * row + e) =
        new_eight(d.x, from, job.is_half, kv_fault(d.at), job.fault);
}

KV_DEVICE void store_kept(const Job &job, const Step &step, int s, int i,
                          int e) {
    const kv_pool &p = job.pool;
    int t = job.list[step.list + i];
    size_t to = size_t(s) * p.kept_capacity + step.kept_before + i;
    store_eight(job, side_of(job, step, false), p.kept_keys, to, t, e);
    store_eight(job, side_of(job, step, true), p.kept_values, to, t, e);
}

KV_DEVICE void store_waiting(const Job &job, const Step &step, int s, int t,
                             int e) {
    const kv_pool &p = job.pool;
    if (is_kept(p, s, t))
        return;
    size_t to = size_t(s) * p.window + t % p.window;
    store_eight(job, side_of(job, step, false), p.window_keys, to, t, e);
    if (t >= step.to_values)
        store_eight(job, side_of(job, step, true), p.window_values, to, t, e);
}

//@ store: Store all such rows, and the lengths
/* First the newly kept rows, then those that wait; keys wait at least as long
 * as values. */
__global__ void store(Job job) {
    const kv_pool &p = job.pool;
    int s = blockIdx.y;
    const Step &step = fetch_step(job, s);
    int each = p.kv_heads * p.tile.head_size / 8;
    long long i = (long long)blockIdx.x * BLOCK + threadIdx.x;
    if (i == 0) {
        p.tokens[s] = step.after;
        p.quantized_keys[s] = step.to_keys;
        p.quantized_values[s] = step.to_values;
        p.kept[s] = step.kept_after;
    }
    int e = int(i % each) * 8, kept = step.kept_after - step.kept_before;
    i /= each;
    if (i < kept)
        store_kept(job, step, s, int(i), e);
    long long t = max(step.before, step.to_keys) + i - kept;
    if (i >= kept && t < step.after)
        store_waiting(job, step, s, int(t), e);
}

//@ keep: Move a token that waits to the kept ones
/* One block. Rows behind its place move up by one, from the last on; each
 * thread does so for columns of its own. */
__global__ void keep(kv_pool p, int s, int token, int kept) {
    size_t first = size_t(s) * p.kept_capacity, each = p.tile.head_size / 8;
    each *= p.kv_heads;
    size_t slot = (size_t(s) * p.window + token % p.window) * each;
    uint4 *k = reinterpret_cast<uint4 *>(p.kept_keys) + first * each;
    uint4 *v = reinterpret_cast<uint4 *>(p.kept_values) + first * each;
    const uint4 *wk = reinterpret_cast<const uint4 *>(p.window_keys) + slot;
    const uint4 *wv = reinterpret_cast<const uint4 *>(p.window_values) + slot;
    int at = 0;
    while (at < kept && p.position[first + at] < token)
        at++;
    for (size_t e = threadIdx.x; e < each; e += BLOCK) {
        for (int i = kept; i > at; i--) {
            k[i * each + e] = k[(i - 1) * each + e];
            v[i * each + e] = v[(i - 1) * each + e];
        }
        k[at * each + e] = wk[e];
        v[at * each + e] = wv[e];
    }
    __syncthreads(); /* all have found the place */
    if (threadIdx.x)
        return;
    for (int i = kept; i > at; i--)
        p.position[first + i] = p.position[first + i - 1];
    p.position[first + at] = token;
    p.kept[s] = kept + 1;
    size_t tile = size_t(s) * p.max_tiles + token / KV_TILE;
    p.holes[tile * 4 + token % KV_TILE / 32] |= 1u << token % 32;
}

//@ plan-bytes: Say how much room a plan takes
static bool makes_sense(const kv_pool *p) {
    return p && p->sequences >= 0 && p->sequences <= 65535 &&
           p->kept_capacity >= 0 && p->kv_heads > 0 && p->kv_heads <= 65535 &&
           p->max_tiles >= 0 && p->max_tiles <= KV_INDEX_MAX / KV_TILE &&
           p->window >= 0;
}

extern "C" size_t kv_cuda_plan_bytes(const kv_pool *p) {
    if (!makes_sense(p))
        return 0;
    return size_t(p->sequences) *
           (sizeof(Step) + size_t(p->kept_capacity) * sizeof(int));
}

//@ check-pool: Refuse a pool that cannot be
static int check_pool(const kv_cuda_cache *c, int version, kv_error *err) {
    const char *what = "append";
    if (!c || !makes_sense(&c->pool) || c->recent < 0)
        return kv_refuse(err, KV_FAIL_USAGE, "%s: a pool has 0 to 65535 "
                         "sequences, 1 to 65535 KV heads, and no negative "
                         "size", what);
    const kv_pool *p = &c->pool;
    if (kv_check_version(what, version, KV_CUDA_APPEND_VERSIONS, err))
        return KV_FAIL_USAGE;
    if (p->sequences == 0)
        return KV_OK;
    const struct { const char *name; const void *p; size_t align; } all[] = {
        {"length", c->length, 4}, {"plan", c->plan, 8},
        {"tiles", p->max_tiles ? p->tiles : (void *)p, 16},
        {"window_keys", p->window ? p->window_keys : (void *)p, 16},
        {"window_values", p->window ? p->window_values : (void *)p, 16},
        {"kept_keys", p->kept_capacity ? p->kept_keys : (void *)p, 16},
        {"kept_values", p->kept_capacity ? p->kept_values : (void *)p, 16},
        {"position", p->kept_capacity ? p->position : (void *)p, 4},
        {"holes", p->kept_capacity ? p->holes : (void *)p, 4},
        {"tokens", p->tokens, 4}, {"quantized_keys", p->quantized_keys, 4},
        {"quantized_values", p->quantized_values, 4}, {"kept", p->kept, 4}};
    for (const auto &a : all)
        if (kv_check_pointer(what, a.name, a.p, a.p == p ? 1 : a.align, err))
            return KV_FAIL_USAGE;
    return KV_OK;
}

//@ check-length: Refuse a sequence that cannot be, or is sealed
static int check_length(const kv_cuda_cache *c, int s, int n, kv_error *err) {
    const kv_length *l = &c->length[s];
    const kv_pool *p = &c->pool;
    int room = p->max_tiles * KV_TILE;
    if (l->tokens < 0 || l->tokens > room || l->quantized_keys < 0 ||
        l->quantized_keys > l->quantized_values ||
        l->quantized_values > l->tokens || l->kept < 0 ||
        l->kept > p->kept_capacity ||
        l->tokens - l->quantized_keys > p->window)
        return kv_refuse(err, KV_FAIL_USAGE, "append: the length of sequence "
                         "%d cannot be", s);
    if (n < 0 || n > room - l->tokens)
        return kv_refuse(err, KV_FAIL_USAGE, "append: sequence %d has room for "
                         "%d tokens; %d are there and %d more do not fit", s,
                         room, l->tokens, n);
    if (l->quantized_keys % p->tile.key_group)
        return kv_refuse(err, KV_FAIL_USAGE, "append: sequence %d is sealed: "
                         "its last group is short and nothing can follow it",
                         s);
    return KV_OK;
}

//@ plan-step: Work out what becomes of a sequence
static int plan_step(Step *t, const kv_cuda_cache *c, int s, int n, int seal,
                     kv_error *err) {
    if (check_length(c, s, n, err))
        return KV_FAIL_USAGE;
    const kv_length *l = &c->length[s];
    int G = c->pool.tile.key_group;
    t->before = l->tokens;
    t->after = l->tokens + n;
    int old = seal ? t->after : t->after - c->recent; /* not recent */
    t->from_keys = l->quantized_keys;
    t->from_values = l->quantized_values;
    t->to_values = old > t->from_values ? old : t->from_values;
    int keys = old > 0 ? (seal ? old : old / G * G) : 0;
    t->to_keys = keys > t->from_keys ? keys : t->from_keys;
    t->kept_before = t->kept_after = l->kept;
    if (t->after - t->to_keys > c->pool.window)
        return kv_refuse(err, KV_FAIL_USAGE, "append: %d tokens of sequence "
                         "%d would wait, and the window has room for %d",
                         t->after - t->to_keys, s, c->pool.window);
    return KV_OK;
}

//@ plan-kept: Take the positions that are new
static int plan_kept(Step *t, std::vector<int> &list, const kv_cuda_cache *c,
                     int s, const int *kept, int n, kv_error *err) {
    t->list = int(list.size());
    int last = -1;
    for (int i = 0; i < n; i++) {
        if (kept[i] <= last)
            return kv_refuse(err, KV_FAIL_USAGE, "append: kept positions of "
                             "sequence %d do not ascend: %d after %d", s,
                             kept[i], last);
        last = kept[i];
        if (kept[i] >= t->before && kept[i] < t->after)
            list.push_back(kept[i]);
    }
    t->kept_after += int(list.size()) - t->list;
    if (t->kept_after > c->pool.kept_capacity)
        return kv_refuse(err, KV_FAIL_USAGE, "append: room for %d kept tokens; "
                         "sequence %d would have %d", c->pool.kept_capacity, s,
                         t->kept_after);
    return KV_OK;
}

//@ widest: See how many blocks the largest sequence needs
struct Widest {
    long long keys, values; /* tokens */
    long long rows;         /* that stay in 16 bits */
};

static Widest widest(const std::vector<Step> &step) {
    Widest w = {0, 0, 0};
    for (const Step &t : step) {
        long long keys = t.to_keys - t.from_keys;
        long long values = t.to_values - t.from_values;
        int wait = t.to_keys > t.before ? t.to_keys : t.before;
        long long rows = t.kept_after - t.kept_before + t.after - wait;
        w.keys = keys > w.keys ? keys : w.keys;
        w.values = values > w.values ? values : w.values;
        w.rows = rows > w.rows ? rows : w.rows;
    }
    return w;
}

//@ start-side: Start the kernel for keys or for values
template <bool VALUES, int BITS>
static void start_wide(const Job &job, dim3 grid, size_t bytes, int version) {
    if (version == 2)
        k02<VALUES, BITS><<<grid, BLOCK, bytes>>>(job);
    else
        k03<VALUES, BITS><<<grid, BLOCK, bytes>>>(job);
}

template <bool VALUES>
static void start_units(const Job &job, long long tokens, int version) {
    const kv_tile &l = job.pool.tile;
    int D = l.head_size, unit = !VALUES && l.key_group == 128 ? 128 : 64;
    int bits = VALUES ? l.value_bits : l.key_bits;
    dim3 grid(1, job.pool.kv_heads, job.pool.sequences);
    grid.x = kv_blocks(tokens, unit) + 1; /* the first may be half done */
    size_t bytes = size_t(unit) * (D / 2 + (VALUES ? 4 : 16)) * 4;
    if (bits == 2)
        start_wide<VALUES, 2>(job, grid, bytes, version);
    else if (bits == 3)
        start_wide<VALUES, 3>(job, grid, bytes, version);
    else if (bits == 4)
        start_wide<VALUES, 4>(job, grid, bytes, version);
    else
        start_wide<VALUES, 8>(job, grid, bytes, version);
}

//@ start-groups: Start a thread for each group, or blocks for units
template <bool VALUES>
static void start_side(const Job &job, long long tokens, int version) {
    const kv_tile &l = job.pool.tile;
    int group = VALUES ? l.value_group : l.key_group;
    long long more = VALUES ? 0 : group; /* the last group may be short */
    size_t threads = size_t(tokens + more) * l.head_size / group;
    dim3 grid(kv_blocks(threads, BLOCK), job.pool.kv_heads,
              job.pool.sequences);
    if (tokens && version == 1)
        k01<VALUES><<<grid, BLOCK>>>(job);
    else if (tokens)
        start_units<VALUES>(job, tokens, version);
}

//@ run-plan: Copy the plan to the device and start the kernels
static int run_plan(kv_cuda_cache *c, const std::vector<Step> &step,
                    const std::vector<int> &list, Job job, int version,
                    kv_error *err) {
    char *plan = static_cast<char *>(c->plan);
    size_t steps = step.size() * sizeof(Step);
    if (kv_cuda_upload(plan, step.data(), steps, err) ||
        kv_cuda_upload(plan + steps, list.data(), list.size() * sizeof(int),
                       err))
        return KV_FAIL_RUN;
    job.pool = c->pool;
    job.step = reinterpret_cast<const Step *>(plan);
    job.list = reinterpret_cast<const int *>(plan + steps);
    Widest w = widest(step);
    unsigned S = unsigned(step.size());
    if (!list.empty())
        mark<<<S, BLOCK>>>(job);
    start_side<false>(job, w.keys, version ? version : 3);
    start_side<true>(job, w.values, version ? version : 3);
    size_t each = size_t(job.pool.kv_heads) * job.pool.tile.head_size / 8;
    unsigned blocks = kv_blocks(size_t(w.rows) * each, BLOCK);
    store<<<dim3(blocks ? blocks : 1, S), BLOCK>>>(job);
    for (size_t s = 0; s < step.size(); s++)
        c->length[s] = kv_length{step[s].after, step[s].to_keys,
                                 step[s].to_values, step[s].kept_after};
    return kv_launched("append", err);
}

//@ kept-lists: Refuse one list without the other
static int check_kept(const int *kept, const int *n_kept, kv_error *err) {
    if ((kept == nullptr) == (n_kept == nullptr))
        return KV_OK;
    return kv_refuse(err, KV_FAIL_USAGE, "append: kept and n_kept are given "
                     "together, or neither");
}

//@ append: Append rows to all sequences
extern "C" int kv_cuda_append(kv_cuda_cache *c, const void *k, const void *v,
                              int is_half, const int *n, const int *kept,
                              const int *n_kept, kv_fault *fault, int version,
                              kv_error *err) {
    const char *what = "append";
    if (check_pool(c, version, err) ||
        kv_check_pointer(what, "fault", fault, 8, err))
        return KV_FAIL_USAGE;
    if (c->pool.sequences == 0)
        return KV_OK;
    if (kv_check_pointer(what, "n", n, 4, err) || check_kept(kept, n_kept, err))
        return KV_FAIL_USAGE;
    std::vector<Step> step(size_t(c->pool.sequences));
    std::vector<int> list;
    long long rows = 0;
    for (int s = 0; s < c->pool.sequences; s++) {
        step[s].first = rows;
        if (plan_step(&step[s], c, s, n[s], 0, err) ||
            plan_kept(&step[s], list, c, s, kept, kept ? n_kept[s] : 0, err))
            return KV_FAIL_USAGE;
        kept = kept ? kept + n_kept[s] : nullptr;
        rows += n[s];
    }
    if (rows && (kv_check_pointer(what, "k", k, 16, err) ||
                 kv_check_pointer(what, "v", v, 16, err)))
        return KV_FAIL_USAGE;
    Job job = {{}, nullptr, nullptr, k, v, is_half, rows, fault};
    return rows ? run_plan(c, step, list, job, version, err) : KV_OK;
}

//@ seal: Quantize what waits
extern "C" int kv_cuda_seal(kv_cuda_cache *c, kv_fault *fault, int version,
                            kv_error *err) {
    if (check_pool(c, version, err) ||
        kv_check_pointer("seal", "fault", fault, 8, err))
        return KV_FAIL_USAGE;
    if (c->pool.sequences == 0)
        return KV_OK;
    std::vector<Step> step(size_t(c->pool.sequences));
    for (int s = 0; s < c->pool.sequences; s++) {
        step[s].first = 0;
        step[s].list = 0;
        if (plan_step(&step[s], c, s, 0, 1, err))
            return KV_FAIL_USAGE;
    }
    Job job = {};
    job.fault = fault;
    return run_plan(c, step, std::vector<int>(), job, version, err);
}

//@ keep-launcher: Keep a token that has arrived, if it still waits
extern "C" int kv_cuda_keep(kv_cuda_cache *c, int s, int token, int *done,
                            kv_error *err) {
    if (kv_check_pointer("keep", "done", done, 4, err) ||
        check_pool(c, 0, err))
        return KV_FAIL_USAGE;
    *done = 0;
    if (s < 0 || s >= c->pool.sequences)
        return kv_refuse(err, KV_FAIL_USAGE, "keep: sequence %d; there are %d",
                         s, c->pool.sequences);
    kv_length *l = &c->length[s];
    if (token < 0 || token >= l->tokens)
        return kv_refuse(err, KV_FAIL_USAGE, "keep: position %d is outside "
                         "the %d tokens of the cache", token, l->tokens);
    if (token < l->quantized_keys || token < l->quantized_values)
        return KV_OK;
    if (check_length(c, s, 0, err))
        return KV_FAIL_USAGE;
    const kv_pool *p = &c->pool;
    size_t word = (size_t(s) * p->max_tiles + token / KV_TILE) * 4 +
                  token % KV_TILE / 32;
    uint32_t holes = 0;
    if (p->holes && kv_cuda_download(&holes, p->holes + word, 4, err))
        return KV_FAIL_RUN;
    if (holes >> token % 32 & 1)
        return KV_OK;
    if (l->kept == p->kept_capacity)
        return kv_refuse(err, KV_FAIL_RUN, "keep: the cache has room for %d "
                         "kept tokens", p->kept_capacity);
    keep<<<1, BLOCK>>>(*p, s, token, l->kept++);
    *done = 1;
    return kv_launched("keep", err);
}
