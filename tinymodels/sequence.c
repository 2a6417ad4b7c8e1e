/* The steps that sequence.h describes, around a tm_stream. */
#include "sequence.h"

#include <stdlib.h>
#include <string.h>

#include "promote.h"

struct tm_sequence {
    tm_engine e;
    tm_sequence_spec spec;
    tm_stream *stream;
    tm_promoter promoter;
    float *work;
    size_t work_size;
    int capped;
};

int tm_sequence_open(tm_sequence **out, const tm_engine *e, tm_fast *fast,
                     const tm_sequence_spec *spec, kv_error *err)
{
    tm_stream_spec stream = {.keys = spec->keys, .values = spec->values, .recent = spec->recent,
                             .capacity = spec->capacity, .device = spec->device,
                             .kept = spec->keep.kind == KV_KEEP_NONE ? 0 : spec->capacity};
    tm_sequence *s = calloc(1, sizeof *s);
    *out = NULL;
    if (!s) return kv_fail(err, KV_FAIL_RUN, "not enough memory for a sequence");
    s->e = *e;
    s->spec = *spec;
    int code = kv_profile_limits(&stream.key_limits, spec->profile, &spec->keys, 0, err);
    if (!code) code = kv_profile_limits(&stream.value_limits, spec->profile, &spec->values, 1, err);
    if (!code) code = tm_stream_open(&s->stream, e->model, &stream, fast, err);
    if (!code)
        code = tm_promoter_open(&s->promoter, e->model, &spec->keep, spec->profile, s->stream,
                                spec->capacity, err);
    if (code) tm_sequence_close(s);
    else *out = s;
    return code;
}

void tm_sequence_close(tm_sequence *s)
{
    if (!s) return;
    tm_promoter_close(&s->promoter);
    tm_stream_close(s->stream);
    free(s->work);
    free(s);
}

static int forward(tm_sequence *s, float *hidden, kv_run *run, const int *tokens, int n,
                   kv_error *err)
{
    size_t need = kv_forward_work(s->e.model, run->tap_mask, run->past, n);
    if (need > s->work_size) {
        int last = s->spec.capacity - 1; /* steps: attention rows grow, so take the longest at once */
        if (n == 1 && last > run->past)
            need = kv_forward_work(s->e.model, run->tap_mask, last, n);
        free(s->work);
        s->work = malloc(need * sizeof *s->work);
        s->work_size = s->work ? need : 0;
        if (!s->work) return kv_fail(err, KV_FAIL_RUN, "not enough memory for %d tokens", n);
    }
    run->model = s->e.model;
    run->backend = s->e.backend;
    run->memory = tm_stream_memory(s->stream);
    run->work = s->work;
    return kv_forward(hidden, run, tokens, n, err);
}

int tm_sequence_start(tm_sequence *s, float *hidden, const int *tokens, int n, kv_error *err)
{
    kv_keep keep = {0};
    tm_evidence *e = NULL;
    int code = tm_evidence_open(&e, &s->spec.keep, s->spec.profile, s->e.model, n, err);
    if (!code) code = tm_keep_init(&keep, s->e.model->layers, n, err);
    tm_stream_reset(s->stream);
    if (!code) {
        kv_run run = {.tap = tm_evidence_tap, .tap_self = e, .tap_mask = tm_evidence_mask(e)};
        code = forward(s, hidden, &run, tokens, n, err);
    }
    if (!code) code = tm_evidence_keep(&keep, &s->capped, e, tokens, err);
    if (!code) tm_promoter_prompt(&s->promoter, e, n);
    if (!code) code = tm_stream_begin_decode(s->stream, &keep, err);
    tm_keep_free(&keep);
    tm_evidence_close(e);
    return code;
}

int tm_sequence_step(tm_sequence *s, float *hidden, int token, kv_error *err)
{
    int past = tm_stream_tokens(s->stream);
    kv_run run = {.past = past, .position = past};
    tm_promoter_watch(&s->promoter, &run, past, token);
    int code = forward(s, hidden, &run, &token, 1, err);
    return code ? code : tm_promoter_finish(&s->promoter, err);
}

int tm_sequence_tokens(const tm_sequence *s)
{
    return tm_stream_tokens(s->stream);
}

int tm_sequence_capped(const tm_sequence *s)
{
    return s->capped;
}

int tm_sequence_fetch(tm_sequence *s, kv_error *err)
{
    return tm_stream_fetch(s->stream, err);
}

const tm_stream *tm_sequence_stream(const tm_sequence *s)
{
    return s->stream;
}

double tm_sequence_bytes(const tm_sequence *s)
{
    double sum = 0;
    for (int l = 0; l < s->e.model->layers; l++) sum += (double)tm_stream_bytes(s->stream, l).total;
    return sum;
}

long long tm_sequence_kept(const tm_sequence *s)
{
    const kv_cache *c = tm_stream_cache(s->stream);
    long long sum = 0;
    for (int l = 0; c && l < s->e.model->layers; l++) sum += c->layer[l].n_kept;
    return sum;
}

int tm_sequence_greedy(tm_sequence *s, int *token, int *made, int n, float *hidden, float *logits,
                       int (*is_end)(void *self, int token), void *self, kv_error *err)
{
    kv_run run = {.model = s->e.model, .backend = s->e.backend};
    int vocab = s->e.model->vocab;
    *made = 0;
    while (*made < n) {
        int best = 0;
        if (kv_logits(logits, &run, hidden, 1, err)) return KV_FAIL_RUN;
        for (int i = 1; i < vocab; i++)
            if (logits[i] > logits[best]) best = i;
        if (is_end && is_end(self, best)) break;
        token[(*made)++] = best;
        int code = *made < n ? tm_sequence_step(s, hidden, best, err) : KV_OK;
        if (code) return code;
    }
    return KV_OK;
}
