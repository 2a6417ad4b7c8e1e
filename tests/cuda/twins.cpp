/* Each twin of an intrinsic in cuda/kv.cuh against the definition of that
 * intrinsic, written a second time in another way: exhaustively where the
 * arguments are few, else on random and on awkward ones. */
#include "kv.cuh"

#include <algorithm>
#include <cstdio>
#include <utility>
#include <vector>

static int passed, failed;

static void verdict(const char *what, long wrong, long tried) {
    if (wrong == 0 && tried > 0) {
        passed++;
        return;
    }
    failed++;
    printf("FAILED %s: %ld of %ld\n", what, wrong, tried);
}

static uint64_t state = 1;
static uint32_t random32() {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return uint32_t(state >> 32);
}

/* Finite floats of all sizes. */
static float random_float() {
    float f;
    do {
        uint32_t u = random32();
        memcpy(&f, &u, 4);
    } while (!std::isfinite(f));
    return f;
}

/* ---- sixteen bits: a table of all values is the definition ---- */

struct Format {
    int m, bias;
    std::vector<__float128> value; /* of code 0 up to infinity */
};

static __float128 power(int e) {
    __float128 x = 1;
    for (; e > 0; e--)
        x *= 2;
    for (; e < 0; e++)
        x /= 2;
    return x;
}

static Format make(int m, int bias) {
    Format f = {m, bias, {}};
    int infinity = (2 * bias + 1) << m;
    for (int code = 0; code <= infinity; code++) {
        int e = code >> m, fraction = code & ((1 << m) - 1);
        f.value.push_back(e ? (1 + fraction * power(-m)) * power(e - bias)
                            : fraction * power(1 - bias - m));
    }
    return f;
}

/* The nearest code, of two equally near the even one. Infinity stands where
 * the next number would be. */
static uint16_t nearest(const Format &f, __float128 x, bool negative) {
    __float128 a = x < 0 ? -x : x;
    size_t i = size_t(std::upper_bound(f.value.begin(), f.value.end(), a) -
                      f.value.begin()) - 1;
    if (i + 1 < f.value.size()) {
        __float128 down = a - f.value[i], up = f.value[i + 1] - a;
        if (up < down || (up == down && (i & 1)))
            i++;
    }
    return uint16_t(i | (negative ? 0x8000 : 0));
}

template <class S> static S of_bits(uint16_t bits) {
    S s;
    s.bits = bits;
    return s;
}

template <class S> static void conversions(const char *name, const Format &f) {
    long wrong = 0, tried = 0;
    int infinity = int(f.value.size()) - 1;
    for (int code = 0; code < 0x10000; code++, tried++) {
        int a = code & 0x7fff;
        float x = float(of_bits<S>(uint16_t(code)));
        if (a > infinity)
            wrong += x == x;
        else if (a == infinity)
            wrong += x != (code >> 15 ? -INFINITY : INFINITY);
        else
            wrong += x != f.value[size_t(a)] * (code >> 15 ? -1 : 1) ||
                     std::signbit(x) != (code >> 15);
        if (a <= infinity)
            wrong += S(x).bits != code;
        for (int side = -1; a < infinity && side <= 1; side++) {
            double mid = double(f.value[size_t(a)] + f.value[size_t(a) + 1]);
            float near = std::nextafter(float(mid / 2), side * INFINITY);
            near = side ? near : float(mid / 2);
            wrong += S(near).bits != nearest(f, near, false);
            tried++;
        }
    }
    for (int i = 0; i < 200000; i++, tried++) {
        float x = random_float();
        wrong += S(x).bits != nearest(f, x, std::signbit(x));
    }
    wrong += S(NAN).bits != 0x7fff;
    verdict(name, wrong, tried);
}

/* Numbers whose exponents lie close enough for 113 bits to hold all. */
template <class S> static S random_sixteen(const Format &f) {
    uint32_t r = random32();
    int e = f.bias - 12 + int(r % 25);
    int code = (e < 0 ? 0 : e) << f.m | int(r >> 8 & ((1u << f.m) - 1));
    if (r >> 26 == 0)
        code &= (1 << f.m) - 1; /* a small one */
    if (f.m == 7 && r >> 26 == 1)
        code = (f.bias - 90) << f.m;
    return of_bits<S>(uint16_t(code | (r >> 31) << 15));
}

template <class S> static void arithmetic(const char *name, const Format &f) {
    long wrong = 0;
    const long tries = 200000;
    for (long i = 0; i < tries; i++) {
        S a = random_sixteen<S>(f), b = random_sixteen<S>(f),
          c = random_sixteen<S>(f);
        if (i % 4 == 0 && i % 8) /* near to a tie */
            b = S(1.0f);
        __float128 x = float(a), y = float(b), z = float(c);
        auto check = [&](S got, __float128 want, double sign) {
            wrong += got.bits != nearest(f, want, want == 0 ? std::signbit(sign)
                                                            : want < 0);
        };
        if (f.m == 7 && x * y != 0 && z != 0) {
            double ratio = fabs(double(x * y / z));
            if (ratio > 1e29 || ratio < 1e-29)
                continue; /* more than 113 bits */
        }
        check(__hmul(a, b), x * y, float(a) * float(b));
        check(__hadd(a, c), x + z, float(a) + float(c));
        check(__hsub(a, c), x - z, float(a) - float(c));
        check(__hfma(a, b, c), x * y + z, float(a) * float(b) + float(c));
        kv_pair<S> p = kv_join(a, b), q = kv_join(c, a), r = kv_join(b, c);
        kv_pair<S> s = __hfma2(p, q, r);
        wrong += s.low().bits != __hfma(a, c, b).bits ||
                 s.high().bits != __hfma(b, a, c).bits;
        s = __hadd2(__hmul2(p, q), __hsub2(q, r));
        wrong += s.low().bits != __hadd(__hmul(a, c), __hsub(c, b)).bits;
    }
    verdict(name, wrong, tries);
}

/* ---- bits ---- */

static uint32_t table_bits(int table, uint32_t a, uint32_t b, uint32_t c) {
    uint32_t d = 0;
    for (int bit = 0; bit < 32; bit++) {
        int i = int(a >> bit & 1) * 4 + int(b >> bit & 1) * 2 +
                int(c >> bit & 1);
        d |= uint32_t(table >> i & 1) << bit;
    }
    return d;
}

template <int... T>
static void logic(std::integer_sequence<int, T...>) {
    long wrong = 0, tried = 0;
    for (int i = 0; i < 200; i++) {
        uint32_t a = random32(), b = random32(), c = random32();
        ((wrong += kv_lop3<T>(a, b, c) != table_bits(T, a, b, c), tried++),
         ...);
    }
    wrong += kv_lop3<(0xf0 & 0xcc) | 0xaa>(12, 10, 1) != ((12 & 10) | 1);
    verdict("lop3, all 256 tables", wrong, tried);
}

static void bytes() {
    long wrong = 0, tried = 0;
    for (uint32_t s = 0; s < 0x10000; s++, tried++) {
        uint32_t a = random32(), b = random32();
        uint8_t from[8], to[4];
        memcpy(from, &a, 4);
        memcpy(from + 4, &b, 4);
        for (int i = 0; i < 4; i++) {
            int n = s >> (4 * i) & 15;
            to[i] = n < 8 ? from[n] : from[n - 8] > 127 ? 255 : 0;
        }
        uint32_t want;
        memcpy(&want, to, 4);
        wrong += kv_prmt(a, b, s) != want;
        if (!(s & 0x8888))
            wrong += __byte_perm(a, b, s) != want;
    }
    verdict("prmt, all selectors", wrong, tried);
}

static void integers() {
    long wrong = 0, tried = 0;
    for (; tried < 100000; tried++) {
        uint32_t a = random32(), b = random32(), c = random32();
        int8_t p[4], q[4];
        uint8_t u[4], v[4];
        memcpy(p, &a, 4), memcpy(q, &b, 4);
        memcpy(u, &a, 4), memcpy(v, &b, 4);
        long long sum = int(c);
        unsigned long long usum = c;
        for (int i = 0; i < 4; i++) {
            sum += p[i] * q[i];
            usum += unsigned(u[i]) * v[i];
        }
        wrong += __dp4a(int(a), int(b), int(c)) != int(uint32_t(sum));
        wrong += __dp4a(a, b, c) != unsigned(usum);
        int n = int(c % 32), ones = 0, lead = 32;
        for (int i = 0; i < 32; i++) {
            ones += a >> i & 1;
            lead = a >> i & 1 ? 31 - i : lead;
            wrong += (__brev(a) >> i & 1) != (a >> (31 - i) & 1);
        }
        wrong += __popc(a) != ones || __clz(int(a)) != lead;
        long long wide = (long long)(uint64_t(a) << 32 | b) >> n << n % 7;
        int first = 0, top = 64;
        for (int i = 63; i >= 0; i--) {
            first = wide >> i & 1 ? i + 1 : first;
            top = wide >> i & 1 && top == 64 ? 63 - i : top;
        }
        wrong += __ffsll(wide) != first || __clzll(wide) != top;
        wrong += __funnelshift_l(a, b, unsigned(n)) !=
                 (n ? b << n | a >> (32 - n) : b);
        wrong += __funnelshift_r(a, b, unsigned(n)) !=
                 (n ? b << (32 - n) | a >> n : a);
        wrong += __umulhi(a, b) != unsigned(uint64_t(a) * b >> 32);
    }
    wrong += __clz(0) != 32 || __ffs(0) != 0 || __ffs(8) != 4;
    wrong += __clzll(0) != 64 || __ffsll(0) != 0;
    wrong += min(5u, 7) != 5 || max(5u, 7) != 7 || max(-1, 1u) != ~0u;
    wrong += min(-1ll, 1u) != -1 || max(3, 4l) != 4;
    verdict("dp4a, brev, clz, ffs, popc, funnelshift, umulhi, min, max", wrong,
            tried);
}

/* ---- floats: double has more than twice the bits and two more, so rounding
 * its result once again is right ---- */

static bool same(float a, float b) { return a == b || (a != a && b != b); }

static void floats() {
    long wrong = 0, tried = 0;
    for (; tried < 300000; tried++) {
        float a = random_float(), b = random_float();
        if (tried % 2) {
            a = float(int(random32())) / 4096;
            b = float(int(random32())) / 65536;
        }
        double x = a, y = b;
        wrong += !same(__fadd_rn(a, b), float(x + y));
        wrong += !same(__fsub_rn(a, b), float(x - y));
        wrong += !same(__fmul_rn(a, b), float(x * y));
        wrong += !same(__fdiv_rn(a, b), float(x / y));
        wrong += !same(__fsqrt_rn(fabsf(a)), float(sqrt(fabs(x))));
        float fused = float((__float128)a * b + (__float128)a);
        if (tried % 2) /* close together: 113 bits hold it */
            wrong += !same(__fmaf_rn(a, b, a), fused);
    }
    verdict("fadd, fsub, fmul, fdiv, fsqrt, fmaf", wrong, tried);
}

static void to_integers() {
    long wrong = 0, tried = 0;
    for (; tried < 300000; tried++) {
        float x = random_float();
        if (tried % 2)
            x = float(int(random32() % 100000)) / 2 - 20000;
        double low = floor(double(x)), part = double(x) - low;
        double near = low + (part > 0.5 || (part == 0.5 && fmod(low, 2) != 0));
        auto clamp = [](double v, double a, double b) {
            return v < a ? a : v > b ? b : v;
        };
        double least = -2147483648.0, most = 2147483647.0, top = 4294967295.0;
        wrong += __float2int_rn(x) != clamp(near, least, most);
        wrong += __float2int_rd(x) != clamp(low, least, most);
        wrong += __float2int_ru(x) != clamp(low + (part > 0), least, most);
        wrong += __float2int_rz(x) !=
                 clamp(low + (x < 0 && part > 0), least, most);
        wrong += __float2uint_rn(x) != clamp(near, 0, top);
    }
    wrong += __float2int_rn(NAN) != 0 || __float2uint_rn(NAN) != 0;
    wrong += __float2int_rn(INFINITY) != INT32_MAX;
    verdict("float2int, float2uint", wrong, tried);
}

/* ---- matrices: whole ones are filled, multiplied by the definition, and compared element by
 * element with what 32 lanes get from the pieces that they hold ---- */

struct Matrices {
    __half a[16][16], b[16][8], t[8][8];
    float c[16][8], got[16][8];
    uint16_t turned[8][8];
};

static uint32_t pair(__half low, __half high) { return uint32_t(high.bits) << 16 | low.bits; }

static void multiply(Matrices *x) {
    int lane = int(threadIdx.x), r = lane / 4, j = lane % 4 * 2;
    uint32_t a[4] = {pair(x->a[r][j], x->a[r][j + 1]), pair(x->a[r + 8][j], x->a[r + 8][j + 1]),
                     pair(x->a[r][j + 8], x->a[r][j + 9]),
                     pair(x->a[r + 8][j + 8], x->a[r + 8][j + 9])};
    float c[4] = {x->c[r][j], x->c[r][j + 1], x->c[r + 8][j], x->c[r + 8][j + 1]};
    kv_mma(c, a, pair(x->b[j][r], x->b[j + 1][r]), pair(x->b[j + 8][r], x->b[j + 9][r]));
    for (int i = 0; i < 4; i++)
        x->got[r + i / 2 * 8][j + i % 2] = c[i];
    uint32_t t = kv_transpose(pair(x->t[r][j], x->t[r][j + 1]));
    x->turned[r][j] = uint16_t(t), x->turned[r][j + 1] = uint16_t(t >> 16);
}

/* Any number of binary16, small ones below its normal range included; big: NaN and infinity too. */
static __half random_half(bool big) {
    uint16_t bits;
    do
        bits = uint16_t(random32());
    while (!big && (bits & 0x7c00) == 0x7c00);
    return kv_bits<__half>(bits);
}

static void matrices() {
    long wrong = 0, tried = 0, turned = 0;
    for (; tried < 400; tried++) {
        Matrices x;
        bool big = tried % 8 == 7;
        for (auto &row : x.a)
            for (__half &v : row)
                v = tried % 2 ? random_half(big) : kv_bits<__half>(uint16_t(random32() & 0x83ff));
        for (auto &row : x.b)
            for (__half &v : row)
                v = random_half(big);
        for (auto &row : x.t)
            for (__half &v : row)
                v = random_half(true);
        for (auto &row : x.c)
            for (float &v : row)
                v = float(random_half(false));
        sim::launch("matrices", "x", sim::config(1, 32), multiply)(&x);
        for (int i = 0; i < 16; i++)
            for (int n = 0; n < 8; n++) {
                __float128 sum = x.c[i][n], size = sum < 0 ? -sum : sum;
                for (int k = 0; k < 16; k++) {
                    __float128 p = (__float128)float(x.a[i][k]) * float(x.b[k][n]);
                    sum += p, size += p < 0 ? -p : p;
                }
                double off = double(sum - (__float128)x.got[i][n]);
                double most = double(size) * 0x1p-24 * 1.01;
                bool none = sum != sum && x.got[i][n] != x.got[i][n];
                wrong += !(fabs(off) <= most || float(sum) == x.got[i][n] || none);
                turned += i < 8 && x.turned[i][n] != x.t[n][i].bits;
            }
    }
    verdict("mma", wrong, tried);
    verdict("transpose", turned, tried);
}

static void exponentials() {
    long wrong = 0, tried = 0;
    for (; tried < 100000; tried++) {
        float x = float(int(random32())) / 0x1p23f, y = kv_exp2(x);
        double want = exp(double(x) * 0.69314718055994530942);
        wrong += want >= 0x1p-126 && want < 0x1p127 && !(fabs(y - want) <= want * 0x1p-22);
        wrong += want < 0x1p-127 && y != 0;
    }
    wrong += kv_exp2(-INFINITY) != 0 || kv_exp2(0) != 1 || kv_exp2(NAN) == kv_exp2(NAN);
    verdict("exp2", wrong, tried);
}

int main() {
    Format fp16 = make(10, 15), bf16 = make(7, 127);
    conversions<__half>("half, both ways", fp16);
    conversions<__nv_bfloat16>("bfloat16, both ways", bf16);
    arithmetic<__half>("half arithmetic", fp16);
    arithmetic<__nv_bfloat16>("bfloat16 arithmetic", bf16);
    logic(std::make_integer_sequence<int, 256>());
    bytes();
    integers();
    floats();
    to_integers();
    matrices();
    exponentials();
    printf("twins: %d passed, %d failed\n", passed, failed);
    return failed != 0;
}
