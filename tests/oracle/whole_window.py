#!/usr/bin/env python3
"""Perplexity of a model whose key-value cache is quantized, worked by hand.

What it is.  A second, independent writing of `kvsink eval` in its default,
whole-window form, to judge the first.  The model runs twice over every
window of tokens: once with keys and values rounded to binary16 (the
baseline p16), once with every layer's keys and values of the whole window
quantized and dequantized before anyone attends to them.  Then the two
distributions over the next token are compared.

What it does not do.  It does not choose tokens and does not tokenize: the
ids, and the positions each layer keeps, are given.  So a difference to the
program lies in the model, the quantizer or the counting, and the program's
`predict` is judged elsewhere.

Definitions.
  window      ctx tokens; its ctx - 1 predictions are scored.
  ppl, ppl16  exp of the mean of -ln p(next token) over all scored ones.
  kl          mean over scored positions of sum p16 ln(p16 / pq), in nats.
  top1        share of scored positions where both have the same best token.
  bytes       of the packed cache of one window, mean over windows:
              words   per group of n codes of b bits ceil(n*b / 32) words,
                      positions that are kept included (as holes)
              + 2 per scale, + 2 per minimum (none if symmetric)
              + 2 per element of a kept row, + 4 per kept position per layer
              f16, bf16 and f32 take 2, 2, 4 per element and keep nothing.
  bits        8 * bytes / (2 * layers * KV heads * head size * ctx)
  kept        kept positions per layer and window, mean.

Formats are f16, bf16, f32 or BITS:AXIS:GROUP[:sym][:pre].
  channel:G   a group is G consecutive tokens of one channel of one KV head,
              cut from the window's first position; the last may be short;
              channel:all is the whole window.
  token:G     a group is G consecutive channels of one token in one KV head;
              token:all is all KV heads of a token together.
  Rounding: s = half((max - min) / (2^b - 1)), m = half(min), both over the
  tokens that are not kept; q = clamp(rne((x - m) / s)), x^ = q*s + m, each
  step in float32.  s = 0 gives q = 0.  sym: s = half(max|x| / (2^(b-1) - 1)),
  no minimum.  Rows are rounded to binary16 when they reach the cache, before
  anything else (so that in a streaming cache the codes do not depend on how
  long a row waited); a kept row is just that.

Usage:
  whole_window.py MODEL --ids ids.json [--ctx 512] [--windows N]
                  [--bos each|first|none]
                  [--keys FORMAT] [--values FORMAT] [--keep KEEP]

ids.json holds the tokens of a text without BOS: a list, or an object with
one as "ids".  They are cut into windows here: `each` puts the file's BOS and
ctx - 1 tokens into every window, `first` puts one BOS before the stream,
`none` none; a last partial window is dropped.  KEEP is `none`, `first:N`,
`positions:3,17` (all layers), or a JSON file with one list per window, each
with one list of positions per layer.  Prints one JSON object.
"""

import argparse
import json
import sys

import numpy as np

import llama

ONE = np.float32


# --- Formats -----------------------------------------------------------------

class Format:
    """A parsed format: kind, and for integers bits, axis, group, sym, pre."""

    def __init__(self, text):
        parts = text.split(":")
        self.text, self.kind = text, parts[0]
        self.pre = self.sym = False
        self.integer = self.kind in ("2", "3", "4", "8")
        if self.kind in ("f16", "bf16", "f32"):
            if len(parts) > 1:
                raise ValueError(f"format {text}: {self.kind} takes nothing more")
            return
        if not self.integer or len(parts) < 3 or parts[1] not in ("channel", "token"):
            raise ValueError(f"format {text}: expected f16, bf16, f32 or BITS:AXIS:GROUP")
        self.bits, self.axis = int(self.kind), parts[1]
        self.group = None if parts[2] == "all" else int(parts[2])
        for extra in parts[3:]:
            if extra not in ("sym", "pre"):
                raise ValueError(f"format {text}: {extra} is not known here")
            setattr(self, extra, True)


def as_half(x):
    """x rounded to binary16; what binary16 cannot hold is refused."""
    with np.errstate(over="ignore"):
        rounded = np.asarray(x, ONE).astype(np.float16)
    if not np.isfinite(rounded).all():
        raise ValueError("a key or value is not finite or too large for binary16")
    return rounded


def as_bf16(x):
    """x rounded to bfloat16, half to even, by arithmetic on the bits."""
    bits = np.ascontiguousarray(x, dtype=ONE).view(np.uint32).astype(np.uint64)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16
    return bits.astype(np.uint32).view(ONE)


def group_codes(x, free, bits, sym, axis):
    """Codes, scales and minima of x along `axis`; each line is a group.

    `free` (same shape) marks the elements that count.  A symmetric code is
    the signed one.  Scales and minima are float32 that binary16 can hold."""
    if sym:
        peak = np.where(free, np.abs(x), ONE(0)).max(axis=axis, keepdims=True)
        scale = as_half(peak / ONE(2 ** (bits - 1) - 1)).astype(ONE)
        low, first, last = np.zeros_like(scale), -2 ** (bits - 1), 2 ** (bits - 1) - 1
    else:
        empty = ~free.any(axis=axis, keepdims=True)
        lowest = np.where(free, x, ONE(np.inf)).min(axis=axis, keepdims=True)
        highest = np.where(free, x, ONE(-np.inf)).max(axis=axis, keepdims=True)
        lowest, highest = np.where(empty, ONE(0), lowest), np.where(empty, ONE(0), highest)
        first, last = 0, 2 ** bits - 1
        scale = as_half((highest - lowest) / ONE(last)).astype(ONE)
        low = as_half(lowest).astype(ONE)
    with np.errstate(divide="ignore", invalid="ignore"):
        code = np.clip(np.rint((x - low) / scale), ONE(first), ONE(last))
    return np.where(scale == 0, ONE(0), code), scale, low


def quantize_groups(x, free, bits, sym, axis):
    """x as it comes back from its groups' codes."""
    code, scale, low = group_codes(x, free, bits, sym, axis)
    return code * scale + low


def through_cache(x, form, kept):
    """What a query reads when x [T, Hk, D] was stored in `form`."""
    x = np.ascontiguousarray(x, dtype=ONE)
    if form.kind == "f32":
        return x
    if form.kind == "bf16":
        return as_bf16(x)
    rounded = as_half(x).astype(ONE)
    if form.kind == "f16":
        return rounded
    x = rounded
    tokens, heads, size = x.shape
    free = np.ones(tokens, bool)
    free[list(kept)] = False
    wide = np.broadcast_to(free[:, None, None], x.shape)
    if form.axis == "channel":
        step = form.group or tokens
        parts = [quantize_groups(x[i:i + step], wide[i:i + step], form.bits, form.sym, 0)
                 for i in range(0, tokens, step)]
        out = np.concatenate(parts)
    else:
        shape = (tokens, -1, form.group or heads * size)
        out = quantize_groups(x.reshape(shape), wide.reshape(shape), form.bits,
                              form.sym, 2).reshape(x.shape)
    return np.where(wide, out, x)


def stored_bytes(form, kept, tokens, heads, size):
    """Bytes of one layer's keys (or values) of a window, kept rows included."""
    if not form.integer:
        return tokens * heads * size * (4 if form.kind == "f32" else 2)
    if form.axis == "channel":
        step = form.group or tokens
        lengths = [min(step, tokens - i) for i in range(0, tokens, step)]
        lengths = np.repeat(lengths, heads * size)
    else:
        length = form.group or heads * size
        lengths = np.full(tokens * heads * size // length, length)
    words = ((lengths * form.bits + 31) // 32).sum()
    numbers = len(lengths) * (1 if form.sym else 2)
    return int(4 * words + 2 * numbers + 2 * heads * size * len(kept))


# --- The two passes and their comparison -------------------------------------

def run(model, ids, keys, values, keep, look=None):
    """Log-probabilities [ctx - 1, vocabulary] of the scored predictions.

    `look`, if given, sees the residual h of every layer, as a tap."""
    def tap(name, layer, value):
        if name == "h":
            return look(name, layer, value)
        if name == "v":
            return through_cache(value, values, keep[layer])
        if name == ("k_pre" if keys.pre else "k"):
            return through_cache(value, keys, keep[layer])
        return None

    names = {"k", "k_pre", "v"} | ({"h"} if look else set())
    logits = llama.forward(model, ids, tap, names)[:-1].astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


class Tally:
    """Sums over windows of what one pair of formats does."""

    def __init__(self, model, keys, values):
        self.model, self.keys, self.values, self.windows = model, keys, values, 0
        self.sums = dict.fromkeys(("loss16", "loss", "kl", "same", "bytes", "kept"), 0.0)

    def add(self, ids, log16, logq, keep):
        """One window; keep[layer] lists positions."""
        sums, heads, size = self.sums, self.model.kv_heads, self.model.head_size
        self.windows, self.ctx = self.windows + 1, len(ids)
        rows, target = np.arange(len(ids) - 1), np.asarray(ids[1:])
        sums["loss16"] -= log16[rows, target].sum()
        sums["loss"] -= logq[rows, target].sum()
        sums["kl"] += (np.exp(log16) * (log16 - logq)).sum()
        sums["same"] += (log16.argmax(axis=1) == logq.argmax(axis=1)).sum()
        for kept in keep:
            sums["kept"] += len(kept)
            sums["bytes"] += sum(stored_bytes(form, kept, len(ids), heads, size)
                                 for form in (self.keys, self.values))
            sums["bytes"] += 4 * len(kept) * (self.keys.integer or self.values.integer)

    def result(self):
        model, sums, n = self.model, self.sums, self.windows
        scored = n * (self.ctx - 1)
        elements = 2 * model.layers * model.kv_heads * model.head_size * self.ctx
        return {"windows": n, "tokens": scored,
                "ppl16": float(np.exp(sums["loss16"] / scored)),
                "ppl": float(np.exp(sums["loss"] / scored)),
                "kl": sums["kl"] / scored, "top1": sums["same"] / scored,
                "bits": 8 * sums["bytes"] / n / elements, "bytes": sums["bytes"] / n,
                "bytes16": 2 * elements, "kept": sums["kept"] / n / model.layers}


def evaluate(model, windows, keys, values, keeps):
    """keeps[w][layer] lists positions.  Returns the dictionary of results."""
    half, nothing = Format("f16"), [[]] * model.layers
    tally = Tally(model, keys, values)
    for ids, keep in zip(windows, keeps):
        log16 = run(model, ids, half, half, nothing)
        tally.add(ids, log16, run(model, ids, keys, values, keep), keep)
    return tally.result()


# --- The command line --------------------------------------------------------

def cut(ids, ctx, bos, rule, limit):
    """The windows of a stream of ids, as `eval` cuts them."""
    step = ctx - 1 if rule == "each" else ctx
    stream = [bos] + ids if rule == "first" else ids
    front = [bos] if rule == "each" else []
    windows = [front + stream[i:i + step] for i in range(0, len(stream) - step + 1, step)]
    if not windows:
        raise ValueError(f"{len(ids)} tokens do not fill one window of {ctx}")
    return windows[:limit]


def read_keeps(text, windows, layers):
    rule, _, rest = text.partition(":")
    ctx = len(windows[0])
    if rule == "none":
        same = []
    elif rule == "first":
        same = list(range(min(int(rest), ctx)))
    elif rule == "positions":
        same = sorted({int(piece) for piece in rest.split(",")})
    else:
        with open(text, encoding="utf-8") as file:
            keeps = json.load(file)
        if len(keeps) < len(windows) or any(len(keep) != layers for keep in keeps):
            raise ValueError(f"{text}: expected {len(windows)} windows of {layers} layers")
        return keeps
    if same and not 0 <= same[0] <= same[-1] < ctx:
        raise ValueError(f"keep {text}: position outside the window of {ctx}")
    return [[same] * layers] * len(windows)


def main():
    parser = argparse.ArgumentParser(
        description="Perplexity, KL and size of a quantized KV cache, by NumPy.")
    parser.add_argument("model")
    parser.add_argument("--ids", required=True, help="JSON file with the text's tokens")
    parser.add_argument("--ctx", type=int, default=512)
    parser.add_argument("--windows", type=int, help="at most so many (default: all)")
    parser.add_argument("--bos", choices=("each", "first", "none"), default="each")
    parser.add_argument("--keys", type=Format, default=Format("f16"))
    parser.add_argument("--values", type=Format, default=Format("f16"))
    parser.add_argument("--keep", default="none")
    options = parser.parse_args()

    model = llama.Model(options.model)
    bos = model.meta.get("tokenizer.ggml.bos_token_id")
    if bos is None and options.bos != "none":
        raise ValueError("the file names no BOS; use --bos none")
    windows = cut(llama.read_ids(options.ids), options.ctx, bos, options.bos,
                  options.windows)
    keeps = read_keeps(options.keep, windows, model.layers)
    result = evaluate(model, windows, options.keys, options.values, keeps)
    print(json.dumps(result))


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as problem:
        print(f"whole_window.py: {problem}", file=sys.stderr)
        sys.exit(1)
