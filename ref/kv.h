//@ top: Declare everything the reference implementation offers
/* kv.h - the whole of ref/ in one header, grouped by chapter. It is the manual.
 *
 * Conventions
 *   - Outputs first, then inputs, then sizes. Sizes are int, byte counts and
 *     offsets size_t.
 *   - Arrays are row-major; [T][Hk][D] means x[(t*Hk + h)*D + d].
 *     T tokens, H query heads, Hk key-value heads, D head size, C width,
 *     F width of the feed-forward network, L layers, b bits, G group size,
 *     R recent window.
 *   - The caller owns all memory; nothing here allocates.
 *   - Functions that return int return KV_OK or a KV_FAIL_ code, and then have
 *     described the problem in err (which may be NULL).
 *   - Non-finite input is an error of every function that returns a code,
 *     never a silent NaN; the others expect finite numbers.
 *   - A pointer said to be "or NULL" may be NULL, and so may any array of
 *     length 0; indices (layer, position) are the caller's to keep in range
 *     where no error is named.
 *   - Sums run in double. Codes are decided in float32, step by step as
 *     written (compile with -ffp-contract=off and never with fast-math), so
 *     that codes, scales and indices are the same on every compiler.
 *   - Positions and layers count from 0.
 * "Source" names where a definition comes from; "ours" marks what the KVSink
 * paper (arXiv 2508.04257) leaves open and this project decided. */
#ifndef KV_H
#define KV_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

//@ errors: Give every failure a code and a sentence
enum { KV_OK = 0, KV_FAIL_RUN = 1, KV_FAIL_USAGE = 2 };

typedef struct {
    int code;       /* KV_OK, KV_FAIL_RUN (file, data, memory), KV_FAIL_USAGE */
    char text[512]; /* one sentence: what, where, expected, what to do */
} kv_error;

/* Returns code; writes the message unless err is NULL. Long ones are cut. */
int kv_fail(kv_error *err, int code, const char *format, ...)
#if defined(__GNUC__)
    __attribute__((format(printf, 3, 4)))
#endif
    ;

/* KV_FAIL_RUN naming `what` and the first index that is NaN or infinite. */
int kv_check_finite(const float *x, size_t n, const char *what, kv_error *err);

//@ softmax: Chapter 1: turn scores into weights that sum to one, or to less
/* p[n] = softmax(s[n]), p may be s. n = 0 is nothing, n = 1 gives 1.
 * Stable: the maximum is subtracted first. A score that is not finite is
 * KV_FAIL_RUN, here and below. */
int kv_softmax(float *p, const float *s, int n, kv_error *err);

/* The same with one more logit that has no key: p sums to less than one and
 * the rest, which the function returns through *sink (may be NULL; n = 0: 1),
 * goes nowhere. logit is not scaled by 1/sqrt(D), and is finite. Source:
 * gpt-oss's learned sink. */
int kv_softmax_sink(float *p, float *sink, const float *s, float logit, int n,
                    kv_error *err);

/* Softmax1, "off by one": exp(s_j) / (1 + sum exp(s)); a sink logit of 0.
 * Source: E. Miller, "Attention is off by one" (2023). */
int kv_softmax1(float *p, const float *s, int n, kv_error *err);

//@ attention: Chapter 1: attend causally, query heads sharing key-value heads
typedef struct {
    int heads;     /* H, a multiple of kv_heads */
    int kv_heads;  /* Hk */
    int head_size; /* D, even */
} kv_shape;

/* Sum of a[i] * b[i] in double, in the order of i. n = 0 gives 0. */
double kv_dot(const float *a, const float *b, int n);

/* Query i of n stands behind `past` earlier tokens and sees keys 0..past+i.
 *   out  [n][H][D]
 *   rows [H][n][past+n] attention weights, 0 where not visible; or NULL
 *   q    [n][H][D]    k, v [past+n][Hk][D]
 *   sink [H] a learned sink logit per query head, or NULL
 *   scratch [past+n] floats
 * Scores are q.k/sqrt(D) with double sums. Head h reads KV head h*Hk/H.
 * n = 0 is nothing. A value or a score that is not finite is KV_FAIL_RUN.
 * Source: Vaswani et al. (2017); grouped heads: Ainslie et al. (2023). */
int kv_attention(float *out, float *rows, const float *q, const float *k,
                 const float *v, const float *sink, kv_shape s, int past, int n,
                 float *scratch, kv_error *err);

/* out [n][H][D] from rows [H][n][T] and v [T][Hk][D]: the second half of
 * attention, for a tap that has changed the rows. T = 0 gives zeros. */
void kv_attention_mix(float *out, const float *rows, const float *v, kv_shape s,
                      int n, int T);

//@ sinks: Chapter 1: measure how much attention a key receives
/* alpha[T]: alpha_k = mean over the T-k queries i >= k of rows[i][k], for one
 * head's rows [T][T]. T = 0 is nothing; T = 1 gives 1 under plain softmax.
 * Source: Gu et al. (ICLR 2025), 0-based. */
void kv_sink_alpha(double *alpha, const float *rows, int T);

/* Mean over queries i of the mass that row i gives to the positions listed
 * (ascending, those behind i count 0). An empty set, or T = 0, gives 0. */
double kv_sink_mass(const float *rows, int T, const int *position, int n);

/* share[T] = percent of the n heads (layers x heads) whose alpha [n][T]
 * exceeds eps strictly; n = 0 gives 0. Source: Gu et al., Sink_k^eps. */
void kv_sink_share(double *share, const double *alpha, int n, int T,
                   double eps);

/* Euclidean norm of x[n]; cosine of a[n] and b[n], 0 if either is zero. */
double kv_norm(const float *x, int n);
double kv_cosine(const float *a, const float *b, int n);

//@ sink-kinds: Chapter 1: tell a void sink from a heavy hitter
typedef enum { KV_NOT_A_SINK, KV_VOID_SINK, KV_HEAVY_HITTER } kv_sink_kind;

/* A key that receives alpha > eps is a sink. It is void when the norm of its
 * value is below half the median over tokens (attention is parked there and
 * little comes back), else a heavy hitter (attention fetches something).
 * The half is ours. */
kv_sink_kind kv_sink_classify(double alpha, double eps, double value_norm,
                              double median_value_norm);

//@ layers: Chapter 2: the parts of a llama layer
/* y[C] = gain * x / sqrt(mean(x^2) + eps); y may be x. All zeros give zeros
 * if eps > 0. Source: Zhang and Sennrich (2019). */
void kv_rmsnorm(float *y, const float *x, const float *gain, double eps, int C);

typedef struct {
    int dims;             /* rotated channels of each head, even, <= D */
    int interleaved;      /* 1: pairs (2i, 2i+1) as in GGUF llama files;
                             0: pairs (i, i + dims/2) as in the paper's code */
    double base;          /* theta; angle_i = pos * scale / base^(2i/dims) */
    double scale;         /* 1, or 1/factor for linear context scaling */
    const float *factors; /* [dims/2] divisors of the angle (Llama 3) or NULL */
} kv_rope;

/* cs[dims] = cos and sin of the dims/2 angles at one position, alternating.
 * Any position is legal, negative ones turn back. Source: Su et al. (2021). */
void kv_rope_angles(float *cs, const kv_rope *r, int position);

/* Rotate x [heads][D] in place by the angles of its position. Channels from
 * dims on stay as they are. */
void kv_rope_rotate(float *x, const float *cs, const kv_rope *r, int heads,
                    int D);

/* y[n] = silu(gate) * up; y may be gate. Source: Shazeer (2020). */
void kv_swiglu(float *y, const float *gate, const float *up, size_t n);

//@ model: Chapter 2: hold a decoder's weights
typedef struct {
    int rows, cols;    /* outputs, inputs */
    const float *data; /* [rows][cols], float32 */
} kv_matrix;

typedef struct {
    const float *attn_norm, *ffn_norm; /* [C] */
    kv_matrix q, k, v, o; /* [H*D][C] [Hk*D][C] [Hk*D][C] [C][H*D] */
    kv_matrix gate, up, down; /* [F][C] [F][C] [C][F] */
    const float *sink;                 /* [H] learned sink logits, or NULL */
} kv_layer_weights;

typedef struct {
    int layers, width, ffn, vocab, context; /* L C F, tokens, trained length */
    kv_shape shape;
    double norm_eps;
    kv_rope rope;
    kv_matrix embed;  /* [vocab][C] */
    kv_matrix output; /* [vocab][C]; the same data as embed when tied */
    const float *norm; /* [C] */
    const kv_layer_weights *layer; /* [L] */
} kv_model;

//@ backend: Chapter 2: let the caller choose the linear algebra
/* One transformer, several backends. ref/ has the scalar one, the judge.
 * A row's result must not depend on which other rows come with it. */
typedef struct kv_backend {
    void *self;
    /* y[n][rows] = x[n][cols] W^T */
    void (*matmul)(void *self, float *y, const float *x, const kv_matrix *w,
                   int n);
    /* as kv_attention; scratch is the backend's own affair */
    int (*attention)(void *self, float *out, float *rows, const float *q,
                     const float *k, const float *v, const float *sink,
                     kv_shape s, int past, int n, kv_error *err);
    /* as kv_swiglu and kv_rmsnorm on n rows of C; NULL: the functions above */
    void (*swiglu)(void *self, float *y, const float *gate, const float *up,
                   size_t n);
    void (*rmsnorm)(void *self, float *y, const float *x, const float *gain,
                    double eps, int C, int n);
} kv_backend;

/* The scalar backend. scratch must hold as many floats as the longest row of
 * keys that attention will see. */
kv_backend kv_scalar_backend(float *scratch);

//@ taps: Chapter 2: look into the decoder while it runs
typedef enum {
    KV_TAP_EMBED,     /* [n][C]     embedding: the residual at "layer -1" */
    KV_TAP_Q_PRE,     /* [n][H][D]  queries before RoPE */
    KV_TAP_K_PRE,     /* [n][Hk][D] keys before RoPE */
    KV_TAP_Q,         /* [n][H][D]  queries after RoPE */
    KV_TAP_K,         /* [n][Hk][D] keys after RoPE */
    KV_TAP_V,         /* [n][Hk][D] values */
    KV_TAP_ATTENTION, /* [H][n][past+n] attention rows */
    KV_TAP_ATTN_OUT,  /* [n][H][D]  attention output, before the o projection */
    KV_TAP_H_ATTN,    /* [n][C]     H': residual after attention */
    KV_TAP_DOWN_IN,   /* [n][F]     X_d^in: input of the down projection */
    KV_TAP_DOWN_OUT,  /* [n][C]     X_d^out: its output */
    KV_TAP_H,         /* [n][C]     H: residual after the FFN */
    KV_TAP_LOGITS,    /* [n][vocab] from kv_logits */
    KV_TAPS
} kv_tap;

/* The names that the command line uses: embed q_pre k_pre q k v attention
 * attn_out h_attn down_in down_out h logits. Unknown: -1. */
const char *kv_tap_name(kv_tap tap); /* tap < KV_TAPS */
int kv_tap_find(const char *name);

/* Called where the data arise, in the order above within a layer (layer is -1
 * for embed, L for logits). rows x cols is the shape with inner dimensions
 * multiplied (attention: H*n x past+n). The function may write into data;
 * whatever follows uses what it wrote. */
typedef void kv_tap_function(void *self, kv_tap tap, int layer, float *data,
                             int rows, int cols);

//@ forward: Chapter 2: run the decoder
struct kv_memory; /* where keys and values go; below, with the cache */

typedef struct {
    const kv_model *model;
    const kv_backend *backend;
    const struct kv_memory *memory; /* NULL: attend to the given tokens only */
    kv_tap_function *tap;           /* or NULL */
    void *tap_self;
    unsigned tap_mask; /* 1u << KV_TAP_x for each tap wanted */
    int remix;         /* 1: the tap changes attention rows, so the output is
                          averaged again from them (without memory only) */
    int past;          /* tokens the memory holds already; 0 without memory */
    int position;      /* RoPE position of the first token; usually = past */
    float *work;       /* kv_forward_work floats */
} kv_run;

/* Floats of work space for n tokens with `past` before them. Attention rows
 * [H][n][past+n] are part of it only if the mask asks for them. */
size_t kv_forward_work(const kv_model *m, unsigned tap_mask, int past, int n);

/* hidden [n][C]: the residual after the last layer and the final norm.
 * A token outside the vocabulary, or a result that is not finite (bad
 * weights), is KV_FAIL_RUN. n = 0 is nothing: no tap is called either. */
int kv_forward(float *hidden, const kv_run *run, const int *tokens, int n,
               kv_error *err);

/* logits [n][vocab] of n rows of hidden, which must be finite. */
int kv_logits(float *logits, const kv_run *run, const float *hidden, int n,
              kv_error *err);

//@ outliers: Chapter 2: find extreme activations and the layers that write them
typedef struct {
    float max;      /* largest |x| */
    float median;   /* median of |x|; even count: mean of the two middle */
    int row, col;   /* where max is (first such): token and channel */
} kv_extreme;

/* scratch: rows*cols floats. rows or cols 0: all zeros. */
kv_extreme kv_outliers(const float *x, int rows, int cols, float *scratch);

/* Median of |x[n]|, x is reordered. n = 0 gives 0. */
float kv_median_abs(float *x, size_t n);

/* peak[cols]: of each channel the value of largest |x|, with its sign (the
 * first token's on ties). */
void kv_channel_peaks(float *peak, const float *x, int rows, int cols);

//@ stage: Chapter 2: describe a place where an outlier emerges
typedef struct {
    int layer, channel;
    int sign;          /* of the outlier: +1 or -1 */
    double at_sinks;   /* median |h| at sink tokens */
    double elsewhere;  /* median |h| at the others */
    double threshold;  /* between the two */
    int prompts;       /* calibration prompts that showed it */
} kv_stage;

//@ stages: Chapter 2: name the layers where an outlier emerges
/* Emergence stages of one prompt. peak [L+1][C] and median [L+1] of the
 * residual, row 0 the embedding, row l+1 the residual after layer l.
 *   A channel doubles at layer l if its |peak| is > 0 and at least twice that
 *   of the layer before. The last layer of a run of doublings is a stage if
 *   |peak| >= 100 and |peak| >= 300 x median. If no layer reaches 100 anywhere,
 *   the ratio alone decides and *weak is 1. Of several channels at a layer
 *   the largest stands for the stage (ties: the lower channel).
 * Returns the number found, ascending by layer; the search ends at max.
 * Source: ours, after Sun et al. (2024); the paper assumes one stage. */
int kv_stages_find(kv_stage *stage, int *weak, const float *peak,
                   const float *median, int L, int C, int max);

/* Stages that more than half of the prompts show. found [prompts][max] with
 * count[prompts] entries each. Sets prompts and the majority's sign (a draw:
 * +1), and leaves at_sinks, elsewhere and threshold to kv_stage_threshold.
 * Returns the number, at most max, ascending by layer, then channel. */
int kv_stages_vote(kv_stage *stage, const kv_stage *found, const int *count,
                   int prompts, int max);

//@ phases: Chapter 2: follow an outlier through the layers
typedef enum { KV_INITIAL, KV_EMERGENCE, KV_STABLE, KV_DISSIPATION, KV_FINAL }
    kv_phase;

/* The paper's five phases, for one sink token and one channel.
 * h[L]: H[t,c] after each layer, write[L]: X_d^out[t,c] of each layer.
 * Emergence is the given layer (-1: none, all layers are initial);
 * dissipation the first later layer whose write has the opposite sign of h
 * before it and leaves at most half of |h|. Source: KVSink; half is ours. */
void kv_phases(kv_phase *phase, const float *h, const float *write, int L,
               int emergence);

//@ halves: Chapter 3: sixteen-bit floats
/* Round to nearest, ties to even. Overflow gives infinity, NaN stays NaN. */
uint16_t kv_half_from_float(float x);
float kv_half_to_float(uint16_t h);
uint16_t kv_bf16_from_float(float x);
float kv_bf16_to_float(uint16_t h);

//@ formats: Chapter 3: say how keys or values are stored
typedef enum {
    KV_INT, KV_F16, KV_BF16, KV_F32, KV_NF, KV_E4M3,
    KV_Q4_0, KV_Q4_1, KV_Q5_0, KV_Q5_1, KV_Q8_0
} kv_kind;
typedef enum { KV_PER_CHANNEL, KV_PER_TOKEN } kv_axis;

/* What being kept means (not part of the text of a format):
 *   BOTH          out of the range of its group, and stored in 16 bits
 *   OVERWRITE     stored in 16 bits, but still in the range: the usual mistake
 *   EXCLUDE_ONLY  out of the range, but coded (clamped) with the others' scale
 *                 and nowhere in 16 bits; per token, coded like any other */
typedef enum { KV_KEPT_BOTH, KV_KEPT_OVERWRITE, KV_KEPT_EXCLUDE_ONLY }
    kv_exclusion;

typedef struct {
    kv_kind kind;
    int bits;      /* of a code: KV_INT 2, 3, 4, 8; KV_NF 2, 3, 4; else fixed */
    kv_axis axis;  /* per channel: a group is G tokens of one channel;
                      per token: G channels of one token */
    int group;     /* G; 0 = all; llama.cpp's blocks: KV_BLOCK, per token */
    int symmetric; /* codes around 0, no minimum */
    int pre;       /* keys before RoPE */
    int hadamard, norm; /* see "rows" below */
    int is_static; /* ranges from calibration instead of from the data */
    int sparse;    /* outP was given */
    int outliers;  /* P in thousandths of a percent: out0.1 = 100 */
    int kivi;      /* every operation rounded to binary16, KIVI's ageing */
    kv_exclusion exclusion;
} kv_format;

//@ format-text: Chapter 3: read and write a format as text
#define KV_FORMAT_TEXT 64 /* room for the text of any format */

/* Parse KIND:AXIS:GROUP and flags; the file ref/format.c opens with the
 * grammar. GROUP is 1 to 2^20, or "all"; P of outP has at most 3 decimals and
 * lies within 0 and 50; out0 takes nothing out. Anything else is
 * KV_FAIL_USAGE, as are: sym, outP and kivi on anything but integers; had on
 * f16, bf16, f32; norm and static on those and on llama.cpp's blocks; kivi
 * with any other flag but pre; static with had, norm or outP. */
int kv_format_parse(kv_format *f, const char *text, kv_error *err);

/* The text that parses to f, cut if size < KV_FORMAT_TEXT. Returns text. */
char *kv_format_print(char *text, size_t size, const kv_format *f);

/* Usage error if G does not divide D (per token), if had meets a D that is not
 * a power of two, if blocks do not divide Hk*D, or :pre on values. */
int kv_format_check(const kv_format *f, kv_shape s, int is_values,
                    kv_error *err);

/* 1 if it has codes at all (not f16, bf16, f32); if these are llama.cpp's
 * blocks; if a minimum is stored beside the scale. */
int kv_format_coded(const kv_format *f);
int kv_format_blocks(const kv_format *f);
int kv_format_has_min(const kv_format *f);

//@ groups: Chapter 3: quantize a group of numbers
/* One group x[i*stride], i < n; kept[i] != 0 leaves element i out (kept NULL:
 * none). codes[i*stride] gets the stored code (kept: 0); symmetric codes are
 * stored as q + 2^(b-1). scale and min are binary16 bits (no minimum: min is
 * 0, and may be NULL). Ours: lo, hi = extremes of the others,
 * float32;
 *   s = half((hi-lo)/(2^b-1)), m = half(lo)
 *   q = clamp(rne((x-m)/s), 0, 2^b-1) with the *stored* s and m
 * Symmetric: s = half(max|x|/(2^(b-1)-1)), q = clamp(rne(x/s), -2^(b-1),
 * 2^(b-1)-1). s = 0 after rounding: q = 0. All kept: s = m = 0.
 * NF: s = half(max|x|), the level nearest to x/s, ties to the lower code.
 * E4M3: s = half(max|x|/448), the 8-bit float nearest to x/s, ties to even;
 * the code of -0 is 0x80. s = 0: the code of level 0 (E4M3: 0).
 * NaN, infinity and |x| >= 65520, which binary16 cannot hold, are KV_FAIL_RUN,
 * kept or not. n = 0: s = m = 0. Blocks: n is KV_BLOCK, stride 1, all kept or
 * none. */
int kv_quantize_group(uint8_t *codes, uint16_t *scale, uint16_t *min,
                      const float *x, const uint8_t *kept, int n, int stride,
                      const kv_format *f, kv_error *err);

/* x^ of one stored code: q*s + m, product and sum each rounded to float32;
 * symmetric: q*s, NF and E4M3: level*s; min is then not looked at. */
float kv_dequantize(int code, uint16_t scale, uint16_t min,
                    const kv_format *f);

//@ group-steps: Chapter 3: the steps of it
/* Marks of an element, in its place in codes, before it has a code. */
enum {
    KV_UNCOUNTED = 1, /* not in lo and hi */
    KV_UNCODED = 2,   /* its code will be 0 */
    KV_LEFT_OUT = 3,  /* both */
    KV_OUTLIER = 7    /* both, and listed among the outliers */
};

/* KV_FAIL_RUN naming the first of x[i*stride], i < n, that binary16 cannot
 * hold: NaN, infinity, |x| >= 65520. */
int kv_check_half(const float *x, int n, int stride, kv_error *err);

/* The same as kv_quantize_group, with marks instead of kept flags, for numbers
 * that kv_check_half lets pass. range {lo, hi} replaces the extremes (static
 * formats), or NULL. */
int kv_quantize_marked(uint8_t *codes, uint16_t *scale, uint16_t *min,
                       const float *x, int n, int stride, const kv_format *f,
                       const float *range, kv_error *err);

/* Scale and minimum from the extremes (no minimum: *min stays as it is), and
 * one stored code from them. Not for blocks. */
void kv_group_scale(uint16_t *scale, uint16_t *min, float lo, float hi,
                    const kv_format *f);
int kv_quantize_code(float x, uint16_t scale, uint16_t min,
                     const kv_format *f);

//@ kivi: Chapter 3: the same in KIVI's arithmetic
/* mn, mx = extremes in binary16; s = half(half(mx - mn)/Q); q = rne(clamp(
 * half(half(x - mn)/s), 0, Q)); x^ = half(half(q*s) + mn). s = 0: q = 0.
 * x is rounded to binary16 first. Source: KIVI; the quotient (mx-mn)/Q is that
 * of two halves. A range for which mx-mn, Q*s or Q*s + mn overflows is
 * KV_FAIL_RUN where a group is quantized. */
void kv_kivi_scale(uint16_t *scale, uint16_t *min, float lo, float hi,
                   int bits);
int kv_kivi_code(float x, uint16_t scale, uint16_t min, int bits);
float kv_kivi_value(int code, uint16_t scale, uint16_t min);

//@ uneven: Chapter 3: levels that are not evenly spaced
/* NF with b = 2, 3, 4 bits: level of a code (codes ascend with the level), and
 * the code of the level nearest to x, distances in float32, the lower code on
 * ties. Source: QLoRA's construction. */
float kv_nf_level(int code, int bits);
int kv_nf_code(float x, int bits);

/* E4M3 (FN): bias 7, largest 448, no infinities. To the nearest, ties to even,
 * saturating (NaN too, as the largest). Source: Micikevicius et al. (2022). */
#define KV_E4M3_MAX 448.0f
float kv_e4m3_to_float(uint8_t code);
uint8_t kv_e4m3_from_float(float x);

//@ blocks: Chapter 3: llama.cpp's blocks
#define KV_BLOCK 32

/* Codes, d and m of 32 numbers; m = 0 where the kind has none. codes[0]
 * marked KV_UNCODED: codes, d and m are 0. Codes are unsigned: q8_0 stores q,
 * and gives q + 128 here. The float32 d decides (x times float32 1/d, as
 * llama.cpp does it), the binary16 d is stored. d whose inverse is infinite
 * counts as 0. Source: ggml. */
void kv_block_quantize(uint8_t *codes, uint16_t *d, uint16_t *m,
                       const float *x, kv_kind kind);

/* Bytes of a block (18, 20, 22, 24, 34), and of its d and m. */
int kv_block_bytes(kv_kind kind);
int kv_block_scale_bytes(kv_kind kind);

/* A block byte for byte as llama.cpp has it; its code j; its d and m. */
void kv_block_pack(uint8_t *block, const uint8_t *codes, uint16_t d,
                   uint16_t m, kv_kind kind);
int kv_block_code(const uint8_t *block, int j, kv_kind kind);
void kv_block_scale(uint16_t *d, uint16_t *m, const uint8_t *block,
                    kv_kind kind);

//@ rows: Chapter 3: even out a row before it is quantized
/* x [heads][D] = H x / sqrt(D) for each head, natural order; D is a power of
 * two. Float32 butterflies at distances 1, 2, 4, ... (sum into the lower
 * place, difference into the upper), then one product with (float)(1/sqrt(D)).
 * Its own inverse but for rounding. Source: QuaRot. */
void kv_hadamard(float *x, int heads, int D);

/* float32 of sqrt(max(sum of x[n]^2, 1e-8)), the sum in double, in order.
 * Source: OScaR. */
float kv_token_norm(const float *x, int n);

/* A row x [Hk][D] on its way to the groups: had, then norm (x divided by
 * *norm), as far as the format has them. And back, for `heads` heads of it:
 * times norm, then had. Without norm, *norm is not touched. */
void kv_row_prepare(float *x, float *norm, const kv_format *f, kv_shape s);
void kv_row_restore(float *x, float norm, const kv_format *f, int heads,
                    int D);

//@ sparse: Chapter 3: take a few outliers out
/* Value as binary16, index: the token within the window (keys), the channel
 * within the row (values). */
typedef struct { uint16_t value, index; } kv_entry;

/* How many at each end of n numbers: floor(n*P/200), in integers. */
int kv_outliers_each(const kv_format *f, int n);

/* Of x[i*stride], i < n, whose mark is 0: the k largest, then of the others
 * the k smallest; ties to the lower position, -0 and 0 are equal. They get the
 * mark KV_OUTLIER and an entry each, 2*k, ascending by index. */
void kv_outliers_take(kv_entry *entry, uint8_t *marks, const float *x, int n,
                      int stride, int k);

/* Writes those of n entries whose index lies in first..first+count-1 to
 * x[(index - first)*stride]. */
void kv_outliers_put(float *x, const kv_entry *entry, int n, int stride,
                     int first, int count);

//@ arrays: Chapter 3: quantize a whole array
/* How the groups of [T][Hk][D] lie. scale and min are [groups] in the order
 *   channel:G [ceil(T/G)][Hk][D]   channel:all [1][Hk][D]
 *   token:G   [T][Hk][D/G]         token:all   [T]
 *   blocks    [T][Hk*D/32]
 * The last group along tokens may be short. */
typedef struct {
    int length;   /* elements of a full group; channel:all: T */
    int across;   /* groups side by side (Hk*D, or Hk*D/G per token) */
    int stride;   /* distance of a group's elements in x */
} kv_grouping;

kv_grouping kv_group_layout(const kv_format *f, kv_shape s, int T);
/* T = 0, and f16, bf16, f32, have no groups. */
size_t kv_group_count(const kv_format *f, kv_shape s, int T);

/* Entries of outP for T tokens of which `kept` are kept (per token under
 * EXCLUDE_ONLY these count as any other). Keys: for each of the Hk*D channels
 * 2*floor((T-kept)*P/200), values: for each token that is not kept
 * 2*floor(Hk*D*P/200). */
size_t kv_sparse_count(const kv_format *f, kv_shape s, int T, int kept,
                       int is_values);

/* {lo, hi} of group `across` of a static format, from those of the channels
 * [Hk*D]: per channel the channel's own, per token the extremes of both over
 * the channels of the group. */
void kv_static_range(float range[2], const float *lo, const float *hi,
                     const kv_format *f, kv_grouping g, int across);

/* KV_FAIL_RUN unless all of lo, hi [row] are low to high within binary16. */
int kv_static_check(const float *lo, const float *hi, int row, kv_error *err);

//@ quantize: Chapter 3: and what comes of it
typedef struct {
    const float *x;      /* [T][Hk][D] */
    const uint8_t *kept; /* [T] flags, or NULL: none */
    kv_shape shape;
    int T;
    int is_values;       /* 0: keys. Decides how outP counts */
    const float *lo, *hi; /* [Hk*D], static formats only, else NULL */
} kv_rows;

typedef struct {
    uint8_t *codes;        /* [T][Hk][D] stored codes, 0 where there is none */
    uint16_t *scale, *min; /* [groups]; min is all 0 where there is none */
    float *x_hat;          /* [T][Hk][D], what a reader gets */
    float *norm;           /* [T], formats with norm; kept tokens 0 */
    kv_entry *sparse;      /* outP: keys [Hk*D][2k], values [tokens][2k] in the
                              order of the tokens that have any */
} kv_quantized;

/* had, norm, outliers, groups; and back. Kept rows come back as binary16 of x,
 * with code 0. A static format's scale and min are those of its constants,
 * kept or not. For f16, bf16, f32 only x_hat is written. x is taken as it is
 * (a cache rounds it first). Errors as kv_quantize_group, also for what had
 * makes of a row; outP on more than 65536 tokens (keys) or channels (values);
 * KV_FAIL_USAGE for a static format without lo and hi. What has been written by
 * then is of no use. */
int kv_quantize(const kv_quantized *out, const kv_rows *in, const kv_format *f,
                kv_error *err);

//@ packing: Chapter 4: put codes side by side
/* Code j of a group occupies bits [b*j, b*j+b) of a little-endian bit stream;
 * a group is padded to whole 32-bit words with zero bits. n codes need
 * kv_packed_words(n, bits) words; n = 0 none. */
int kv_packed_words(int n, int bits);

/* words from n codes, codes[j*stride] < 2^bits; and code j back. */
void kv_pack(uint32_t *words, const uint8_t *codes, int n, int stride,
             int bits);
int kv_unpack(const uint32_t *words, int j, int bits);

//@ store: Chapter 4: keep one layer's keys, or its values
#define KV_HEAD_MAX 512 /* largest head size */

/* Rows 0..quantized-1 are codes (kept rows are holes with code 0), the rest
 * wait in 16 bits. A kept row lies in the side table from the moment it
 * arrives, and nowhere else (KV_KEPT_EXCLUDE_ONLY: there is no table). */
typedef struct {
    kv_format format;
    kv_shape shape;
    int is_values;
    int recent;    /* R */
    int capacity;  /* tokens */
    int tokens;    /* rows appended so far */
    int quantized; /* of these, in the packed area */
    const float *lo, *hi; /* [Hk*D] of this layer, static formats */
    uint32_t *words;
    uint8_t *blocks;      /* llama.cpp's kinds: [quantized][Hk*D/32] blocks,
                             and no words, scale, min */
    uint16_t *scale, *min; /* not for static formats */
    float *norm;          /* [quantized], kept ones 0 */
    kv_entry *sparse;     /* in the order of kv_quantized */
    uint16_t *kept;    /* [kept tokens][Hk*D] */
    uint16_t *waiting; /* [tokens - quantized, those in the table left out]
                          [Hk*D]; for f32 twice as wide */
    int n_waiting;
} kv_store;

//@ cache: Chapter 4: keep one sequence
typedef struct { const float *lo, *hi; } kv_limits; /* [layers][Hk*D] */

typedef struct {
    int layers;
    kv_shape shape;
    kv_rope rope;         /* for keys stored before RoPE, else may be zero;
                             dims <= D */
    kv_format keys, values;
    int recent;           /* R */
    int capacity;         /* tokens at most */
    int kept_capacity;    /* kept tokens per layer at most */
    int window;           /* 1: whole-window use, allows what needs all tokens
                             before the first is quantized */
    kv_limits key_limits, value_limits; /* static formats; on the format's
                             side of RoPE; they stay the caller's */
} kv_cache_spec;

typedef struct {
    kv_store k, v;
    int *position; /* kept positions, ascending */
    int n_kept;
} kv_cache_layer;

//@ cache-work: Chapter 4: and what it works with
/* Scratch for quantizing: a cache has one; threads that append to different
 * layers need one each. */
typedef struct {
    float *rows, *x_hat;
    uint8_t *codes, *flags;
    uint16_t *scale, *min;
} kv_cache_work;

typedef struct {
    kv_cache_spec spec;
    kv_cache_layer *layer;
    kv_cache_work work;
} kv_cache;

//@ cache-init: Chapter 4: set a cache up
/* Bytes of memory that a cache of this kind needs (0 if it would be refused),
 * and its set-up in them. memory is aligned for any type, as malloc's is.
 * KV_FAIL_USAGE: a format that does not fit the shape, channel:all or outP
 * (P > 0) on keys without window, kivi on a channel axis with a recent window
 * that is not a multiple of G, a static format without limits, no layer or no
 * token; KV_FAIL_RUN: limits that binary16 cannot hold, memory is NULL. */
size_t kv_cache_size(const kv_cache_spec *spec);
int kv_cache_init(kv_cache *c, const kv_cache_spec *spec, void *memory,
                  kv_error *err);

/* The same for the scratch of one more thread; spec as above. */
size_t kv_cache_work_size(const kv_cache_spec *spec);
void kv_cache_work_init(kv_cache_work *w, const kv_cache_spec *spec,
                        void *memory);

//@ cache-append: Chapter 4: fill a cache
/* Append n rows to one layer. k [n][Hk][D] (on the format's side of RoPE), v
 * [n][Hk][D]; kept [n_kept]: positions, ascending, that stay in 16 bits (those
 * outside the new rows are ignored; n_kept = 0: kept may be NULL). Rows are
 * rounded to binary16 on arrival (f32 and bf16 formats: to theirs), so that a
 * token's codes do not depend on how long it waited. A token is recent while
 * fewer than R newer ones exist; then a per-token row is quantized, and a
 * per-channel group as soon as all its tokens have stopped being recent. One
 * append of n equals n appends of one, n = 0 is nothing. KV_FAIL_RUN, and
 * nothing has changed: no room, a number that is not finite or too large for
 * binary16 (before or after `had`; kivi: above 32000, so that no range can
 * overflow), a cache whose short last group has been sealed. */
int kv_cache_append(kv_cache *c, int layer, const float *k, const float *v,
                    const int *kept, int n_kept, int n, kv_error *err);

//@ cache-settle: Chapter 4: age as KIVI does
/* The flag kivi ages before a token arrives instead of after, so that a step
 * attends in 16 bits to what it is about to quantize: per channel all R
 * waiting tokens (R = 0: a group) at once, per token the oldest of R + 1. This
 * does it now, as at the end of KIVI's prefill, which leaves T mod R keys and
 * min(T, R) values waiting; other formats have nothing left to do. */
void kv_cache_settle(kv_cache *c, int layer);

//@ cache-keep: Chapter 4: keep a token that waits
/* Keep one more token if neither its key nor its value has been quantized:
 * *done is 1, else 0 (a token once quantized is never promoted, and a kept one
 * stays). KV_FAIL_USAGE: no such position; KV_FAIL_RUN: no room. */
int kv_cache_keep(kv_cache *c, int layer, int position, int *done,
                  kv_error *err);

/* Quantize what waits, the short last group with the elements it has: the
 * whole-window evaluation of the published simulations. A short last group
 * takes no more tokens; to seal it twice is KV_FAIL_RUN. */
int kv_cache_seal(kv_cache *c, int layer, kv_error *err);

//@ cache-read: Chapter 4: read a cache and count its bytes
/* x [n][Hk][D]: what attention would read for tokens first..first+n-1, on the
 * format's side of RoPE. values: 0 keys, 1 values. The second reads one head
 * of one token, x [D]. */
void kv_cache_read(float *x, const kv_cache *c, int layer, int values,
                   int first, int n);
void kv_cache_read_head(float *x, const kv_cache *c, int layer, int values,
                        int t, int kv_head);

/* Exact bytes of what a layer holds, by kind. Packed words (holes and padding
 * included) or the codes of blocks; scales and minima (static ones belong to
 * the model: 0); 4 bytes for the norm of each quantized token, kept or not; 4
 * for each outlier; kept rows and 4 bytes for each kept position; recent rows.
 * f16, bf16, f32 hold rows only. */
typedef struct {
    size_t codes, scales, norms, outliers, kept, recent, total;
} kv_bytes;

kv_bytes kv_cache_bytes(const kv_cache *c, int layer);

/* How many of the ascending position[n] lie before t: the index of t if it is
 * listed. */
int kv_positions_before(const int *position, int n, int t);

//@ memory: Chapter 2: let something else keep keys and values
/* Takes the n new rows of a layer and answers their queries.
 *   out [n][H][D], rows as kv_attention or NULL, q after RoPE,
 *   k after and k_pre before RoPE, position: RoPE position of the first row
 * Returns KV_OK or a code; tinymodels/memory.h has a whole window and a
 * stream through the packed cache. */
typedef struct kv_memory {
    void *self;
    int (*attend)(void *self, const kv_backend *backend, int layer, float *out,
                  float *rows, const float *q, const float *k,
                  const float *k_pre, const float *v, const float *sink,
                  int position, int n, kv_error *err);
} kv_memory;

//@ keep: Chapter 5: choose tokens that stay in 16 bits
/* Per layer an ascending list of positions. */
typedef struct {
    int layers, capacity;
    int *count;    /* [layers] */
    int *position; /* [layers][capacity] */
} kv_keep;

typedef enum {
    KV_KEEP_NONE, KV_KEEP_FIRST, KV_KEEP_POSITIONS, KV_KEEP_IDS, KV_KEEP_KVSINK,
    KV_KEEP_ROTATEKV, KV_KEEP_TOPH, KV_KEEP_ATTENTION, KV_KEEP_CRITERION,
    KV_KEEP_RANDOM, KV_KEEP_BIGKEYS, KV_KEEP_SMALLKEYS, KV_KEEP_GREEDY
} kv_keep_kind;
typedef enum { KV_LAYERS_ALL, KV_LAYERS_AFTER, KV_LAYERS_RANGE } kv_keep_layers;
typedef enum { KV_STAGE_LARGEST, KV_STAGE_AT, KV_STAGE_EACH, KV_STAGE_JOIN,
               KV_STAGE_UNION }
    kv_keep_stage;

#define KV_LIST_MAX 256 /* positions: and ids: name at most so many */
/* What kvsink:best stands for: a rule over stages and layers, chosen for low
 * divergence at few rows on the texts of chapters/06-kvsink/choose.sweep.
 * Ours. */
#define KV_KEEP_BEST "kvsink:auto@union/all"

//@ keep-rule: Chapter 5: write such a choice as a short text
typedef struct {
    kv_keep_kind kind;
    int k;                     /* N or K; -1 for kvsink:auto */
    kv_keep_stage stage;
    int stage_layer;           /* KV_STAGE_AT */
    kv_keep_layers layers;
    int first_layer, last_layer; /* KV_LAYERS_RANGE, inclusive */
    int decode;                /* +decode, and always with criterion */
    int learned;               /* ids:learned, those of the profile */
    int best;                  /* was written kvsink:best */
    int without_sinks;         /* attention:K-sinks */
    double multiplier;         /* M of criterion */
    uint64_t seed;             /* of random */
    int n_list;                /* positions: or ids: */
    int list[KV_LIST_MAX];
} kv_keep_rule;

/* RULE[/LAYERS][+decode], e.g. first:5, positions:3,17, ids:1,2, ids:learned,
 * kvsink:5@4/all, toph:5, random:5:42. The file ref/keep_text.c opens with the
 * grammar. KV_FAIL_USAGE otherwise, and for +decode with a rule that cannot
 * judge a token alone. */
int kv_keep_parse(kv_keep_rule *r, const char *text, kv_error *err);

/* 1 if the rule cannot do without a profile: kvsink, ids:learned,
 * attention:K-sinks, and any rule with /after. */
int kv_keep_needs_profile(const kv_keep_rule *r);

//@ keep-score: Chapter 5: score tokens by size, attention or key norm
/* The largest |x| of each row, and each row's Euclidean norm; x [T][C]. Sums
 * of norms run in double, in the order of the channels. C = 0 gives 0. The
 * first scores residuals (RotateKV's question, one token at a time), the
 * second keys over all KV heads; RoPE does not change a norm. Ours. */
void kv_row_peaks(double *peak, const float *x, int T, int C);
void kv_row_norms(double *norm, const float *x, int T, int C);

/* Add the attention that n more queries give, behind `past` earlier ones, to
 * sum[past+n] (what is new there starts at 0). rows [H][n][past+n]. However
 * the queries are cut into calls, the sums are the same to the bit. */
void kv_attention_add(double *sum, const float *rows, int H, int past, int n);

/* From such sums to a[T]: the mean over H heads and over the T-t queries that
 * could see key t. a may be sum. */
void kv_attention_mean(double *a, const double *sum, int H, int T);

//@ keep-choose: Chapter 5: choose tokens from their scores
/* The K smallest x[T] >= 0, positions ascending; returns how many. The mirror
 * of kv_top_magnitudes: within one part in a thousand of the K-th smallest
 * counts as equal, lower positions win. scratch: T floats. Ours. */
int kv_smallest(int *position, const float *x, int T, int K, float *scratch);

/* The tokens that hold the 20 largest entries |x| of x [T][C], at most 20,
 * ascending; returns how many. Compared exactly, the first of equals (token,
 * then channel) wins. Source: RotateKV, section on attention sinks. */
#define KV_ROTATEKV_ENTRIES 20
int kv_rotatekv_tokens(int *position, const float *x, int T, int C);

/* min(K, T) distinct positions, ascending, the same on every machine: the
 * generator splitmix64 from seed, each number modulo T, drawn again if it was
 * taken. Returns how many. Ours. */
int kv_random_positions(int *position, uint64_t seed, int T, int K);

/* a[L][T], attention received per layer. Token t's criterion is the mean over
 * the layers minus M times their (population) standard deviation: attention
 * that all layers agree on. L >= 1. The set: the 5 largest, all if T < 5,
 * ascending; compared exactly, lower positions first. Returns how many.
 * Source: some summaries of KVSink; we have not seen it in the paper. */
#define KV_CRITERION_TOKENS 5
double kv_criterion(const double *a, int L, int T, int t, double M);
int kv_criterion_tokens(int *position, const double *a, int L, int T,
                        double M);

//@ kvsink: Chapter 6: predict sinks before attention is computed
typedef struct {
    int layers, width, vocab;
    uint64_t hash;      /* of the weights; differs between weight formats */
    int weak;           /* no outlier reached 100: found by ratio alone */
    int n_stages;
    kv_stage *stage;    /* ascending by layer */
    int n_ids;
    int *ids;           /* token ids that were sinks in calibration */
    int range_row;      /* Hk*D; 0: nothing is known for static formats */
    float *range;       /* [3][2][layers][Hk*D] of keys, keys before RoPE,
                           values: lowest, highest */
    char *range_keep;   /* rule whose tokens were left out of them, or NULL */
} kv_profile;

/* The ranges that a format reads (static ones only, else both NULL), on its
 * side of RoPE; p may be NULL. Missing: KV_FAIL_USAGE, naming calibrate. */
int kv_profile_limits(kv_limits *limits, const kv_profile *p,
                      const kv_format *f, int is_values, kv_error *err);

//@ kvsink-set: Chapter 6: the tokens with the largest outliers
/* The K largest |h[T]|, positions ascending; returns how many (min(K, T)).
 * Values within one part in a thousand of the K-th count as equal to it, and
 * among equals the lower positions win, so that a prompt of one repeated token
 * gives the same set everywhere. All zero: the first K. Source: KVSink; the
 * tie rule is ours. scratch: T floats. */
int kv_top_magnitudes(int *position, const float *h, int T, int K,
                      float *scratch);

/* Ours: every token whose |h| reaches the threshold, at most
 * max(5, T/20), the largest first, with the tie rule above; *capped is 1 when
 * that cap binds, else 0. Returns how many; positions ascending. */
int kv_above_threshold(int *position, int *capped, const float *h, int T,
                       double threshold, float *scratch);

//@ thresholds: Chapter 6: learn where sinks begin
/* Separate the sinks of one prompt: a[n] = |h|, n >= 1, is sorted in place,
 * descending. The cut of largest ratio within the first half (values below
 * 1e-6 of the largest count as that) decides; the threshold is the geometric
 * mean of the two values beside it. n = 1: half of the only value. All zero
 * gives 0. */
double kv_gap_threshold(float *a, size_t n);

/* Sum up the prompts (1 or more) that show a stage: threshold = median of
 * theirs (even count: geometric mean of the two middle ones; both arrays are
 * reordered), at_sinks and elsewhere = medians of pooled |h| [n] from the
 * threshold up and below it (none: 0). Ours: one gap over all prompts together
 * would close as text is added, because outliers come in every size. */
void kv_stage_threshold(kv_stage *stage, double *per_prompt, int prompts,
                        float *pooled, size_t n);

/* Count, over the tokens [T] of one more prompt, how often each id occurs and
 * how often it is a sink: |h[s][t]| reaches the threshold of any of n stages,
 * h [n][T]. Position 0 is left out: what stands there is a sink by its place.
 * seen, sunk [vocab]; ids must lie within the vocabulary. Ours. */
void kv_ids_count(int *seen, int *sunk, const int *tokens, const float *h,
                  int T, const kv_stage *stage, int n);

/* The ids that were sinks in at least half of their occurrences, ascending;
 * returns how many. ids NULL: only counts. Ours. */
int kv_ids_learned(int *ids, const int *seen, const int *sunk, int vocab);

/* The stage of largest at_sinks / elsewhere: the paper's single stage.
 * No stage: -1. */
int kv_profile_largest(const kv_profile *p);

//@ keep-build: Chapter 6: apply a rule to a text
/* What a rule needs to know about the text. All of it comes from one pass
 * without quantization; what a rule does not read may be NULL. L: the layers
 * of the keep set. */
typedef struct {
    int T;
    const int *tokens;        /* [T] */
    const kv_profile *profile; /* where kv_keep_needs_profile, else NULL */
    const float *h;           /* [n_stages][T]: H^layer[t, channel]; kvsink,
                                 attention:K-sinks */
    float *scratch;           /* [2*T] */
    int *found;               /* [2*T] scratch */
    const double *score;      /* [L][T] of the rule, per layer:
                                 toph: kv_row_peaks of the layer's input;
                                 attention, criterion: kv_attention_mean;
                                 bigkeys, smallkeys: kv_row_norms of keys */
    const kv_keep *own;       /* rotatekv: kv_rotatekv_tokens of each layer's
                                 input; may be any lists */
} kv_keep_input;

/* keep: layers and arrays set up by the caller, capacity >= T or enough
 * (KV_FAIL_RUN if not). *capped (or NULL) is 1 if an auto rule met its cap in a
 * layer that it covers. A model without emergence stages gives kvsink an
 * empty set, and so /after with any rule. KV_FAIL_USAGE: a position outside
 * the text, a layer outside the model, a stage that the profile lacks, no
 * profile or no score where one is needed, and greedy, which is found by
 * trying (tinymodels/greedy.h). KV_FAIL_RUN: a score that is not finite. */
int kv_keep_build(kv_keep *keep, int *capped, const kv_keep_rule *r,
                  const kv_keep_input *in, kv_error *err);

//@ decode: Chapter 7: attend straight from codes
/* One query q [H][D] (after RoPE) over all tokens of a cache layer; out
 * [H][D]; rows [H][tokens] or NULL; sink as in kv_attention. Keys stored
 * before RoPE are rotated as they are read, token t to position
 * t + shift. scratch: tokens + D floats. An f32 cache gives what kv_attention
 * gives, bit for bit; an empty one zeros. A score that is not finite is
 * KV_FAIL_RUN. */
int kv_decode(float *out, float *rows, const float *q, const kv_cache *c,
              int layer, const float *sink, int shift, float *scratch,
              kv_error *err);

//@ end: Close the header
#ifdef __cplusplus
}
#endif

#endif
