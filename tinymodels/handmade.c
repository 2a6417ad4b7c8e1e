/* The hand-built model: weights with reasons.
 *
 * THE TASK. Say what followed the last time. At "... The moon rose over" look for an earlier place
 * where "moon rose over" stood, and say the word that came next. Elhage et al. (2021) and Olsson
 * et al. (2022) found this circuit, a previous-token head and an induction head, in trained
 * models. Here it is soldered by hand, and around it what trained models grow as well: somewhere
 * to look when there is nothing to find.
 *
 * THE RESIDUAL STREAM has 256 channels, used by name (enum below). A token brings its address
 * (by which it is looked up), its name (what is said), a random signature (all that is true of
 * it and does not matter here) and ALWAYS = 1. Nearly all channels are +1 or -1 for every token,
 * and what heads write later is small against them. So RMSNorm divides every ordinary token by
 * the same number, the norm's gain undoes that, and a head that reads a channel reads +1 or -1.
 *
 * LAYER BY LAYER
 *   0  attention: head j fetches the address (head 1: also the name) of the token j places
 *      back. After it every token knows the four before it.                          initial
 *   1  FFN: a unit whose gate fires on the mark PAUSE writes 2048 into channel OUTLIER. The
 *      embedding marks the begin token and the full stop.                          emergence
 *   2  attention: head 0 looks for places before which the last three tokens stood, head 1 the
 *      last one; they vote for the tokens found there.                                stable
 *   3  attention: the same from one place later, voting for the token before it.
 *      FFN: a unit that fires on the outlier writes -2048.                       dissipation
 *   4  FFN: after a full stop vote for a new line; always, a little, for a full stop.  final
 *   Then the output layer compares the votes with all names.
 *
 * SINKS. At a marked token 2048 swamps the other channels: after RMSNorm the outlier is 16 and
 * they are 1/128. The value, read from the name, is nearly nothing; the key is what the outlier
 * alone makes of it: 4 in channel PARK, where ordinary keys have nothing. All queries are large
 * there, so every head has a standing offer from the sinks: so many points, and nothing to carry
 * home. The offer sets the threshold of a head. A match of three tokens scores 108 nats, two and
 * a half at most 96; the sinks offer 102. Heads 2 and 3 look for nothing at all ("dormant") and
 * take the offer always. As in trained models (Gu et al. 2025; KVSink, section 3.2) a sink's key
 * is small, 4 against 96, and has a high cosine with the queries that go to it.
 *
 * A sink pays for it: in layers 2 and 3 it has forgotten what it is. No key leads to it, so "." is
 * never copied from where it stands; that is why layer 3 looks from one place later, where layer
 * 0 has noted the token before. And it cannot look for anything itself; so layer 4, when the
 * dissipation has brought its address back to light, must say what follows it.
 *
 * WHAT TWO BITS DO. In the channels that are matched ordinary keys are 16 + 1 or 16 - 1. The 16
 * is of no use and no harm: addresses sum to zero, so no query sees it. (Trained keys too have
 * channels that are large and nearly constant; KIVI quantizes keys per channel because of them.) A
 * group of ordinary keys runs from 15 to 17, and 2 bits hold both ends exactly. But RMSNorm has
 * taken the 16 away from a sink: its key is about 0.1 there. With a sink in the group the range
 * is 0.1 to 17, a step is 5.6, and 15 and 17 both become 17. All addresses are lost, nothing is
 * ever found, all heads park. Leave the sink out of minimum and maximum and nothing is lost.
 *   How far out must the sink be? Levels lie (17 - k)/3 apart if its key is k, and 15 becomes 17
 * when half a step is more than 2: k < 5. With 3 bits it takes k < -11: three bits survive.
 *
 * ROPE AND TWO BITS. Layer 0 needs positions, layers 2 and 3 must not see them. RoPE turns pair i
 * by 10000^(-i/32) per token; Llama 3's rope_freqs.weight divides that. Here it makes the first
 * 13 pairs 3.2 times faster, so that even neighbours are far apart, and slows the other 19 to a
 * standstill. Keys that go round in circles are hard on 2 bits, four levels for a whole cosine.
 * Still, of the 13 that a perfect alignment scores, the wrong places stay behind by at least 2.4
 * up to a distance of 2048 and 3.9 up to 1024 (searched: groups of 32, 64, 128 and all; exact
 * keys: 4.1 and 5.3). */
#include "handmade.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gguf.h"
#include "handmade_vocabulary.h"

/* -------------------------------------------------------------- constants */

enum {
    LAYERS = TM_HANDMADE_LAYERS, WIDTH = TM_HANDMADE_WIDTH, FFN = TM_HANDMADE_FFN,
    HEADS = TM_HANDMADE_HEADS, KV_HEADS = TM_HANDMADE_KV_HEADS, HEAD = TM_HANDMADE_HEAD
};

/* Channels of the residual stream. */
enum {
    ADDRESS = 0,                             /* 12: the token's own address */
    BEFORE = ADDRESS + HM_ADDRESS,           /* 4 x 12: addresses of the tokens 1..4 before */
    LOOK_BACK = 4,
    NAME = BEFORE + LOOK_BACK * HM_ADDRESS,  /* 48: the token's own name */
    NAME_BEFORE = NAME + HM_NAME,            /* 48: name of the token before */
    VOTES = NAME_BEFORE + HM_NAME,           /* 48: the sum of what heads and units vote for */
    ALWAYS = VOTES + HM_NAME,                /* 1 */
    PAUSE = ALWAYS + 1,                      /* +1 in marked tokens, -1 in others */
    OUTLIER = PAUSE + 1,                     /* 2048 in sinks, +-1/16 in others */
    SIGNATURE = OUTLIER + 1                  /* the rest: random +-1 */
};

/* Channels of a query or key head. Pair i is the channels 2i, 2i+1. */
enum {
    TURNING = 13,                           /* pairs that RoPE turns */
    MATCH = 2 * TURNING,                    /* 3 x 12: addresses */
    CONTEXT = 3,                            /* tokens that a long head compares */
    PARK = MATCH + CONTEXT * HM_ADDRESS     /* where sinks make their offer */
};

/* Channels of a value head: in layer 0 address, then name; later the name only. */
enum { VALUE_ADDRESS = 0, VALUE_NAME = HM_ADDRESS, VALUE_VOTE = 0 };

/* Turn of the first 13 pairs against 10000^(-i/32), and divisor of the others. */
static const double faster = 3.2, standstill = 1e9;

/* Layer 0: amplitude of queries and keys. The smallest lead, 2.4, is then 100 * 2.4 / sqrt(64)
 * = 30 nats. */
static const double positional = 10;

/* Layers 2 and 3: where addresses are compared keys are offset +- 1, queries +-24. One address
 * differs from another by at least 4 (12 against 8), so 24 * 4 / sqrt(64) = 12 nats, half of it on
 * either side of the sinks' offer. Larger numbers would cost accuracy in float32: a score is the
 * small difference of two sums of 16 * 24 * 18. */
static const double offset = 16, query = 24;

/* The sinks' key in PARK; small against ordinary keys. */
static const double sink_key = 4;

/* The outlier, and what ordinary tokens have in its channel: something, as in trained models, but
 * too little to move a head (24 * 34 / 16 / 16 / 8 = 0.4 nats against 6). */
static const double outlier = 2048, ordinary = 0x1p-4;

/* Votes, in units small enough to leave RMSNorm alone: all of them, 12/64 in 48 of 256 channels,
 * are 0.3 % of its divisor. A long match outvotes both short ones and these the default. */
static const double vote_unit = 0x1p-6;
static const double vote_long = 4, vote_short = 1.5, vote_default = 1, vote_newline = 8;

/* What dormant heads would say if they were ever to look at something else than sinks. */
static const double vote_dormant = 0.25;

/* Output weights: where nothing is found the default leads by 5 * (48 - 20) / 64 = 2.2 nats or more
 * and the model is otherwise undecided; where two long matches agree they lead by eight
 * times that. */
static const double output = 5;

static const double norm_eps = 1e-5;

/* ------------------------------------------------------------- a workshop */

typedef struct {
    float *x;
    int rows, cols; /* outputs, inputs: as in y = x W^T */
} matrix;

typedef struct {
    float *attn_norm, *ffn_norm;
    matrix q, k, v, o, gate, up, down;
} layer;

typedef struct {
    int vocabulary;
    int8_t *address, *name;
    matrix embed, output;
    float *norm, rope[HEAD / 2];
    layer layer[LAYERS];
    float *memory; /* all of the above */
    size_t used;
} model;

static void set(matrix m, int row, int col, double w)
{
    m.x[row * m.cols + col] = (float)w;
}

/* n outputs from n inputs, in order, times w. */
static void copy(matrix m, int row, int col, int n, double w)
{
    for (int i = 0; i < n; i++) set(m, row + i, col + i, w);
}

/* What RMSNorm divides ordinary tokens by, and the gain that undoes it. All channels but VOTES and
 * OUTLIER are +-1; before layer 0's attention the notes about earlier tokens are missing. */
static double ordinary_rms(int notes_taken)
{
    int ones = WIDTH - HM_NAME - 1;
    if (!notes_taken) ones -= LOOK_BACK * HM_ADDRESS + HM_NAME;
    return sqrt((double)ones / WIDTH);
}

/* After norm and gain a sink has outlier_seen (about 14) in OUTLIER, +-rest_seen elsewhere. */
static double sink_rms(void)
{
    double ones = ordinary_rms(1) * ordinary_rms(1) * WIDTH;
    return sqrt((outlier * outlier + ones) / WIDTH);
}
static double outlier_seen(void) { return ordinary_rms(1) * outlier / sink_rms(); }
static double rest_seen(void) { return ordinary_rms(1) / sink_rms(); }

/* -------------------------------------------------------------- embedding */

static void embed(const model *m, tm_sinks sinks)
{
    uint64_t state = 2;
    for (int id = 0; id < m->vocabulary; id++) {
        int marked = (id == TM_HANDMADE_BEGIN && sinks >= TM_SINKS_ONE) ||
                     (id == TM_HANDMADE_STOP && sinks >= TM_SINKS_SEVERAL);
        for (int i = 0; i < HM_ADDRESS; i++)
            set(m->embed, id, ADDRESS + i, m->address[id * HM_ADDRESS + i]);
        for (int i = 0; i < HM_NAME; i++) {
            set(m->embed, id, NAME + i, m->name[id * HM_NAME + i]);
            set(m->output, id, VOTES + i, output * m->name[id * HM_NAME + i]);
        }
        set(m->embed, id, ALWAYS, 1);
        set(m->embed, id, PAUSE, marked ? 1 : -1);
        set(m->embed, id, OUTLIER, ordinary * hm_sign(&state));
        for (int c = SIGNATURE; c < WIDTH; c++) set(m->embed, id, c, hm_sign(&state));
    }
}

/* ------------------------------------------------- layer 0: take notes */

/* Angle of pair i per token. */
static double turn(int i) { return faster * pow(10000, -(double)i / (HEAD / 2)); }

/* Query and key do not depend on the token at all. The key of pair i stands at angle i (any will
 * do; different ones round differently), the query at that angle minus `back` turns. After RoPE
 * they are aligned, in all 13 pairs at once, if the key is `back` places behind. */
static void look_back(layer *l, int head, int back)
{
    int kv = head * KV_HEADS / HEADS;
    for (int i = 0; i < TURNING; i++) {
        double key_angle = i, query_angle = i - back * turn(i);
        set(l->k, kv * HEAD + 2 * i, ALWAYS, positional * cos(key_angle));
        set(l->k, kv * HEAD + 2 * i + 1, ALWAYS, positional * sin(key_angle));
        set(l->q, head * HEAD + 2 * i, ALWAYS, positional * cos(query_angle));
        set(l->q, head * HEAD + 2 * i + 1, ALWAYS, positional * sin(query_angle));
    }
    copy(l->v, kv * HEAD + VALUE_ADDRESS, ADDRESS, HM_ADDRESS, 1);
    copy(l->v, kv * HEAD + VALUE_NAME, NAME, HM_NAME, 1);
    copy(l->o, BEFORE + (back - 1) * HM_ADDRESS, head * HEAD + VALUE_ADDRESS, HM_ADDRESS, 1);
    if (back == 1) copy(l->o, NAME_BEFORE, head * HEAD + VALUE_NAME, HM_NAME, 1);
}

/* ------------------------------------ layer 1: the outlier emerges */

/* silu(16) * 1 * 128 = 2048 in marked tokens; silu(-16) * 1 * 128 = -0.0002 in others. */
static void emergence(layer *l)
{
    set(l->gate, 0, PAUSE, 16);
    set(l->up, 0, ALWAYS, 1);
    set(l->down, OUTLIER, 0, outlier / 16);
}

/* ------------------------------- layers 2 and 3: find or park */

/* The key of a place: addresses of the tokens lag, lag+1, lag+2 before it, on the offset. A sink's:
 * PARK. Its value: the name of the token lag-1 before it, the one that followed those. */
static void places(layer *l, int kv, int lag)
{
    int row = kv * HEAD;
    copy(l->k, row + MATCH, BEFORE + (lag - 1) * HM_ADDRESS, CONTEXT * HM_ADDRESS, 1);
    for (int i = 0; i < CONTEXT * HM_ADDRESS; i++) set(l->k, row + MATCH + i, ALWAYS, offset);
    set(l->k, row + PARK, OUTLIER, sink_key / outlier_seen());
    copy(l->v, row + VALUE_VOTE, lag == 1 ? NAME : NAME_BEFORE, HM_NAME, 1);
}

/* A query for the last `context` tokens. The sinks offer what a match would be worth in which one
 * address is half wrong: 10, between 12 and 8. Sinks themselves go to sinks. */
static void find(layer *l, int head, int context, double vote)
{
    double offer = query * (HM_ADDRESS * context - 2) / sink_key;
    copy(l->q, head * HEAD + MATCH, ADDRESS, context * HM_ADDRESS, query);
    set(l->q, head * HEAD + PARK, ALWAYS, offer);
    set(l->q, head * HEAD + PARK, OUTLIER, offer / 4 / outlier_seen());
    copy(l->o, VOTES, head * HEAD + VALUE_VOTE, HM_NAME, vote * vote_unit);
}

/* Heads that look for nothing: 64 * 4 / 8 = 32 nats at the sinks, 0 elsewhere. They would vote for
 * everything at once, and never do. Most heads of trained models are like this most of the time. */
static void dormant(layer *l, int kv)
{
    set(l->k, kv * HEAD + PARK, OUTLIER, sink_key / outlier_seen());
    copy(l->v, kv * HEAD + VALUE_VOTE, NAME, HM_NAME, 1);
    for (int head = kv * HEADS / KV_HEADS; head < (kv + 1) * HEADS / KV_HEADS; head++) {
        set(l->q, head * HEAD + PARK, ALWAYS, 64);
        set(l->q, head * HEAD + PARK, OUTLIER, 16 / outlier_seen());
        copy(l->o, VOTES, head * HEAD + VALUE_VOTE, HM_NAME, vote_dormant * vote_unit);
    }
}

static void induction(layer *l, int lag)
{
    places(l, 0, lag);
    find(l, 0, CONTEXT, vote_long);
    find(l, 1, 1, vote_short);
    dormant(l, 1);
}

/* ---------------------------- layer 3: the outlier is taken away */

/* The gate reads the outlier itself and is 32 - 16/128 in sinks, -16 in others; up is 1. What is
 * written back is exactly what layer 1 wrote, but for rounding. */
static void dissipation(layer *l)
{
    set(l->gate, 0, OUTLIER, 32 / outlier_seen());
    set(l->gate, 0, ALWAYS, -16);
    set(l->up, 0, OUTLIER, 1 / outlier_seen());
    set(l->down, OUTLIER, 0, -outlier / (32 - 16 * rest_seen()));
}

/* ------------------------------------- layer 4: what is left to say */

static void vote_for(const model *m, layer *l, int unit, int id, double vote)
{
    for (int i = 0; i < HM_NAME; i++)
        set(l->down, VOTES + i, unit, vote * vote_unit / 16 * m->name[id * HM_NAME + i]);
}

/* Unit 0 knows the full stop by its address: 8 * (12 - 10) = 16, for others at most
 * 8 * (8 - 10) = -16. Unit 1 fires always. */
static void last_words(const model *m, layer *l)
{
    for (int i = 0; i < HM_ADDRESS; i++)
        set(l->gate, 0, ADDRESS + i, 8 * m->address[TM_HANDMADE_STOP * HM_ADDRESS + i]);
    set(l->gate, 0, ALWAYS, -80);
    set(l->up, 0, ALWAYS, 1);
    vote_for(m, l, 0, TM_HANDMADE_NEWLINE, vote_newline);
    set(l->gate, 1, ALWAYS, 16);
    set(l->up, 1, ALWAYS, 1);
    vote_for(m, l, 1, TM_HANDMADE_STOP, vote_default);
}

/* -------------------------------------------------------------- assembly */

static float *take(model *m, int n)
{
    float *x = m->memory ? m->memory + m->used : NULL;
    m->used += (size_t)n;
    return x;
}

static matrix take_matrix(model *m, int rows, int cols)
{
    return (matrix){take(m, rows * cols), rows, cols};
}

/* Where everything lies in m->memory; while that is NULL it only counts. */
static void lay_out(model *m)
{
    m->used = 0;
    m->embed = take_matrix(m, m->vocabulary, WIDTH);
    m->output = take_matrix(m, m->vocabulary, WIDTH);
    m->norm = take(m, WIDTH);
    for (layer *l = m->layer; l < m->layer + LAYERS; l++) {
        l->attn_norm = take(m, WIDTH);
        l->ffn_norm = take(m, WIDTH);
        l->q = take_matrix(m, HEADS * HEAD, WIDTH);
        l->k = take_matrix(m, KV_HEADS * HEAD, WIDTH);
        l->v = take_matrix(m, KV_HEADS * HEAD, WIDTH);
        l->o = take_matrix(m, WIDTH, HEADS * HEAD);
        l->gate = take_matrix(m, FFN, WIDTH);
        l->up = take_matrix(m, FFN, WIDTH);
        l->down = take_matrix(m, WIDTH, FFN);
    }
}

static void free_model(model *m)
{
    free(m->address);
    free(m->name);
    free(m->memory);
}

static int new_model(model *m, kv_error *err)
{
    memset(m, 0, sizeof *m);
    m->vocabulary = hm_vocabulary();
    m->address = malloc((size_t)m->vocabulary * HM_ADDRESS);
    m->name = malloc((size_t)m->vocabulary * HM_NAME);
    lay_out(m);
    m->memory = calloc(m->used, sizeof *m->memory);
    if (!m->address || !m->name || !m->memory) {
        free_model(m);
        return kv_fail(err, KV_FAIL_RUN, "not enough memory for the hand-built model");
    }
    lay_out(m);
    return KV_OK;
}

static void build(model *m, tm_sinks sinks)
{
    hm_codes(m->address, m->name);
    for (int i = 0; i < HEAD / 2; i++) m->rope[i] = (float)(i < TURNING ? 1 / faster : standstill);
    for (int c = 0; c < WIDTH; c++) m->norm[c] = 1;
    for (int i = 0; i < LAYERS; i++)
        for (int c = 0; c < WIDTH; c++) {
            m->layer[i].attn_norm[c] = (float)ordinary_rms(i > 0);
            m->layer[i].ffn_norm[c] = (float)ordinary_rms(1);
        }
    embed(m, sinks);
    for (int head = 0; head < HEADS; head++) look_back(&m->layer[0], head, head + 1);
    emergence(&m->layer[TM_HANDMADE_EMERGENCE]);
    induction(&m->layer[2], 1);
    induction(&m->layer[3], 2);
    dissipation(&m->layer[TM_HANDMADE_DISSIPATION]);
    last_words(m, &m->layer[4]);
}

/* ---------------------------------------------------------------- writing */

static void put_text(gguf_writer *w, const char *key, const char *text)
{
    gguf_put_string(w, key, text, strlen(text));
}

static void put_sizes(gguf_writer *w, const model *m, const tm_handmade_demo *demo)
{
    char name[64] = "handmade, sinks: ";
    put_text(w, "general.architecture", "llama");
    put_text(w, "general.name", strcat(name, demo->name));
    gguf_put_uint32(w, "general.file_type", 0); /* all float32 */
    gguf_put_uint32(w, "llama.vocab_size", (uint32_t)m->vocabulary);
    gguf_put_uint32(w, "llama.context_length", TM_HANDMADE_CONTEXT);
    gguf_put_uint32(w, "llama.embedding_length", WIDTH);
    gguf_put_uint32(w, "llama.block_count", LAYERS);
    gguf_put_uint32(w, "llama.feed_forward_length", FFN);
    gguf_put_uint32(w, "llama.attention.head_count", HEADS);
    gguf_put_uint32(w, "llama.attention.head_count_kv", KV_HEADS);
    gguf_put_float32(w, "llama.attention.layer_norm_rms_epsilon", (float)norm_eps);
    gguf_put_uint32(w, "llama.rope.dimension_count", HEAD);
    gguf_put_float32(w, "llama.rope.freq_base", 10000);
}

static int put_vocabulary(gguf_writer *w, int n, kv_error *err)
{
    enum { NORMAL = 1, CONTROL = 3 };
    char (*piece)[HM_PIECE_MAX] = malloc((size_t)n * sizeof *piece);
    gguf_string *token = malloc((size_t)n * sizeof *token);
    int32_t *type = malloc((size_t)n * sizeof *type);
    int good = piece && token && type;
    for (int id = 0; good && id < n; id++) {
        token[id].length = (size_t)hm_piece(piece[id], id);
        token[id].data = piece[id];
        type[id] = id < HM_BYTES ? CONTROL : NORMAL;
    }
    if (good) {
        put_text(w, "tokenizer.ggml.model", "gpt2");
        put_text(w, "tokenizer.ggml.pre", "llama-bpe");
        gguf_put_strings(w, "tokenizer.ggml.tokens", token, (size_t)n);
        gguf_put_int32s(w, "tokenizer.ggml.token_type", type, (size_t)n);
        gguf_put_strings(w, "tokenizer.ggml.merges", NULL, 0);
        gguf_put_uint32(w, "tokenizer.ggml.bos_token_id", TM_HANDMADE_BEGIN);
        gguf_put_uint32(w, "tokenizer.ggml.eos_token_id", HM_END);
        gguf_put_bool(w, "tokenizer.ggml.add_bos_token", 1);
        gguf_put_bool(w, "tokenizer.ggml.add_eos_token", 0);
    }
    free(piece);
    free(token);
    free(type);
    return good ? KV_OK : kv_fail(err, KV_FAIL_RUN, "not enough memory for the vocabulary");
}

static void put_vector(gguf_writer *w, const char *name, const float *x, int n)
{
    gguf_put_tensor(w, name, GGUF_F32, 1, (size_t[]){(size_t)n}, x);
}

static void put_matrix(gguf_writer *w, const char *name, matrix m)
{
    gguf_put_tensor(w, name, GGUF_F32, 2, (size_t[]){(size_t)m.cols, (size_t)m.rows}, m.x);
}

static void put_weights(gguf_writer *w, const model *m)
{
    put_matrix(w, "token_embd.weight", m->embed);
    put_matrix(w, "output.weight", m->output);
    put_vector(w, "output_norm.weight", m->norm, WIDTH);
    put_vector(w, "rope_freqs.weight", m->rope, HEAD / 2);
    for (int i = 0; i < LAYERS; i++) {
        const layer *l = &m->layer[i];
        const struct { const char *name; matrix weights; } part[] = {
            {"attn_q", l->q}, {"attn_k", l->k}, {"attn_v", l->v}, {"attn_output", l->o},
            {"ffn_gate", l->gate}, {"ffn_up", l->up}, {"ffn_down", l->down}};
        char name[48];
        snprintf(name, sizeof name, "blk.%d.attn_norm.weight", i);
        put_vector(w, name, l->attn_norm, WIDTH);
        snprintf(name, sizeof name, "blk.%d.ffn_norm.weight", i);
        put_vector(w, name, l->ffn_norm, WIDTH);
        for (size_t p = 0; p < sizeof part / sizeof *part; p++) {
            snprintf(name, sizeof name, "blk.%d.%s.weight", i, part[p].name);
            put_matrix(w, name, part[p].weights);
        }
    }
}

int tm_handmade_write(const char *path, const tm_handmade_options *options, kv_error *err)
{
    const tm_handmade_demo *demo = tm_handmade_demo_of(options->sinks);
    model m;
    if (!demo) return kv_fail(err, KV_FAIL_USAGE, "unknown kind of sinks %d", (int)options->sinks);
    int status = new_model(&m, err);
    if (status) return status;
    build(&m, options->sinks);
    gguf_writer *w = gguf_writer_new();
    put_sizes(w, &m, demo);
    status = put_vocabulary(w, m.vocabulary, err);
    put_weights(w, &m);
    if (!w) status = kv_fail(err, KV_FAIL_RUN, "not enough memory for the hand-built model");
    if (!status) status = gguf_write(w, path, err);
    gguf_writer_free(w);
    free_model(&m);
    return status;
}
