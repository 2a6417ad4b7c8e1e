/* Trying every token, see greedy.h.
 *
 * Of the 16-bit pass a candidate's divergence needs the probabilities p16 and, once for each row,
 * sum p16 ln p16; the rest is one pass over the candidate's logits z:
 *
 *     KL = sum p16 ln p16 - sum p16 z + ln sum exp z
 *
 * Probabilities are stored as float32 (256 rows of a vocabulary of 49152 are 50 MB) and taken as they
 * are stored, in all three sums. */
#include "greedy.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"
#include "memory.h"

enum { ROWS = 64 }; /* of logits at a time */

struct tm_greedy {
    const kv_keep_rule *rule;
    const kv_profile *profile;
    tm_engine e;
    tm_pool *pool;
    tm_window *window;
    int T;
    float *work, *hidden; /* hidden [T][width] */
    float *logits;        /* [ROWS][vocab] */
    float *p16;           /* [T - 1][vocab] */
    double *negentropy;   /* [T - 1] sum p16 ln p16 */
    double *mass;         /* [T - 1] sum p16: 1 but for rounding */
    double *row;          /* [T - 1] a candidate's KL */
    int n, position[TM_GREEDY_TOKENS];
    double kl[TM_GREEDY_TOKENS];
};

/* ------------------------------------------------------------ divergence */

typedef struct {
    tm_greedy *g;
    int first; /* row of the window */
} chunk;

/* One row of the 16-bit logits becomes probabilities. */
static void take_row(void *arg, int task, int worker)
{
    const chunk *c = arg;
    tm_greedy *g = c->g;
    int vocab = g->e.model->vocab, t = c->first + task;
    const float *z = g->logits + (size_t)task * (size_t)vocab;
    float *p = g->p16 + (size_t)t * (size_t)vocab;
    double top = z[tm_kernels_best()->largest(z, vocab)], sum = 0, entropy = 0, mass = 0;
    (void)worker;
    for (int i = 0; i < vocab; i++) sum += exp(z[i] - top);
    for (int i = 0; i < vocab; i++) {
        p[i] = (float)(exp(z[i] - top) / sum);
        entropy += p[i] > 0 ? p[i] * log(p[i]) : 0;
        mass += p[i];
    }
    g->negentropy[t] = entropy;
    g->mass[t] = mass;
}

static void compare_row(void *arg, int task, int worker)
{
    const chunk *c = arg;
    tm_greedy *g = c->g;
    int vocab = g->e.model->vocab, t = c->first + task;
    const float *z = g->logits + (size_t)task * (size_t)vocab;
    const float *p = g->p16 + (size_t)t * (size_t)vocab;
    const tm_kernels *k = tm_kernels_best();
    double top = z[k->largest(z, vocab)], cross = 0;
    (void)worker;
    for (int i = 0; i < vocab; i++) cross += p[i] * (z[i] - top);
    g->row[t] = g->negentropy[t] - cross + g->mass[t] * log(k->exp_sum(z, top, vocab));
}

/* Logits of the rows that predict a token of the window, handed to fn bunch by bunch. */
static int each_row(tm_greedy *g, const float *hidden, tm_task *fn, kv_error *err)
{
    kv_run run = {.model = g->e.model, .backend = g->e.backend};
    for (int t = 0; t < g->T - 1; t += ROWS) {
        int n = g->T - 1 - t < ROWS ? g->T - 1 - t : ROWS;
        chunk c = {g, t};
        int code = kv_logits(g->logits, &run, hidden + (size_t)t * (size_t)g->e.model->width, n,
                             err);
        if (code) return code;
        tm_parallel(g->pool, fn, &c, n);
    }
    return KV_OK;
}

/* ------------------------------------------------------------- candidates */

/* The same tokens in the layers that the rule covers, as a rule positions: would keep them. */
static int keep_tokens(kv_keep *keep, const tm_greedy *g, const int *position, int n, kv_error *err)
{
    kv_keep_rule rule = *g->rule;
    rule.kind = KV_KEEP_POSITIONS;
    rule.n_list = 0;
    for (int t = 0; t < g->T; t++)
        for (int i = 0; i < n; i++)
            if (position[i] == t) rule.list[rule.n_list++] = t;
    return tm_keep_build(keep, NULL, &rule, NULL, g->T, g->profile, NULL, err);
}

static int try_one(double *kl, tm_greedy *g, const kv_keep *keep, const int *tokens, kv_error *err)
{
    kv_run run = {.model = g->e.model, .backend = g->e.backend,
                  .memory = tm_window_memory(g->window), .work = g->work};
    tm_window_keep(g->window, keep);
    int code = kv_forward(g->hidden, &run, tokens, g->T, err);
    if (!code) code = each_row(g, g->hidden, compare_row, err);
    *kl = 0;
    for (int t = 0; t < g->T - 1; t++) *kl += g->row[t] / (g->T - 1);
    return code;
}

static int is_chosen(const tm_greedy *g, int t)
{
    for (int i = 0; i < g->n; i++)
        if (g->position[i] == t) return 1;
    return 0;
}

/* Adds the best of the tokens that are left. */
static int add_best(tm_greedy *g, kv_keep *keep, const int *tokens, tm_progress *progress,
                    void *self, int rounds, kv_error *err)
{
    int best = -1, code = KV_OK;
    double least = 0;
    for (int t = 0; t < g->T && !code; t++) {
        double kl;
        if (is_chosen(g, t)) continue;
        g->position[g->n] = t;
        code = keep_tokens(keep, g, g->position, g->n + 1, err);
        if (!code) code = try_one(&kl, g, keep, tokens, err);
        if (!code && (best < 0 || kl < least)) {
            best = t;
            least = kl;
        }
        if (progress) progress(self, g->n + (t + 1.0) / g->T, rounds);
    }
    if (code) return code;
    g->position[g->n] = best;
    g->kl[g->n++] = least;
    return KV_OK;
}

int tm_greedy_keep(kv_keep *keep, tm_greedy *g, const int *tokens, const float *hidden16,
                   tm_progress *progress, void *self, kv_error *err)
{
    int rounds = g->rule->k < g->T ? g->rule->k : g->T;
    int code = rounds ? each_row(g, hidden16, take_row, err) : KV_OK;
    g->n = 0;
    while (g->n < rounds && !code)
        code = add_best(g, keep, tokens, progress, self, rounds, err);
    tm_window_keep(g->window, NULL);
    return code ? code : keep_tokens(keep, g, g->position, g->n, err);
}

int tm_greedy_steps(const tm_greedy *g, const int **position, const double **kl)
{
    *position = g->position;
    *kl = g->kl;
    return g->n;
}

/* ----------------------------------------------------------- open and close */

static int take_memory(tm_greedy *g, kv_error *err)
{
    const kv_model *m = g->e.model;
    size_t T = (size_t)g->T, C = (size_t)m->width, vocab = (size_t)m->vocab;
    g->work = malloc(kv_forward_work(m, 0, 0, g->T) * sizeof *g->work);
    g->hidden = malloc(T * C * sizeof *g->hidden);
    g->logits = malloc(ROWS * vocab * sizeof *g->logits);
    g->p16 = malloc(T * vocab * sizeof *g->p16);
    g->negentropy = malloc(T * sizeof *g->negentropy);
    g->mass = malloc(T * sizeof *g->mass);
    g->row = malloc(T * sizeof *g->row);
    if (g->work && g->hidden && g->logits && g->p16 && g->negentropy && g->mass && g->row)
        return KV_OK;
    return kv_fail(err, KV_FAIL_RUN, "not enough memory for the greedy search in windows of %d"
                   " tokens; use a smaller --ctx", g->T);
}

/* Are the layers there, and the profile if it is needed? */
static int try_rule(const tm_greedy *g, kv_error *err)
{
    kv_keep keep;
    int code = tm_keep_init(&keep, g->e.model->layers, g->T, err);
    if (code) return code;
    code = keep_tokens(&keep, g, NULL, 0, err);
    tm_keep_free(&keep);
    return code;
}

int tm_greedy_open(tm_greedy **out, const kv_keep_rule *rule, const kv_profile *profile,
                   const kv_format *keys, const kv_format *values, const tm_engine *e, tm_fast *fast,
                   int T, kv_error *err)
{
    *out = NULL;
    if (T < 2 || T > TM_GREEDY_TOKENS)
        return kv_fail(err, KV_FAIL_USAGE, "--keep greedy:%d tries every token of a window: found"
                       " windows of %d tokens, expected at most %d; use a smaller --ctx", rule->k, T,
                       TM_GREEDY_TOKENS);
    tm_greedy *g = calloc(1, sizeof *g);
    if (!g) return kv_fail(err, KV_FAIL_RUN, "not enough memory for the greedy search");
    g->rule = rule;
    g->profile = profile;
    g->e = *e;
    g->pool = fast ? tm_fast_pool(fast) : NULL;
    g->T = T;
    kv_limits k, v;
    int code = kv_profile_limits(&k, profile, keys, 0, err);
    if (!code) code = kv_profile_limits(&v, profile, values, 1, err);
    if (!code) code = tm_window_open(&g->window, e->model, keys, values, T, g->pool, err);
    if (!code) tm_window_limits(g->window, k, v);
    if (!code) code = take_memory(g, err);
    if (!code) code = try_rule(g, err);
    if (code) tm_greedy_close(g);
    else *out = g;
    return code;
}

void tm_greedy_close(tm_greedy *g)
{
    if (!g) return;
    tm_window_close(g->window);
    free(g->work);
    free(g->hidden);
    free(g->logits);
    free(g->p16);
    free(g->negentropy);
    free(g->mass);
    free(g->row);
    free(g);
}
