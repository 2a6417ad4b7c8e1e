//@ top: Quantize a unit of tokens with a whole block
/* append_units.cuh - what k02 and k03 do: rows of a unit are staged in shared
 * memory, scales are chosen there, and whole words of codes are built. */
#ifndef KV_APPEND_UNITS_CUH
#define KV_APPEND_UNITS_CUH

#include "append.cuh"

//@ unit: Give a block some tokens of one head
/* A unit begins at a multiple of its tokens, so that it lies within a tile and
 * words do not cross from one unit to the next. Of its tokens from..to-1 are to
 * be coded; those of them that are not kept are `live`.
 *
 * Rows in shared memory are padded so that what the lanes of a warp read at
 * once lies in different banks: keys are read 16 bytes from each of two rows,
 * values 8 or 16 bytes from each of eight. */
struct Unit {
    int s, head, first, tokens; /* first: token in the sequence */
    int from, to;
    uint8_t *tile;
};

struct __align__(16) Shared {
    float s[256], m[256]; /* keys [group][channel], values [group][token] */
    uint32_t live[4];
};

KV_DEVICE int unit_tokens(const kv_tile &l, bool values) {
    return !values && l.key_group == 128 ? 128 : 64;
}
KV_DEVICE int pitch(int D, bool values) { /* words of a row */
    return D / 2 + (values ? 4 : 16);
}
KV_DEVICE bool is_live(const Shared &sh, int i) {
    return sh.live[i / 32] >> i % 32 & 1;
}

//@ find-unit: Find the unit of this block, and its live tokens
/* False if the block has nothing to do. */
template <bool VALUES>
KV_DEVICE bool find_unit(const Job &job, const Side &d, Unit &u, Shared &sh) {
    u.s = blockIdx.z, u.head = blockIdx.y;
    u.tokens = unit_tokens(job.pool.tile, VALUES);
    long long first = ((long long)d.from / u.tokens + blockIdx.x) * u.tokens;
    if (first >= d.to || d.from >= d.to)
        return false;
    u.first = int(first);
    u.from = max(d.from, u.first);
    u.to = min(d.to, u.first + u.tokens);
    u.tile = find_tile(job, u.s, u.head, u.first / KV_TILE);
    if (!u.tile)
        return false;
    int t = u.first + int(threadIdx.x);
    bool live = t >= u.from && t < u.to && !is_kept(job.pool, u.s, t);
    unsigned ballot = __ballot_sync(0xffffffffu, live);
    if (threadIdx.x % 32 == 0)
        sh.live[threadIdx.x / 32] = ballot;
    __syncthreads();
    return true;
}

//@ stage: Copy the live rows to shared memory, number by number
template <bool VALUES>
KV_DEVICE void stage(const Job &job, const Side &d, const Unit &u,
                     const Shared &sh, uint32_t *rows) {
    int D = job.pool.tile.head_size, step = 2 * pitch(D, VALUES);
    unsigned short *to = reinterpret_cast<unsigned short *>(rows);
    for (int i = threadIdx.x; i < u.tokens * D; i += BLOCK)
        if (is_live(sh, i / D))
            to[i / D * step + i % D] = __half_as_ushort(__float2half_rn(
                element(job, d, u.s, u.head, u.first + i / D, i % D)));
    __syncthreads();
}

//@ eight: Read eight numbers of a row in 16 bytes of binary16
KV_DEVICE uint32_t two_halves(float a, float b, kv_fault at, kv_fault *fault) {
    return kv_word(__floats2half2_rn(checked(a, at, fault),
                                     checked(b, at + 1, fault)));
}

KV_DEVICE uint32_t check_two(uint32_t w, kv_fault at, kv_fault *fault) {
    float2 v = __half22float2(kv_half2(w));
    checked(v.x, at, fault);
    checked(v.y, at + 1, fault);
    return w;
}

//@ new-eight: Read those of a new row, and round them
/* The eight numbers from i on of the caller's rows. */
KV_DEVICE uint4 new_eight(const void *x, size_t i, int is_half, kv_fault at,
                          kv_fault *fault) {
    at += i;
    if (is_half) {
        uint4 v = *reinterpret_cast<const uint4 *>(
            static_cast<const uint16_t *>(x) + i);
        return make_uint4(check_two(v.x, at, fault),
                          check_two(v.y, at + 2, fault),
                          check_two(v.z, at + 4, fault),
                          check_two(v.w, at + 6, fault));
    }
    const float4 *p = reinterpret_cast<const float4 *>(
        static_cast<const float *>(x) + i);
    float4 a = p[0], b = p[1];
    return make_uint4(two_halves(a.x, a.y, at, fault),
                      two_halves(a.z, a.w, at + 2, fault),
                      two_halves(b.x, b.y, at + 4, fault),
                      two_halves(b.z, b.w, at + 6, fault));
}

//@ any-eight: Read those of any row that is to be coded
KV_DEVICE uint4 eight(const Job &job, const Side &d, int s, int head, int t,
                      int c) {
    const kv_pool &p = job.pool;
    int D = p.tile.head_size;
    if (t < d.before) {
        size_t row = size_t(s) * p.window + t % p.window;
        return *reinterpret_cast<const uint4 *>(
            d.window + (row * p.kv_heads + head) * D + c);
    }
    size_t row = size_t(d.first + t - d.before);
    return new_eight(d.x, (row * p.kv_heads + head) * D + c, job.is_half,
                     kv_fault(d.at), job.fault);
}

//@ stage-wide: Copy the live rows 16 bytes at a time
template <bool VALUES>
KV_DEVICE void stage_wide(const Job &job, const Side &d, const Unit &u,
                          const Shared &sh, uint32_t *rows) {
    int D = job.pool.tile.head_size, step = pitch(D, VALUES);
    int each = D / 8; /* pieces of a row */
    for (int i = threadIdx.x; i < u.tokens * each; i += BLOCK) {
        int t = i / each, c = i % each * 8;
        if (is_live(sh, t))
            *reinterpret_cast<uint4 *>(rows + t * step + c / 2) =
                eight(job, d, u.s, u.head, u.first + t, c);
    }
    __syncthreads();
}

//@ key-scales: Choose the scales of keys, two channels a thread
KV_DEVICE void put_pair(float *to, float a, float b) {
    *reinterpret_cast<float2 *>(to) = make_float2(a, b);
}

/* Two numbers of binary16 side by side. */
KV_DEVICE unsigned side_by_side(unsigned short a, unsigned short b) {
    return unsigned(b) << 16 | a;
}

KV_DEVICE void two_ranges(Range &a, Range &b, const uint32_t *rows, int step,
                          int first, int n, const Shared &sh) {
    for (int t = first; t < first + n; t++)
        if (is_live(sh, t)) {
            float2 v = __half22float2(kv_half2(rows[t * step]));
            extend(a, v.x);
            extend(b, v.y);
        }
}

//@ all-key-scales: Do so for the groups of a unit
/* Groups begin and end with a unit's tokens, or with those to be coded. */
KV_DEVICE void key_scales(const Side &d, const Unit &u, int D, Shared &sh,
                          const uint32_t *rows) {
    int words = D / 2, step = pitch(D, false);
    uint32_t *params = reinterpret_cast<uint32_t *>(u.tile + d.params);
    int arrays = d.symmetric ? 1 : 2;
    for (int i = threadIdx.x; i < u.tokens / d.group * words; i += BLOCK) {
        int g = i / words, w = i % words, t = g * d.group;
        if (u.first + t < u.from || u.first + t >= u.to)
            continue;
        Range a = no_range(), b = no_range();
        two_ranges(a, b, rows + w, step, t, d.group, sh);
        Scale x = scale_of(a, d.bits, d.symmetric);
        Scale y = scale_of(b, d.bits, d.symmetric);
        put_pair(sh.s + g * D + 2 * w, x.s, y.s);
        put_pair(sh.m + g * D + 2 * w, x.m, y.m);
        int at = (u.first % KV_TILE + t) / d.group * arrays * words + w;
        params[at] = side_by_side(x.scale, y.scale);
        if (!d.symmetric)
            params[at + words] = side_by_side(x.min, y.min);
    }
    __syncthreads();
}

//@ extend-eight: Take eight numbers into account
KV_DEVICE void extend_eight(Range &r, uint4 v) {
    const uint32_t w[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float2 x = __half22float2(kv_half2(w[i]));
        extend(r, x.x);
        extend(r, x.y);
    }
}

//@ value-scales: Choose the scales of values, one token and group a thread
/* A kept token gets a scale of zero, as in ref/. */
KV_DEVICE void value_scales(const Side &d, const Unit &u, const kv_tile &l,
                            Shared &sh, const uint32_t *rows) {
    int D = l.head_size, step = pitch(D, true);
    for (int i = threadIdx.x; i < u.tokens * (D / d.group); i += BLOCK) {
        int t = i % u.tokens, g = i / u.tokens;
        if (u.first + t < u.from || u.first + t >= u.to)
            continue;
        Range r = no_range();
        for (int c = g * d.group; c < (g + 1) * d.group; c += 8)
            if (is_live(sh, t))
                extend_eight(r, *reinterpret_cast<const uint4 *>(
                                    rows + t * step + c / 2));
        Scale v = scale_of(r, d.bits, d.symmetric);
        sh.s[g * u.tokens + t] = v.s;
        sh.m[g * u.tokens + t] = v.m;
        put_scale(u.tile, d,
                  kv_value_param_at(&l, u.first % KV_TILE + t, g * d.group),
                  kv_value_min(&l), v);
    }
    __syncthreads();
}

//@ set: Build a few quads of codes at a time
/* A SET is the least number of fields that fill whole quads: 16/b fields and
 * one quad, or 16 and three at 3 bits. word[k] is a lane's quad k. */
template <int BITS> struct Set {
    static constexpr int fields = BITS == 3 ? 16 : 16 / BITS;
    static constexpr int quads = BITS == 3 ? 3 : 1;
    uint32_t word[quads][4];

    KV_DEVICE void put(int field, int w, int half, int code) {
        if (BITS == 3 && field == 15) {
            for (int k = 0; k < quads; k++)
                word[k][w] |= uint32_t(code >> k & 1) << (16 * half + 15);
        } else {
            int k = BITS == 3 ? field / 5 : 0;
            int at = BITS == 3 ? field % 5 : field;
            word[k][w] |= uint32_t(code) << (16 * half + at * BITS);
        }
    }
};

//@ key-pair: Code the keys of two fields
/* Lane 4r+j reads 16 bytes of rows r and r+8: eight channels, four for each
 * field. t: first of the 16 tokens; c: first of the 32 channels. */
template <int BITS>
KV_DEVICE void key_pair(Set<BITS> &set, int field, const Side &d, int D, int t,
                        int c, const Shared &sh, const uint32_t *rows) {
    int lane = threadIdx.x % 32;
    c += lane % 4 * 8;
    const float *s = sh.s + t / d.group * D + c;
    const float *m = sh.m + t / d.group * D + c;
#pragma unroll
    for (int upper = 0; upper < 2; upper++) {
        int row = t + lane / 4 + 8 * upper;
        if (!is_live(sh, row))
            continue;
        uint4 v = *reinterpret_cast<const uint4 *>(
            rows + row * pitch(D, false) + c / 2);
        const uint32_t w[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int i = 0; i < 8; i++) {
            float2 x = __half22float2(kv_half2(w[i / 2]));
            int code = code_of(i % 2 ? x.y : x.x, s[i], m[i], BITS,
                               d.symmetric);
            set.put(field + i / 4, upper + i % 4 / 2 * 2, i % 2, code);
        }
    }
}

//@ value-pair: Code the values of two fields
/* Lane 4r+j reads 8 bytes of rows 2j, 2j+1, 2j+8, 2j+9: four channels, two for
 * each field. */
template <int BITS>
KV_DEVICE void value_pair(Set<BITS> &set, int field, const Side &d, int D,
                          int t, int c, const Unit &u, const Shared &sh,
                          const uint32_t *rows) {
    int lane = threadIdx.x % 32;
    c += lane / 4 * 4;
#pragma unroll
    for (int k = 0; k < 4; k++) {
        int row = t + lane % 4 * 2 + k % 2 + k / 2 * 8;
        if (!is_live(sh, row))
            continue;
        uint2 v = *reinterpret_cast<const uint2 *>(
            rows + row * pitch(D, true) + c / 2);
        const uint32_t w[2] = {v.x, v.y};
        float s = sh.s[c / d.group * u.tokens + row];
        float m = sh.m[c / d.group * u.tokens + row];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float2 x = __half22float2(kv_half2(w[i / 2]));
            int code = code_of(i % 2 ? x.y : x.x, s, m, BITS, d.symmetric);
            set.put(field + i / 2, i % 2 + k / 2 * 2, k % 2, code);
        }
    }
}

//@ write-set: Write the quads of a set
/* If earlier tokens of it have been coded before, their bits stay. */
template <int BITS>
KV_DEVICE void write_set(const Set<BITS> &set, uint4 *quad, bool joins) {
#pragma unroll
    for (int k = 0; k < Set<BITS>::quads; k++) {
        const uint32_t *w = set.word[k];
        uint4 v = make_uint4(w[0], w[1], w[2], w[3]);
        if (joins) {
            uint4 old = quad[32 * k];
            v = make_uint4(v.x | old.x, v.y | old.y, v.z | old.z, v.w | old.w);
        }
        quad[32 * k] = v;
    }
}

//@ codes: Build all words of a unit
template <bool VALUES, int BITS>
KV_DEVICE void build(const Side &d, const Unit &u, int D, const Shared &sh,
                     const uint32_t *rows) {
    typedef Set<BITS> S;
    int across = D / 16, sets = u.tokens / 16 * across / S::fields;
    int before = u.first % KV_TILE / 16 * across / S::fields;
    uint4 *quads = reinterpret_cast<uint4 *>(u.tile + d.codes) +
                   before * S::quads * 32 + threadIdx.x % 32;
    for (int i = threadIdx.x / 32; i < sets; i += WARPS) {
        S set = {};
        int first = i * S::fields / across * 16;
        int last = ((i + 1) * S::fields - 1) / across * 16 + 16;
        if (u.first + last <= u.from || u.first + first >= u.to)
            continue;
#pragma unroll
        for (int f = 0; f < S::fields; f += 2) {
            int field = i * S::fields + f;
            int t = field / across * 16, c = field % across * 16;
            if (VALUES)
                value_pair<BITS>(set, f, d, D, t, c, u, sh, rows);
            else
                key_pair<BITS>(set, f, d, D, t, c, sh, rows);
        }
        write_set<BITS>(set, quads + i * S::quads * 32,
                        u.first + first < u.from);
    }
}

#endif
