"""Softmax and its two relatives, causal attention, decoding from a packed cache: SPEC B.4, C.4.

    softmax           p_j = e^{s_j} / sum e^{s}
    softmax1          p_j = e^{s_j} / (1 + sum e^{s})          a key of logit 0 and value 0
    learned sink      p_j = e^{s_j} / (e^{S} + sum e^{s})      S is not scaled by 1 / sqrt(D)

Attention: query head h reads KV head floor(h / (H / Hk)); s_j = q.k_j / sqrt(D) over j <= i.
Decoding: one query, newer than all rows, over what the cache gives back: kept and recent rows as
they were stored (rounded on arrival), the others as q * s + m.  All sums and exponentials here are
decimals of 50 digits, so the expected values are right in every digit printed.

Tolerances are bounds, derived for an implementation that does everything in float32.  With
u = 2**-24 and n = D + 8, a logit is off by at most d = n u max_j sum_c |q_c k_jc| / sqrt(D); each
probability by a factor within exp(2 d) and its own few roundings; and the output by at most
(2 d + 2 (T + 8) u) max(1, |v|).

Formats with `had` may be read without turning every row back: the query is rotated instead, and the
output once at the end.  Each rotation is log2(D) + 1 roundings of numbers of at most the vector's
norm, on both sides of the comparison: a logit is then off by 2 (log2(D) + 2) u |q| |k| more, an
output by 2 (log2(D) + 2) u |v| sqrt(D), |.| the Euclidean norm of a head.
"""

from decimal import Decimal
import math

from cache import PLAIN, Sequence
from exact import Random, big, exp, f32, root
from history import Side
from quantize import planted, quantize_array
from suite import VectorFile, abs_rel

NOTES = {
    "no-maximum-subtracted": (
        "exp of large logits overflows float32 unless the maximum is subtracted first."
    ),
    "plain-softmax": "Softmax1 or the learned sink is computed as plain softmax.",
    "one-not-shifted": (
        "The 1 of softmax1 is added after the maximum was subtracted, without e^{-m}."
    ),
    "maximum-below-zero": (
        "Softmax1 needs max(0, max s): with all logits far below zero e^{-m} overflows."
    ),
    "sink-scaled": (
        "The learned sink logit is scaled by 1 / sqrt(D) like the others; it must not be."
    ),
    "not-causal": "A query sees keys that come after it.",
    "interleaved-heads": "Query head h reads KV head h mod Hk instead of floor(h / (H / Hk)).",
    "not-scaled": "The logits lack 1 / sqrt(D).",
    "kept-row-from-codes": "A kept row is read from its code 0 instead of from its 16-bit copy.",
    "kept-but-in-statistics": "The kept row still takes part in its group's minimum and maximum.",
    "overwrite": (
        "Kept rows are overwritten by zeros before the statistics instead of being left out of "
        "them."
    ),
    "recent-ignored": "Rows that are not yet quantized are left out.",
    "minimum-ignored": "x^ = q * s, without the minimum.",
    "rounded-on-arrival": "Rows are rounded to binary16 when they arrive, before anything else.",
    "several-sinks": "More than one row is kept.",
    "sink-not-first": "A kept row that is not at position 0.",
    "outlier-channel": "One channel of the keys is far larger than the others.",
    "no-sink": "No kept row.",
    "tie": "All logits are equal.",
    "not-quantized": "f16 or bf16 rows: nothing is kept or aged.",
    "had-not-undone": "The query meets rotated keys, or the output stays rotated.",
    "norm-not-multiplied": "The keys' norms are left out of the logits.",
    "outliers-left-out": "Outliers are not put back; their places read as code 0.",
    "codes-as-integers": "A level's rank or an E4M3 byte is taken for the number itself.",
}
UNIT = 2.0**-24


def probabilities(logits, kind="softmax", sink=None, wrong=""):
    """Decimals; the largest logit is subtracted, which changes nothing here."""
    if kind == "softmax1":
        sink = Decimal(0)
    top = max(logits)
    if wrong == "no-maximum-subtracted" and float(top) > 88.7:
        return [float("nan")] * len(logits)
    weights = [exp(s - top) for s in logits]
    total = sum(weights)
    if kind != "softmax" and wrong != "plain-softmax":
        if wrong == "maximum-below-zero" and kind == "softmax1" and float(-top) > 88.7:
            return [float("nan")] * len(logits)
        total += Decimal(1) if wrong == "one-not-shifted" else exp(sink - top)
    return [w / total for w in weights]


def plain(values):
    return [float(v) for v in values]


def softmax_oracle(inputs, wrong=""):
    sink = big(inputs["sink"]) if "sink" in inputs else None
    return {
        "p": plain(probabilities([big(s) for s in inputs["logits"]], inputs["kind"], sink, wrong))
    }


def softmax_tolerance(inputs, out):
    spread = max(inputs["logits"] + [inputs.get("sink", 0.0)]) - min(inputs["logits"])
    relative = (min(spread, 104.0) + len(inputs["logits"]) + 8) * UNIT
    return abs_rel(
        1e-7,
        relative,
        "float32: s - max is off by spread * 2^-24, the sum by n * 2^-24, a few more roundings",
    )


def softmax_file():
    file = VectorFile(
        "softmax",
        "softmax",
        {},
        softmax_oracle,
        NOTES,
        ["no-maximum-subtracted", "plain-softmax", "one-not-shifted", "maximum-below-zero"],
    )
    random = Random("softmax")
    rows = [
        ("one", [0.75], []),
        ("equal", [2.5] * 7, ["tie"]),
        ("random", random.many(33, random.noise, 2.0), []),
        ("large", [1000.0, 999.0, 990.5, -1000.0], []),
        ("far below zero", [-500.0, -501.5, -502.0], []),
        ("one stands out", [0.0] * 12 + [25.0], []),
        ("wide", [f32(k * 1.7 - 40) for k in range(31)], []),
    ]
    for name, logits, flags in rows:
        for kind, sink in (("softmax", None), ("softmax1", None), ("sink", -1.25), ("sink", 3.5)):
            inputs = {"kind": kind, "logits": logits}
            if sink is not None:
                inputs["sink"] = sink
            must = ["no-maximum-subtracted"] if name == "large" else []
            if name == "far below zero" and kind == "softmax1":
                must = ["maximum-below-zero"]
            elif kind != "softmax" and name in ("one", "equal", "random"):
                must = ["plain-softmax", "one-not-shifted"]
            label = kind if sink is None else "sink %.9g" % sink
            file.case("%s %s" % (name, label), inputs, flags, must, softmax_tolerance)
    return file


def row_of(array, t, head, heads, size):
    first = (t * heads + head) * size
    return array[first : first + size]


def dot(a, b):
    return sum(big(x) * big(y) for x, y in zip(a, b))


def attend(q, keys, values, size, kind="softmax", sink=None, wrong=""):
    """One query head over a list of rows: probabilities and output."""
    scale = Decimal(1) if wrong == "not-scaled" else 1 / root(size)
    if wrong == "sink-scaled" and sink is not None:
        sink = sink * scale
    p = probabilities([dot(q, k) * scale for k in keys], kind, sink, wrong)
    return p, [sum(w * big(v[c]) for w, v in zip(p, values)) for c in range(size)]


def kv_head(head, heads, kv_heads, wrong):
    return head % kv_heads if wrong == "interleaved-heads" else head // (heads // kv_heads)


def attention_oracle(inputs, wrong=""):
    tokens, heads, kv_heads, size = inputs["shape"]
    weights, out = [[None] * tokens for _ in range(heads)], []
    for i in range(tokens):
        for h in range(heads):
            g = kv_head(h, heads, kv_heads, wrong)
            seen = range(tokens if wrong == "not-causal" else i + 1)
            sink = big(inputs["sink"][h]) if inputs["kind"] == "sink" else None
            p, o = attend(
                row_of(inputs["q"], i, h, heads, size),
                [row_of(inputs["k"], t, g, kv_heads, size) for t in seen],
                [row_of(inputs["v"], t, g, kv_heads, size) for t in seen],
                size,
                inputs["kind"],
                sink,
                wrong,
            )
            weights[h][i] = plain(p) + [0.0] * (tokens - len(p))
            out += plain(o)
    return {"rows": [v for head in weights for row in head for v in row], "out": out}


def bound(queries, keys, values, size, tokens):
    """The derived absolute bound of the head of this file; queries and keys are lists of rows."""
    biggest = max(math.fsum(abs(a * b) for a, b in zip(q, k)) for q in queries for k in keys)
    logit = (size + 8) * UNIT * biggest / math.sqrt(size)
    total = (2 * logit + 2 * (tokens + 8) * UNIT) * max(1.0, max(abs(v) for v in values))
    return max(1e-7, float("%.2g" % total))


def rows(array, size):
    return [array[i : i + size] for i in range(0, len(array), size)]


REASON = "float32 throughout: (2 d + 2 (T + 8) 2^-24) max(1, |v|), d the bound on a logit's error"


def attention_tolerance(inputs, out):
    tokens, heads, kv_heads, size = inputs["shape"]
    return abs_rel(
        bound(rows(inputs["q"], size), rows(inputs["k"], size), inputs["v"], size, tokens),
        1e-6,
        REASON,
    )


def attention_file():
    file = VectorFile(
        "attention",
        "attention",
        {},
        attention_oracle,
        NOTES,
        ["plain-softmax", "sink-scaled", "not-causal", "interleaved-heads", "not-scaled"],
    )
    for name, shape, kind, must in (
        ("one token", [1, 2, 1, 4], "softmax", []),
        ("four heads over two", [5, 4, 2, 4], "softmax", ["not-causal", "interleaved-heads",
         "not-scaled"]),
        ("one KV head", [7, 3, 1, 2], "softmax", ["not-causal", "not-scaled"]),
        ("as many KV heads", [4, 2, 2, 8], "softmax", ["not-causal"]),
        ("softmax1", [5, 4, 2, 4], "softmax1", ["plain-softmax", "not-causal"]),
        ("learned sinks", [5, 4, 2, 4], "sink", ["plain-softmax", "sink-scaled"]),
    ):
        random = Random("attention " + name)
        tokens, heads, kv_heads, size = shape
        inputs = {
            "kind": kind,
            "shape": shape,
            "q": random.many(tokens * heads * size, random.noise, 1.5),
            "k": random.many(tokens * kv_heads * size, random.noise, 1.5),
            "v": random.many(tokens * kv_heads * size, random.noise),
        }
        if kind == "sink":
            inputs["sink"] = random.many(heads, random.uniform, -2, 2)
        file.case(name, inputs, [], must, attention_tolerance)
    return file


def read_back(cache, side, wrong):
    """What the cache gives for every position of one side."""
    text, stored, area = cache.formats[side], cache.rows[side], cache.area[side]
    if area == 0:
        return stored
    shape = [area, cache.heads, cache.size]
    first = area * cache.heads * cache.size
    inside = [p for p in cache.kept() if p < area]
    return quantize_array(stored[:first], shape, text, inside, wrong)[3] + stored[first:]


def decode_oracle(inputs, wrong=""):
    kv_heads, size = inputs["shape"]
    cache = Sequence(inputs, inputs["kept"], wrong if wrong == "rounded-on-arrival" else "")
    cache.append(inputs["K"], inputs["V"])
    keys, values = read_back(cache, "keys", wrong), read_back(cache, "values", wrong)
    heads, out = inputs["heads"], []
    hidden = cache.recent_positions("keys") if wrong == "recent-ignored" else []
    seen = [t for t in range(cache.tokens) if t not in hidden] or [0]
    for h in range(heads):
        g = kv_head(h, heads, kv_heads, wrong)
        _, o = attend(
            inputs["q"][h * size : (h + 1) * size],
            [row_of(keys, t, g, kv_heads, size) for t in seen],
            [row_of(values, t, g, kv_heads, size) for t in seen],
            size,
            "softmax",
            None,
            wrong,
        )
        out += plain(o)
    return {"out": out}


def decode_tolerance(inputs, out):
    size = inputs["shape"][1]
    cache = Sequence(inputs, inputs["kept"], "")
    cache.append(inputs["K"], inputs["V"])
    keys, values = rows(read_back(cache, "keys", ""), size), read_back(cache, "values", "")
    return abs_rel(
        bound(rows(inputs["q"], size), keys, values, size, inputs["tokens"]), 1e-6, REASON
    )


KIND_MISTAKES = ["had-not-undone", "norm-not-multiplied", "outliers-left-out", "codes-as-integers",
                 "kept-but-in-statistics"]


def sides_of(inputs, wrong=""):
    """Keys and values of a stream of any formats, settled."""
    whole = dict(inputs, window=False)
    passed = wrong if wrong in ("had-not-undone", "norm-not-multiplied",
                                "kept-but-in-statistics") else ""
    out = []
    for name, rows_name in (("keys", "K"), ("values", "V")):
        side = Side(whole, name, passed)
        for row in rows(inputs[rows_name], side.width):
            side.push(row)
        read = side.read()
        if side.area and wrong == "outliers-left-out" and side.f.outliers:
            for i in side.quantized().outliers:
                read[i] = 0.0
        if side.area and wrong == "codes-as-integers" and side.f.kind in ("nf", "e4m3"):
            stored = side.quantized()
            for i, code in enumerate(stored.codes):
                if i // side.width not in side.kept_ever:
                    read[i] = f32(0.25 * code)
        out.append(read)
    return out


def decode_kinds_oracle(inputs, wrong=""):
    kv_heads, size = inputs["shape"]
    keys, values = sides_of(inputs, wrong)
    heads, out = inputs["heads"], []
    for h in range(heads):
        g = kv_head(h, heads, kv_heads, wrong)
        tokens = range(inputs["tokens"])
        _, o = attend(
            inputs["q"][h * size : (h + 1) * size],
            [row_of(keys, t, g, kv_heads, size) for t in tokens],
            [row_of(values, t, g, kv_heads, size) for t in tokens],
            size,
        )
        out += plain(o)
    return {"out": out}


def norm(row):
    return math.sqrt(math.fsum(v * v for v in row))


def decode_kinds_tolerance(inputs, out):
    size = inputs["shape"][1]
    keys, values = sides_of(inputs)
    plain_bound = bound(rows(inputs["q"], size), rows(keys, size), values, size, inputs["tokens"])
    turns = 2 * (math.log2(size) + 2) * UNIT
    longest = [max(norm(row) for row in rows(x, size)) for x in (inputs["q"], keys, values)]
    logit, output = turns * longest[0] * longest[1], turns * longest[2] * math.sqrt(size)
    total = plain_bound + 2 * logit * max(1.0, max(abs(v) for v in values)) + output
    return abs_rel(float("%.2g" % total), 1e-6, REASON + "; the rotations' share added")


def decode_kinds_file():
    file = VectorFile("decode_kinds", "decode", {"formats": "of all kinds"}, decode_kinds_oracle,
                      NOTES, KIND_MISTAKES)
    for name, heads, shape, keys, values, recent, tokens, kept in (
        ("nf4", 4, [2, 8], "nf4:channel:8", "nf4:token:8", 3, 14, [5]),
        ("nf2, nf3", 2, [1, 8], "nf2:token:4", "nf3:channel:4", 0, 9, [3]),
        ("e4m3", 4, [2, 8], "e4m3:channel:8", "e4m3:token:all", 3, 14, [5]),
        ("q4_0, q8_0", 2, [1, 32], "q4_0", "q8_0", 1, 6, [2]),
        ("q4_1, q5_1", 4, [2, 16], "q4_1", "q5_1", 1, 6, [2]),
        ("q5_0 over heads of 8", 4, [4, 8], "q5_0", "q5_0", 0, 4, [1]),
        ("q8_0 and q4_0, rotated", 2, [1, 32], "q8_0:had", "q4_0:had", 1, 6, [2]),
        ("rotated", 4, [2, 8], "2:channel:8:had", "2:token:8:had", 3, 14, [5]),
        ("rotated, heads of 64", 2, [1, 64], "4:token:64:had", "4:token:64:had", 1, 5, [3]),
        ("as OScaR", 4, [2, 8], "2:channel:8:had:norm", "2:token:4:had", 3, 14, [5]),
        ("norms of values too", 2, [1, 8], "4:token:8:norm", "4:token:8:norm", 2, 9, [4]),
        ("outliers of values", 2, [1, 8], "2:channel:4", "2:token:8:out25", 2, 9, [4]),
        ("outliers of values, rotated", 2, [2, 8], "4:channel:4:had", "4:token:8:had:out13", 2, 9,
         [4]),
        ("kivi", 4, [2, 8], "2:channel:4:kivi", "2:token:4:kivi", 4, 15, [5]),
        ("nothing quantized yet", 2, [1, 8], "2:channel:8:had:norm", "nf4:token:8", 20, 5, [2]),
    ):
        add_decode(file, "kinds", name, heads, shape, keys, values, recent, tokens, kept,
                   decode_kinds_tolerance)
    earned = {flag for case in file.cases for flag in case["flags"]}
    assert set(KIND_MISTAKES) <= earned, set(KIND_MISTAKES) - earned
    return file


def decode_file(bits):
    name = "decode_%d" % bits if bits else "decode_plain"
    file = VectorFile(
        name,
        "decode",
        {"bits": bits or 16},
        decode_oracle,
        NOTES,
        [
            "interleaved-heads",
            "not-scaled",
            "kept-row-from-codes",
            "kept-but-in-statistics",
            "overwrite",
            "recent-ignored",
            "minimum-ignored",
            "rounded-on-arrival",
        ],
    )
    b = str(bits)
    plans = [
        ("four heads over two", 4, [2, 8], b + ":channel:8", b + ":token:4", 5, 23, [0, 6, 21]),
        ("no kept rows", 2, [1, 8], b + ":channel:8", b + ":token:8", 0, 17, []),
        ("symmetric", 6, [2, 4], b + ":channel:4:sym", b + ":token:4:sym", 3, 11, [2, 5]),
        ("keys per token", 3, [1, 8], b + ":token:8", b + ":channel:4", 2, 13, [4]),
        ("nothing quantized yet", 2, [1, 4], b + ":channel:32", b + ":token:4", 40, 9, [3]),
        ("one token", 2, [1, 4], b + ":channel:32", b + ":token:4", 0, 1, []),
    ]
    if bits == 2:
        plans.append(("head size 64", 2, [1, 64], "2:channel:8", "2:token:32", 1, 12, [5]))
    if bits == 4:
        plans.append(("head size 64", 3, [1, 64], "4:channel:4", "4:token:64", 2, 9, [2, 3]))
    if not bits:
        plans = [
            ("f16", 4, [2, 8], "f16", "f16", 0, 9, []),
            ("bf16", 2, [1, 8], "bf16", "bf16", 0, 6, []),
            ("f32", 2, [1, 4], "f32", "f32", 0, 6, []),
            ("f16 keys", 2, [1, 4], "f16", "2:token:4", 2, 9, [3]),
        ]
    for plan in plans:
        add_decode(file, name, *plan)
    return file


def add_decode(file, seed, name, heads, shape, keys, values, recent, tokens, kept,
               tolerance=decode_tolerance):
    random = Random(seed + " " + name)
    kv_heads, size = shape
    outlier = (kv_heads - 1, 1) if tokens > 1 else None
    full = [tokens, kv_heads, size]
    k, v = planted(random, full, kept, outlier), planted(random, full, kept, None, 2.0)
    q = random.many(heads * size, random.noise)
    for h in range(heads):
        q[h * size + 1] = f32(round(q[h * size + 1] / 64, 3))
    inputs = {
        "keys": keys,
        "values": values,
        "recent": recent,
        "shape": shape,
        "heads": heads,
        "tokens": tokens,
        "kept": kept,
        "K": k,
        "V": v,
        "q": q,
    }
    flags = ["outlier-channel"] if outlier else []
    flags += ["no-sink"] if not kept else ["sink-not-first"] if any(kept) else []
    flags += ["several-sinks"] if len(kept) > 1 else []
    flags += ["not-quantized"] if keys in PLAIN else []
    must = {
        "four heads over two": ["interleaved-heads", "kept-row-from-codes", "recent-ignored"],
        "head size 64": ["kept-row-from-codes", "minimum-ignored"],
    }.get(name, [])
    if name == "four heads over two" and seed in ("decode_2", "decode_3"):
        must += ["minimum-ignored", "kept-but-in-statistics"]
    file.case(name, inputs, flags, must, tolerance)


def files():
    yield softmax_file()
    yield attention_file()
    for bits in (2, 3, 4, 8, 0):
        yield decode_file(bits)
    yield decode_kinds_file()
