//@ top: Attend straight from codes
/* One new query token per sequence against its whole cache. Nothing is
 * unpacked to memory: codes, rows that are kept and rows that wait are read
 * once, in one pass with an online softmax, and the values are averaged with
 * weights that are corrected whenever a larger score turns up.
 *
 *   k01  one warp walks all tokens of a query head, one element at a time
 *   k02  many warps share the tokens; a second kernel joins what they found
 *   k03  scales and minima leave the loops, and query heads that share a KV
 *        head share one reading of it
 *   k04  tensor cores multiply, codes being their operands as they lie there;
 *        query heads that share a KV head are columns of one matrix
 *   k05  the same, with tiles copied to shared memory two ahead, each byte
 *        asked for once
 *
 * layout.h says where everything lies. Each version answers every shape,
 * format and length unless its launcher says otherwise. */
#include "decode_hoisted.cuh"
#include "decode_plain.cuh"

//@ k01: Let one warp walk over all tokens of a query head
/* A sink logit is one more score, without a value. An empty cache gives 0. */
__global__ void k01(const __grid_constant__ Decode d) {
    int head = blockIdx.x, s = blockIdx.y, D = d.pool.tile.head_size;
    State st = begin(d, s, head);
    walk(d, s, head, 0, 1, st);
    float most = d.sink ? fmaxf(st.max, d.sink[head]) : st.max;
    float rest = d.sink ? expf(d.sink[head] - most) : 0;
    float old = st.weight > 0 ? expf(st.max - most) : 0;
    float total = st.weight * old + rest;
    for (int i = 0; i < D / 32; i++)
        d.out[(size_t(s) * d.heads + head) * D + threadIdx.x + 32 * i] =
            total > 0 ? st.sum[i] * old / total : 0;
}

//@ k02: Let many warps share the tokens (flash-decoding)
__global__ void k02(const __grid_constant__ Decode d) {
    int lane = threadIdx.x % 32, D = d.pool.tile.head_size;
    int share = blockIdx.x * WARPS + threadIdx.x / 32;
    int head = blockIdx.y, s = blockIdx.z;
    State st = begin(d, s, head);
    walk(d, s, head, share, d.shares, st);
    float *part = part_of(d, s, head, share);
    for (int i = 0; i < D / 32; i++)
        part[lane + 32 * i] = st.sum[i];
    if (lane < 4)
        part[D + lane] = lane == 0 ? st.max : lane == 1 ? st.weight : 0;
}

//@ join: Join what the shares found
/* One thread a channel. Sums of different shares stand for different maxima;
 * each is scaled down to the largest. */
__global__ void join(const __grid_constant__ Decode d) {
    int head = blockIdx.x, s = blockIdx.y, D = d.pool.tile.head_size;
    int c = threadIdx.x;
    float most = d.sink ? d.sink[head] : -INFINITY, total = 0, sum = 0;
    for (int i = 0; i < d.shares; i++) {
        const float *part = part_of(d, s, head, i);
        if (part[D + 1] > 0)
            most = fmaxf(most, part[D]);
    }
    if (d.sink)
        total = expf(d.sink[head] - most);
    for (int i = 0; i < d.shares; i++) {
        const float *part = part_of(d, s, head, i);
        if (part[D + 1] > 0) {
            float w = expf(part[D] - most);
            total += w * part[D + 1];
            sum += w * part[c];
        }
    }
    d.out[(size_t(s) * d.heads + head) * D + c] = total > 0 ? sum / total : 0;
}

//@ k03: Take scales and minima out of the loops, for all heads at once
/* H of the query heads that share a KV head; for more than registers hold,
 * codes are read again. Two blocks a multiprocessor: left to itself the
 * compiler makes room for more, and spills. */
template <int D, int H, bool TURNED>
__global__ void __launch_bounds__(32 * WARPS, 2)
    k03(const __grid_constant__ Decode d) {
    typedef Room<D, H> R;
    __shared__ R room;
    int G = d.heads / d.pool.kv_heads, turns = (G + H - 1) / H;
    int kv_head = blockIdx.y / turns, first = blockIdx.y % turns * H;
    int share = blockIdx.x * WARPS + threadIdx.x / 32;
    Lane<D, H> l;
    bring<D, H, TURNED>(room, l, d, blockIdx.z, kv_head * G + first,
                        min(G - first, H));
    walk_chunks<TURNED>(l, room.area[threadIdx.x / 32], room, d, kv_head,
                        share);
    leave_part(l, d, share);
}

//@ k04: Let tensor cores multiply, for all query heads of a KV head at once
/* Groups of values are D / CG channels. Both stores have BITS bits. */
template <int D, int BITS, int CG>
__global__ void __launch_bounds__(32 * WARPS, D == 64 ? 3 : 2)
    k04(const __grid_constant__ Decode d) {
    __shared__ float4 part[WARPS * 8 * (D + 4) / 4];
    tensor<D, BITS, CG, false>(d, reinterpret_cast<float *>(part), nullptr);
}

//@ k05: Copy tiles ahead, so that memory is never waited for
template <int D, int BITS, int CG>
__global__ void __launch_bounds__(32 * WARPS, D == 64 ? 3 : 2)
    k05(const __grid_constant__ Decode d) {
    __shared__ float4 part[WARPS * 8 * (D + 4) / 4];
    extern __shared__ uint4 stages[];
    tensor<D, BITS, CG, true>(d, reinterpret_cast<float *>(part),
                              reinterpret_cast<uint8_t *>(stages));
}

//@ check: Refuse what cannot be launched
static int check_pool(const kv_pool *p, int heads, kv_error *err) {
    const char *what = "decode";
    const kv_size size[] = {{"the number of sequences", p->sequences, 0},
                            {"the number of query heads", heads, 1},
                            {"the number of KV heads", p->kv_heads, 1},
                            {"the number of tiles", p->max_tiles, 0},
                            {"the room for kept rows", p->kept_capacity, 0},
                            {"the window", p->window, 0},
                            {"the number of pages", p->page_count, 0}};
    if (kv_check_sizes(what, size, 3, err) ||
        kv_check_sizes(what, size + 3, 1, err) ||
        kv_check_sizes(what, size + 4, 1, err) ||
        kv_check_sizes(what, size + 5, 1, err) ||
        kv_check_sizes(what, size + 6, 1, err))
        return KV_FAIL_USAGE;
    if (heads % p->kv_heads)
        return kv_refuse(err, KV_FAIL_USAGE, "decode: %d query heads cannot "
                         "share %d KV heads", heads, p->kv_heads);
    if (p->sequences > 65535 || heads > 65535)
        return kv_refuse(err, KV_FAIL_USAGE, "decode: %d sequences and %d "
                         "heads; at most 65535 of each", p->sequences, heads);
    if (p->max_tiles > KV_INDEX_MAX / KV_TILE ||
        (long long)p->sequences * p->max_tiles > KV_INDEX_MAX)
        return kv_refuse(err, KV_FAIL_USAGE, "decode: %d tiles for each of "
                         "%d sequences are too many", p->max_tiles,
                         p->sequences);
    if (p->window % 16)
        return kv_refuse(err, KV_FAIL_USAGE, "decode: a window of %d rows is "
                         "not a multiple of 16", p->window);
    return KV_OK;
}

//@ check-tile: Refuse a tile that is not as kv_tile_init makes it
static int check_tile(const kv_pool *p, kv_error *err) {
    const kv_tile *l = &p->tile;
    kv_format f[2] = {{KV_INT, l->key_bits, KV_PER_CHANNEL, l->key_group,
                       l->key_symmetric, 0},
                      {KV_INT, l->value_bits, KV_PER_TOKEN, l->value_group,
                       l->value_symmetric, 0}};
    kv_tile same;
    if (kv_tile_init(&same, &f[0], &f[1], l->head_size, err))
        return KV_FAIL_USAGE;
    if (memcmp(&same, l, sizeof same))
        return kv_refuse(err, KV_FAIL_USAGE, "decode: the tile's offsets are "
                         "not those of kv_tile_init");
    if (p->sequence_stride % 16 || p->page_stride % 16 || p->head_stride % 16)
        return kv_refuse(err, KV_FAIL_USAGE, "decode: the strides of tiles "
                         "are not multiples of 16");
    return KV_OK;
}

//@ check-arrays: Refuse arrays that are missing
static int check_arrays(const Decode *d, bool needs_work, kv_error *err) {
    const kv_pool *p = &d->pool;
    const struct {
        const char *name;
        const void *pointer;
        int needed;
        size_t align;
    } array[] = {{"out", d->out, 1, 4}, {"q", d->q, 1, 16},
                 {"tokens", p->tokens, 1, 4},
                 {"quantized_keys", p->quantized_keys, 1, 4},
                 {"quantized_values", p->quantized_values, 1, 4},
                 {"kept", p->kept, 1, 4},
                 {"tiles", p->tiles, p->page_count, 16},
                 {"holes", p->holes, p->kept_capacity, 16},
                 {"position", p->position, p->kept_capacity, 4},
                 {"kept_keys", p->kept_keys, p->kept_capacity, 16},
                 {"kept_values", p->kept_values, p->kept_capacity, 16},
                 {"window_keys", p->window_keys, p->window, 16},
                 {"window_values", p->window_values, p->window, 16},
                 {"work", d->partial, needs_work, 16},
                 {"fault", d->fault, 1, 8}};
    for (const auto &a : array)
        if (a.needed &&
            kv_check_pointer("decode", a.name, a.pointer, a.align, err))
            return KV_FAIL_USAGE;
    return KV_OK;
}

//@ check-turn: Refuse an impossible rotation
static int check_turn(const kv_turn *turn, int D, kv_error *err) {
    if (turn->dims >= 2 && turn->dims <= D && turn->dims % 2 == 0)
        return kv_check_pointer("decode", "speed", turn->speed, 8, err);
    return kv_refuse(err, KV_FAIL_USAGE, "decode: %d rotated channels; "
                     "expected an even number up to %d", turn->dims, D);
}

//@ speeds: Say how fast each pair of channels turns
extern "C" void kv_turn_speeds(double *speed, const kv_rope *r) {
    for (int i = 0; i < r->dims / 2; i++)
        speed[i] = pow(r->base, -2.0 * i / r->dims) * r->scale /
                   (r->factors ? double(r->factors[i]) : 1.0);
}

//@ work: Say how much room the parts take
extern "C" size_t kv_cuda_decode_work(const kv_pool *p, int heads,
                                      int splits) {
    return size_t(p->sequences) * size_t(heads) * size_t(splits) * WARPS *
           (size_t(p->tile.head_size) + 4) * sizeof(float);
}

//@ most-heads: Say how many heads one read can serve without tensor cores
typedef void Kernel(const Decode);

/* As many heads as registers hold the queries and sums of. */
static constexpr int most_heads(int D, bool turned) {
    return D == 64 ? 4 : turned ? 1 : 2;
}

template <int D, bool TURNED> static Kernel *hoisted_heads(int H) {
    if constexpr (most_heads(D, TURNED) == 4)
        return H == 1   ? k03<D, 1, TURNED>
               : H == 2 ? k03<D, 2, TURNED>
               : H == 3 ? k03<D, 3, TURNED>
                        : k03<D, 4, TURNED>;
    else
        return H == 1 ? k03<D, 1, TURNED>
                      : k03<D, most_heads(D, TURNED), TURNED>;
}

//@ choose-hoisted: Find the kernel without tensor cores for a shape
/* The heads of a group are dealt evenly to as few blocks as can be. */
static int hoisted_turns(int D, bool turned, int G) {
    int most = most_heads(D, turned);
    return (G + most - 1) / most;
}

/* NULL: pairs of channels that turn together are in different lanes. */
static Kernel *hoisted_kernel(const kv_tile *l, const kv_turn *turn, int G) {
    int turns = hoisted_turns(l->head_size, turn != nullptr, G);
    int H = (G + turns - 1) / turns;
    if (turn && !turn->interleaved && turn->dims % 64)
        return nullptr;
    if (l->head_size == 64)
        return turn ? hoisted_heads<64, true>(H) : hoisted_heads<64, false>(H);
    return turn ? hoisted_heads<128, true>(H) : hoisted_heads<128, false>(H);
}

//@ choose: Find the tensor kernel for a shape
template <int D, int BITS, int CG> static Kernel *tensor_of(int version) {
    return version == 4 ? k04<D, BITS, CG> : k05<D, BITS, CG>;
}

template <int BITS> static Kernel *tensor_bits(const kv_tile *l, int version) {
    int groups = l->head_size / l->value_group;
    if (l->head_size == 64)
        return groups == 1 ? tensor_of<64, BITS, 1>(version)
                           : tensor_of<64, BITS, 2>(version);
    return groups == 1   ? tensor_of<128, BITS, 1>(version)
           : groups == 2 ? tensor_of<128, BITS, 2>(version)
                         : tensor_of<128, BITS, 4>(version);
}

/* NULL: tensor cores do not know this shape. */
static Kernel *tensor_kernel(const kv_tile *l, bool turned, int version) {
    if (turned || l->key_bits != l->value_bits || l->key_symmetric ||
        l->value_symmetric)
        return nullptr;
    return l->key_bits == 2   ? tensor_bits<2>(l, version)
           : l->key_bits == 3 ? tensor_bits<3>(l, version)
           : l->key_bits == 4 ? tensor_bits<4>(l, version)
                              : nullptr;
}

//@ start: Start a tensor kernel with the shared memory it needs
static int start_tensor(Kernel *k, dim3 grid, const Decode &d, int version,
                        kv_error *err) {
    int bytes = version == 4 ? 0 : WARPS * 2 * d.pool.tile.bytes;
    cudaError_t e = cudaFuncSetAttribute(
        k, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (e != cudaSuccess)
        return kv_refuse(err, KV_FAIL_RUN, "decode: no %d bytes of shared "
                         "memory: %s", bytes, cudaGetErrorString(e));
    k<<<grid, 32 * WARPS, bytes>>>(d);
    return KV_OK;
}

//@ launch: Start a version, and what joins its parts
static int launch(const Decode &d, int version, Kernel *k, int splits,
                  kv_error *err) {
    unsigned S = unsigned(d.pool.sequences), H = unsigned(d.heads);
    unsigned n = unsigned(splits), Hk = unsigned(d.pool.kv_heads), G = H / Hk;
    if (version == 1) {
        k01<<<dim3(H, S), 32>>>(d);
        return kv_launched("decode", err);
    }
    bool turned = d.turn.speed != nullptr;
    int turns = hoisted_turns(d.pool.tile.head_size, turned, int(G));
    if (version == 2)
        k02<<<dim3(n, H, S), 32 * WARPS>>>(d);
    else if (version == 3)
        k<<<dim3(n, Hk * unsigned(turns), S), 32 * WARPS>>>(d);
    else if (start_tensor(k, dim3(n, Hk * ((G + 7) / 8), S), d, version, err))
        return KV_FAIL_RUN;
    join<<<dim3(H, S), unsigned(d.pool.tile.head_size)>>>(d);
    return kv_launched("decode", err);
}

//@ pick: Choose a version by shape
/* Tensor cores where the format lets them: the fewest instructions an element
 * for any number of heads. Else k03, which knows all formats and turns keys;
 * else, if pairs of channels do not lie well, k02. */
static int pick(Kernel **k, const Decode *d, const kv_turn *turn, int version,
                kv_error *err) {
    const kv_tile *l = &d->pool.tile;
    Kernel *tensor = tensor_kernel(l, turn != nullptr, version ? version : 5);
    Kernel *hoisted = hoisted_kernel(l, turn, d->heads / d->pool.kv_heads);
    if (!version)
        version = tensor ? 5 : hoisted ? 3 : 2;
    *k = version == 3 ? hoisted : tensor;
    if (version > 3 && !tensor)
        kv_refuse(err, KV_FAIL_USAGE, "decode: version %d needs keys after "
                  "RoPE, keys and values of the same 2, 3 or 4 bits, and "
                  "minima", version);
    else if (version == 3 && !hoisted)
        kv_refuse(err, KV_FAIL_USAGE, "decode: version 3 turns neighbours, or "
                  "64 or 128 channels, not %d", turn->dims);
    else
        return version;
    return 0;
}

//@ launcher: Check all, choose and start
extern "C" int kv_cuda_decode(float *out, const float *q, const kv_pool *pool,
                              int heads, const float *sink,
                              const kv_turn *turn, int splits, void *work,
                              kv_fault *fault, int version, kv_error *err) {
    if (kv_check_pointer("decode", "pool", pool, alignof(kv_pool), err))
        return KV_FAIL_USAGE;
    Decode d = {*pool, {}, q, sink, out, static_cast<float *>(work), fault,
             heads, 1};
    Kernel *k = nullptr;
    if (kv_check_version("decode", version, KV_CUDA_DECODE_VERSIONS, err) ||
        check_pool(pool, heads, err) || check_tile(pool, err) ||
        (turn && check_turn(turn, pool->tile.head_size, err)))
        return KV_FAIL_USAGE;
    if (splits < 1 || splits > 4096)
        return kv_refuse(err, KV_FAIL_USAGE, "decode: %d splits; expected 1 "
                         "to 4096", splits);
    if (turn)
        d.turn = *turn;
    version = pick(&k, &d, turn, version, err);
    if (!version)
        return KV_FAIL_USAGE;
    d.shares = version == 1 ? 1 : version <= 3 ? splits * WARPS : splits;
    if (pool->sequences == 0)
        return KV_OK;
    if (check_arrays(&d, version > 1, err))
        return KV_FAIL_USAGE;
    return launch(d, version, k, splits, err);
}
