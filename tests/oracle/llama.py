#!/usr/bin/env python3
"""A llama forward pass in NumPy, the judge of the C transformer.

What it is.  This file reads a GGUF model by itself, turns its blocks back
into numbers by itself, and runs a decoder of architecture `llama` over a
list of token ids.  It exists to disagree: it shares no line with the C code
it judges, so a mistake must be made twice, in two languages and from two
readings of the same papers, before it goes unseen.  For the same reason it
is written for the eye: whole matrices at a time, one page per idea, no
speed beyond what BLAS gives.

Where the facts come from.
  GGUF specification      header, key/value pairs, tensor table, alignment
  ggml block formats      the bytes of Q4_0 .. Q8_0 and Q2_K .. Q6_K
  arXiv 1910.07467        RMSNorm: x / sqrt(mean(x^2) + eps) * weight
  arXiv 2104.09864        RoPE: pair i turns by position * base^(-2i/d)
  arXiv 2002.05202        SwiGLU: down(silu(gate x) * up x)
  arXiv 2305.13245        GQA: query head h reads key head h // (H / Hk)
  arXiv 2302.13971        LLaMA: how these make a decoder
  arXiv 2306.15595        linear scaling: positions divided by a factor

Conventions.
  * A GGUF lists a tensor's fastest dimension first.  A weight listed as
    [n_in, n_out] is stored row by row with n_out rows, so here it is an
    array W of shape [n_out, n_in] and the product is x @ W.T.
  * RoPE turns the *interleaved* pairs (0,1), (2,3), ...  The published
    weights pair the two halves of a head; converters to GGUF permute the
    rows of the query and key projection so that this pairing is right.
  * `rope_freqs.weight` (Llama 3) divides the frequency of each pair; linear
    scaling divides the position.
  * Without `output.weight` the embedding is used a second time.
  * Activations are float32 and so are the matrix products.  What is cheap
    is done in float64: norms, softmax, rotation angles.  `--float64` does
    everything in float64, to see how far float32 itself is from the truth.

Taps.  `forward` calls `tap(name, layer, array)` at each named place and, if
the call returns an array, goes on with that one instead: a tap can look and
can intervene (whole_window.py quantizes keys and values that way).

  name        shape          what
  embed       [T, C]         rows of the embedding (layer -1)
  q_pre       [T, H, D]      queries before RoPE
  k_pre       [T, Hk, D]     keys before RoPE
  q  k  v     as above       after RoPE; values have none
  attention   [H, T, T]      softmax rows; row i sums to 1 over columns <= i
  attn_out    [T, H, D]      attention output, before the o projection
  h_attn      [T, C]         residual after attention (H')
  down_in     [T, F]         input of the down projection
  down_out    [T, C]         its output
  h           [T, C]         residual after the FFN (H)
  logits      [T, V]         (layer L, one past the last)

Usage:
  llama.py MODEL --ids '1,2,3' | ids.json  -o logits.npy
           [--dump taps.npz [--taps h,v] [--layers 0,5]] [--float64]
           [--first-position N]

ids.json holds a list of integers, or an object with such a list as "ids".
The dump has one array per tap, named like `h.12`.
"""

import argparse
import json
import sys

import numpy as np


# --- GGUF: the file ----------------------------------------------------------

# Metadata value types by number.  8 is a string, 9 an array.
SCALARS = {0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4",
           6: "<f4", 7: "<u1", 10: "<u8", 11: "<i8", 12: "<f8"}


class Reader:
    """Walks over the header; every read checks that the bytes are there."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        if self.at + count > len(self.data):
            raise ValueError(f"file ends inside a field at byte {self.at}")
        piece = self.data[self.at:self.at + count]
        self.at += count
        return piece

    def number(self, dtype):
        return self.take(np.dtype(dtype).itemsize).view(dtype)[0].item()

    def string(self):
        return bytes(self.take(self.number("<u8"))).decode("utf-8", "surrogateescape")

    def value(self, kind):
        if kind == 8:
            return self.string()
        if kind == 9:
            inner, count = self.number("<u4"), self.number("<u8")
            if inner in SCALARS:
                width = np.dtype(SCALARS[inner]).itemsize
                return self.take(count * width).view(SCALARS[inner]).tolist()
            return [self.value(inner) for _ in range(count)]
        if kind not in SCALARS:
            raise ValueError(f"unknown metadata type {kind} at byte {self.at}")
        number = self.number(SCALARS[kind])
        return bool(number) if kind == 7 else number


def read_gguf(path):
    """Return (metadata, tensors); tensors: name -> (shape, type, raw bytes).

    The shape is NumPy's: slowest dimension first."""
    data = np.memmap(path, dtype=np.uint8, mode="r")
    file = Reader(data)
    if bytes(file.take(4)) != b"GGUF":
        raise ValueError(f"{path}: not a GGUF file")
    version = file.number("<u4")
    if version not in (2, 3):
        raise ValueError(f"{path}: GGUF version {version}, expected 2 or 3")
    n_tensors, n_pairs = file.number("<u8"), file.number("<u8")
    metadata = {}
    for _ in range(n_pairs):
        key = file.string()
        metadata[key] = file.value(file.number("<u4"))
    table = []
    for _ in range(n_tensors):
        name = file.string()
        dims = [file.number("<u8") for _ in range(file.number("<u4"))]
        table.append((name, dims[::-1], file.number("<u4"), file.number("<u8")))
    align = metadata.get("general.alignment", 32)
    start = -(-file.at // align) * align
    tensors = {}
    for name, shape, kind, offset in table:
        if kind not in BLOCKS:
            raise ValueError(f"{path}: tensor {name} has type {kind}, not known here")
        per_block, size, _ = BLOCKS[kind]
        count = int(np.prod(shape))
        if shape[-1] % per_block:
            raise ValueError(f"{path}: a row of {name} is no whole number of blocks")
        begin, length = start + offset, count // per_block * size
        if begin + length > len(data):
            raise ValueError(f"{path}: tensor {name} lies beyond the end of the file")
        tensors[name] = (tuple(shape), kind, data[begin:begin + length])
    return metadata, tensors


# --- Blocks back to numbers --------------------------------------------------
#
# Each function takes b, an array [n, block size] of bytes, and returns
# float32 [n, elements per block].  Scales are binary16; the arithmetic is
# float32 in the order written.

def half(b, at):
    """The binary16 at byte `at` of every block, as a float32 column."""
    return np.ascontiguousarray(b[:, at:at + 2]).view("<f2").astype(np.float32)


def nibbles(b):
    """Low halves of all bytes, then the high halves."""
    return np.concatenate([b & 15, b >> 4], axis=1)


def bit_planes(b, width, planes):
    """b [n, m] -> [n, planes * m]: field 0 of all bytes, then field 1, ..."""
    return np.concatenate([(b >> (width * i)) & ((1 << width) - 1)
                           for i in range(planes)], axis=1)


def signed(codes):
    return codes.astype(np.int32)


def q4_0(b):  # d, 16 bytes
    return half(b, 0) * (signed(nibbles(b[:, 2:18])) - 8)


def q4_1(b):  # d, m, 16 bytes
    return half(b, 0) * nibbles(b[:, 4:20]) + half(b, 2)


def fifth_bits(b):
    """4 bytes = 32 bits, bit j belongs to element j."""
    return np.unpackbits(b, axis=1, bitorder="little") << 4


def q5_0(b):  # d, 32 high bits, 16 bytes
    return half(b, 0) * (signed(nibbles(b[:, 6:22]) | fifth_bits(b[:, 2:6])) - 16)


def q5_1(b):  # d, m, 32 high bits, 16 bytes
    return half(b, 0) * (nibbles(b[:, 8:24]) | fifth_bits(b[:, 4:8])) + half(b, 2)


def q8_0(b):  # d, 32 signed bytes
    return half(b, 0) * np.ascontiguousarray(b[:, 2:34]).view(np.int8)


# The K formats: 256 elements in sub-blocks of 16 or 32, each with its own
# small integer scale (and minimum) times a scale of the whole block.

def spread(factors, width):
    """One factor per sub-block -> one per element."""
    return np.repeat(factors, width, axis=1)


def halves(b, per_half, width, planes):
    """Fields of each half of the bytes in turn: 128 elements from each half."""
    return np.concatenate([bit_planes(b[:, i * per_half:(i + 1) * per_half],
                                      width, planes) for i in (0, 1)], axis=1)


def q2_k(b):  # 16 scale/min nibbles, 64 bytes of codes, d, dmin
    scales, codes = b[:, 0:16], halves(b[:, 16:80], 32, 2, 4)
    scale = half(b, 80) * (scales & 15)
    low = half(b, 82) * (scales >> 4)
    return spread(scale, 16) * codes - spread(low, 16)


def q3_k(b):  # 32 bytes of high bits, 64 of low bits, 12 of scales, d
    low, packed = halves(b[:, 32:96], 32, 2, 4), b[:, 96:108]
    high = bit_planes(b[:, 0:32], 1, 8)
    code = signed(low) - 4 * (1 - signed(high))
    # 16 six-bit scales: four low bits in bytes 0-7, two high bits in 8-11.
    six = nibbles(packed[:, 0:8]) | bit_planes(packed[:, 8:12], 2, 4) << 4
    return spread(half(b, 108) * (signed(six) - 32), 16) * code


def six_bit_pairs(s):
    """12 bytes -> 8 scales and 8 minima of six bits each.

    The first four of each are whole in bytes 0-3 and 4-7; the last four have
    their low nibbles in bytes 8-11 and two more bits on top of bytes 0-7."""
    scale = np.concatenate([s[:, 0:4] & 63, s[:, 8:12] & 15 | s[:, 0:4] >> 6 << 4], axis=1)
    low = np.concatenate([s[:, 4:8] & 63, s[:, 8:12] >> 4 | s[:, 4:8] >> 6 << 4], axis=1)
    return scale, low


def quarters(b):
    """128 bytes: each run of 32 gives 32 low, then 32 high nibbles."""
    return np.concatenate([nibbles(b[:, i:i + 32]) for i in range(0, 128, 32)], axis=1)


def with_minima(b, codes):
    scale, low = six_bit_pairs(b[:, 4:16])
    return spread(half(b, 0) * scale, 32) * codes - spread(half(b, 2) * low, 32)


def q4_k(b):  # d, dmin, 12 bytes of scales, 128 of codes
    return with_minima(b, quarters(b[:, 16:144]))


def q5_k(b):  # d, dmin, 12 bytes of scales, 32 of high bits, 128 of codes
    return with_minima(b, quarters(b[:, 48:176]) | bit_planes(b[:, 16:48], 1, 8) << 4)


def q6_k(b):  # 128 bytes of low nibbles, 64 of high pairs, 16 scales, d
    low = np.concatenate([nibbles(b[:, 0:64]), nibbles(b[:, 64:128])], axis=1)
    code = signed(low | halves(b[:, 128:192], 32, 2, 4) << 4) - 32
    scale = np.ascontiguousarray(b[:, 192:208]).view(np.int8)
    return spread(half(b, 208) * scale, 16) * code


def plain(dtype):
    return lambda b: np.ascontiguousarray(b).view(dtype).astype(np.float32)


def bf16(b):  # the upper half of a float32
    words = np.ascontiguousarray(b).view("<u2").astype(np.uint32) << 16
    return words.view(np.float32)


# type number -> elements per block, bytes per block, decoder
BLOCKS = {0: (1, 4, plain("<f4")), 1: (1, 2, plain("<f2")), 30: (1, 2, bf16),
          2: (32, 18, q4_0), 3: (32, 20, q4_1), 6: (32, 22, q5_0),
          7: (32, 24, q5_1), 8: (32, 34, q8_0), 10: (256, 84, q2_k),
          11: (256, 110, q3_k), 12: (256, 144, q4_k), 13: (256, 176, q5_k),
          14: (256, 210, q6_k)}


def dequantize(shape, kind, raw):
    _, size, decode = BLOCKS[kind]
    return decode(np.asarray(raw).reshape(-1, size)).astype(np.float32).reshape(shape)


# --- The model ---------------------------------------------------------------

class Model:
    """Hyperparameters and weights of a `llama` GGUF.

    Weights are decoded when first used and kept (a model of 135 M
    parameters takes 0.5 GB)."""

    def __init__(self, path, dtype=np.float32):
        self.meta, self.tensors = read_gguf(path)
        self.path, self.dtype, self.kept = path, dtype, {}
        arch = self.meta.get("general.architecture")
        if arch != "llama":
            raise ValueError(f"{path}: architecture {arch!r}, only llama is known here")
        self.layers = self.get("block_count")
        self.width = self.get("embedding_length")
        self.heads = self.get("attention.head_count")
        self.kv_heads = self.get("attention.head_count_kv", self.heads)
        self.head_size = self.get("attention.key_length", self.width // self.heads)
        self.eps = self.get("attention.layer_norm_rms_epsilon")
        self.frequencies = self.rope_frequencies()
        self.vocabulary = self.tensors["token_embd.weight"][0][0]
        self.refuse_what_we_do_not_compute()

    def get(self, key, default=None):
        value = self.meta.get("llama." + key, default)
        if value is None:
            raise ValueError(f"{self.path}: metadata lacks llama.{key}")
        return value

    def weight(self, name):
        if name not in self.kept:
            if name not in self.tensors:
                raise ValueError(f"{self.path}: tensor {name} is missing")
            self.kept[name] = dequantize(*self.tensors[name])
        return self.kept[name].astype(self.dtype, copy=False)

    def has(self, name):
        return name in self.tensors

    def rope_frequencies(self):
        """Angle per position of each pair, float64 [rotated / 2]."""
        rotated = self.get("rope.dimension_count", self.head_size)
        base = float(self.get("rope.freq_base", 10000.0))
        kind = self.get("rope.scaling.type", "linear")
        if kind not in ("linear", "none"):
            raise ValueError(f"{self.path}: RoPE scaling {kind!r} is not known here")
        pair = np.arange(rotated // 2, dtype=np.float64)
        turn = base ** (-2 * pair / rotated)
        if self.has("rope_freqs.weight"):
            turn = turn / self.weight("rope_freqs.weight").astype(np.float64)
        factor = float(self.get("rope.scaling.factor", 0)
                       or self.get("rope.scale_linear", 0) or 1)
        return turn / factor if kind == "linear" else turn

    def refuse_what_we_do_not_compute(self):
        """A tensor nobody reads means a model that is more than this one."""
        known = {"token_embd.weight", "output_norm.weight", "output.weight",
                 "rope_freqs.weight"}
        for layer in range(self.layers):
            for part in ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output",
                         "ffn_norm", "ffn_gate", "ffn_up", "ffn_down"):
                known.add(f"blk.{layer}.{part}.weight")
        unknown = sorted(set(self.tensors) - known)
        if unknown:
            raise ValueError(f"{self.path}: tensors not known here: {unknown[:4]}")


def rms_norm(x, weight, eps):
    wide = x.astype(np.float64)
    scale = 1 / np.sqrt(np.mean(wide * wide, axis=-1, keepdims=True) + eps)
    return (wide * scale * weight).astype(x.dtype)


def rotate(x, positions, frequencies):
    """RoPE on x [T, heads, D]; channels beyond the rotated ones pass through."""
    angle = positions[:, None, None].astype(np.float64) * frequencies
    cos, sin = np.cos(angle), np.sin(angle)
    count = 2 * len(frequencies)
    out = x.astype(np.float64)
    even, odd = out[..., 0:count:2].copy(), out[..., 1:count:2].copy()
    out[..., 0:count:2] = even * cos - odd * sin
    out[..., 1:count:2] = even * sin + odd * cos
    return out.astype(x.dtype)


def softmax_rows(scores):
    """Causal softmax of square scores [T, T], in float64."""
    wide = scores.astype(np.float64)
    wide[np.triu_indices(len(wide), 1)] = -np.inf
    wide -= wide.max(axis=1, keepdims=True)
    np.exp(wide, out=wide)
    wide /= wide.sum(axis=1, keepdims=True)
    return wide.astype(scores.dtype)


def attention(q, k, v, look):
    """Grouped-query attention; q [T,H,D], k, v [T,Hk,D] -> [T, H, D].

    `look(rows)` sees all rows [H, T, T] and may return others; None saves
    keeping them."""
    tokens, heads, size = q.shape
    share = heads // k.shape[1]
    kept = np.empty((heads, tokens, tokens), q.dtype) if look else None
    out = np.empty_like(q)
    for head in range(heads):
        scores = q[:, head] @ k[:, head // share].T / q.dtype.type(np.sqrt(size))
        rows = softmax_rows(scores)
        if look:
            kept[head] = rows
        out[:, head] = rows @ v[:, head // share]
    changed = look(kept) if look else None
    if changed is not None:
        for head in range(heads):
            out[:, head] = changed[head] @ v[:, head // share]
    return out


def silu(x):
    with np.errstate(over="ignore"):
        return (x / (1 + np.exp(-x.astype(np.float64)))).astype(x.dtype)


def forward(model, ids, tap=None, wants=None, first_position=0, last_layer=None):
    """Logits [T, vocabulary] for token ids, calling `tap` on the way.

    `wants` limits the taps to a set of names (attention rows are big).
    With `last_layer` the pass ends after that layer and returns its H."""
    def at(name, layer, value):
        if tap is None or (wants is not None and name not in wants):
            return value
        changed = tap(name, layer, value)
        return value if changed is None else np.asarray(changed, dtype=value.dtype)

    ids = np.asarray(ids, dtype=np.int64)
    if ids.ndim != 1 or len(ids) == 0:
        raise ValueError("expected a non-empty list of token ids")
    if ids.min() < 0 or ids.max() >= model.vocabulary:
        raise ValueError(f"token id outside the vocabulary of {model.vocabulary}")
    positions = first_position + np.arange(len(ids))
    show_rows = tap is not None and (wants is None or "attention" in wants)

    x = at("embed", -1, model.weight("token_embd.weight")[ids])
    for layer in range(model.layers):
        x = block(model, layer, x, positions, at, show_rows)
        if layer == last_layer:
            return x
    x = rms_norm(x, model.weight("output_norm.weight"), model.eps)
    tied = "output.weight" if model.has("output.weight") else "token_embd.weight"
    return at("logits", model.layers, x @ model.weight(tied).T)


def block(model, layer, x, positions, at, show_rows):
    """One decoder layer: attention, then the gated FFN, each added to x."""
    def matrix(part):
        return model.weight(f"blk.{layer}.{part}.weight")

    size, tokens = model.head_size, len(x)
    y = rms_norm(x, matrix("attn_norm"), model.eps)
    q = at("q_pre", layer, (y @ matrix("attn_q").T).reshape(tokens, model.heads, size))
    k = at("k_pre", layer, (y @ matrix("attn_k").T).reshape(tokens, model.kv_heads, size))
    v = at("v", layer, (y @ matrix("attn_v").T).reshape(tokens, model.kv_heads, size))
    q = at("q", layer, rotate(q, positions, model.frequencies))
    k = at("k", layer, rotate(k, positions, model.frequencies))
    look = (lambda rows: at("attention", layer, rows)) if show_rows else None
    y = at("attn_out", layer, attention(q, k, v, look))
    x = at("h_attn", layer, x + y.reshape(tokens, -1) @ matrix("attn_output").T)

    y = rms_norm(x, matrix("ffn_norm"), model.eps)
    y = silu(y @ matrix("ffn_gate").T) * (y @ matrix("ffn_up").T)
    y = at("down_in", layer, y)
    y = at("down_out", layer, y @ matrix("ffn_down").T)
    return at("h", layer, x + y)


# --- The command line --------------------------------------------------------

def read_ids(text):
    """'1,2,3', or the name of a JSON file with a list or {"ids": list}."""
    if text.replace(",", "").replace(" ", "").isdigit():
        return [int(piece) for piece in text.split(",") if piece.strip()]
    with open(text, encoding="utf-8") as file:
        value = json.load(file)
    return value["ids"] if isinstance(value, dict) else value


def main():
    parser = argparse.ArgumentParser(
        description="Logits (and taps) of a llama GGUF for given token ids, by NumPy.")
    parser.add_argument("model")
    parser.add_argument("--ids", required=True, help="'1,2,3' or a JSON file")
    parser.add_argument("-o", "--output", help="logits as .npy, float32 [T, vocabulary]")
    parser.add_argument("--dump", help="taps as .npz, arrays named TAP.LAYER")
    parser.add_argument("--taps", help="comma-separated tap names (default: all)")
    parser.add_argument("--layers", help="comma-separated layers (default: all)")
    parser.add_argument("--float64", action="store_true", help="everything in float64")
    parser.add_argument("--first-position", type=int, default=0)
    options = parser.parse_args()

    model = Model(options.model, np.float64 if options.float64 else np.float32)
    names = set(options.taps.split(",")) if options.taps else None
    layers = {int(n) for n in options.layers.split(",")} if options.layers else None
    seen = {}

    def keep(name, layer, value):
        if layers is None or layer in layers:
            seen[f"{name}.{layer}"] = value.copy()

    logits = forward(model, read_ids(options.ids), keep if options.dump else None,
                     names, options.first_position)
    if options.output:
        np.save(options.output, logits.astype(np.float32))
    if options.dump:
        np.savez(options.dump, **seen)
    top = int(np.argmax(logits[-1]))
    print(f"{len(logits)} tokens, vocabulary {logits.shape[1]}, "
          f"next id {top} with logit {logits[-1, top]:.4f}")


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as problem:
        print(f"llama.py: {problem}", file=sys.stderr)
        sys.exit(1)
