"""Every format on an array [T, Hk, D]: CONTRACT 2 with all its flags, SPEC A.1, A.5, A.7, A.8.

Order on a row: had, norm, outliers taken out, groups.  Reading: codes to values, outliers put
back, times the token's norm, had again (it is its own inverse).

had      y = H x / sqrt(D) over each head, natural (Sylvester) order; float32 butterflies of stride
         1, 2, 4, ..: a + b into the lower place, a - b into the upper; at the end one product with
         the float32 of 1 / sqrt(D).
norm     n = float32 of sqrt(max(sum over all heads and channels of y^2, 1e-8)), the sum in double
         and in order; y / n is quantized, x^ * n is read.  A token that is not coded has n = 0.
outP     keys: of each channel, over its tokens that are not kept; values: of each token that is
         not kept, over all heads and channels: the floor(n * P / 200) largest, then of the rest as
         many smallest; ties to the lower position.  Stored as binary16, code 0, out of the range.
static   lo and hi of each channel are given; token:G takes the least lo and greatest hi of its
         channels.
kivi     every operation rounded to binary16: s = half(half(mx - mn) / Q),
         q = rne(clamp(half(half(x - mn) / s), 0, Q)), x^ = half(half(q * s) + mn); s = 0: q = 0.
         A range for which mx - mn, Q * s or Q * s + mn is infinite is refused.

Kept tokens.  `both`: out of all statistics, stored as binary16 of the row as it came, code 0.
`overwrite`: stored like that, but still in the statistics.  `exclude-only`: out of the statistics,
but coded with the scale of their group like the others; where a group lies within one token
(`token`, q4_0 ..) they are coded as if nobody had chosen them.
"""

import math

import blocks
import levels
from exact import Refused, f32, half, half_bits, stored_half
from formats import Format
from quantize import code_of, groups_of, parameters_of_group, refuse_what_half_cannot_hold

MISTAKES = {
    "had-unnormalised": "The butterflies are not followed by 1 / sqrt(D).",
    "had-order": (
        "The rows of the Hadamard matrix are in order of sign changes (Walsh) instead of natural "
        "order."
    ),
    "had-factor-first": "The factor is applied before the butterflies instead of after them.",
    "had-in-double": "The butterflies run in double and are rounded once at the end.",
    "had-not-undone": "The reader gets the rotated values.",
    "had-over-the-row": "One transform over all heads together instead of one per head.",
    "norm-per-head": "Every head has its own norm instead of one over all heads.",
    "norm-of-the-mean": "The root of the mean of squares instead of their sum.",
    "norm-before-had": "The norm is taken of the row before the Hadamard transform.",
    "norm-as-half": "The norm is stored as binary16 instead of float32.",
    "norm-not-multiplied": "The reader gets values of norm one.",
    "norm-of-kept": "A kept token stores its norm; its place holds 0.",
    "outlier-by-magnitude": (
        "The 2k largest magnitudes are taken instead of the k largest and the k smallest values."
    ),
    "outlier-in-the-range": "Outliers are stored, but still take part in minimum and maximum.",
    "outlier-kept-counted": "Kept tokens count in n, so that too many outliers are stored.",
    "outlier-kept-chosen": "A kept row's values are taken as outliers.",
    "outlier-later-tie": "Among equal values the later position is taken.",
    "outlier-rounds-up": "At least one outlier per side, or the number is rounded, not cut.",
    "outlier-each-side-whole": "P percent on each side instead of half of it.",
    "outlier-float-floor": "n * P / 200 is computed in floating point and falls below the integer.",
    "outlier-code": "An outlier's place holds the clamped code instead of 0.",
    "outlier-per-group": "The outliers are chosen in each group, not in the whole channel or row.",
    "outlier-other-axis": "Keys take their outliers per token and values per channel.",
    "static-from-the-data": "The range of the data is used instead of the given constants.",
    "static-first-channel": "A group of channels takes the constants of its first one.",
    "static-wraps": "Values outside the constants wrap instead of being clamped.",
    "exclusion-ignored": "Kept tokens are treated as by default.",
    "exclude-only-in-range": "With exclude-only the kept token still takes part in the range.",
    "exclude-only-wraps": "A kept token outside its group's range is not clamped.",
    "kivi-in-float32": "The arithmetic of the other formats is used, only scale and minimum half.",
    "kivi-row-not-half": "The row is not rounded to binary16 first.",
    "kivi-difference-not-half": "x - mn and mx - mn are not rounded to binary16.",
    "kivi-quotient-not-half": "The quotient by s is not rounded to binary16 before it becomes a code.",
    "kivi-read-not-half": "q * s + mn is computed in float32.",
}
DESCRIPTIONS = {
    "tie": "Values on, or exactly half-way between, what decides.",
    "outlier-channel": "One channel is far larger than the others.",
    "sink-not-first": "A kept row that is not at position 0.",
    "no-sink": "No kept row at all.",
    "all-kept": "Every token of a group is kept.",
    "zero-outliers": "P is so small that the number is cut to 0; nothing may change.",
    "half-overflow": (
        "The values or what becomes of them (rotated values, a range, a code times the scale) do not "
        "fit binary16, and so cannot be stored or read."
    ),
}


# ---- rotations and norms ----


def butterflies(y, single=f32):
    stride = 1
    while stride < len(y):
        for i in range(len(y)):
            if i & stride == 0:
                a, b = y[i], y[i + stride]
                y[i], y[i + stride] = single(a + b), single(a - b)
        stride *= 2
    return y


def sign_changes(row, size):
    signs = [bin(row & column).count("1") & 1 for column in range(size)]
    return sum(1 for a, b in zip(signs, signs[1:]) if a != b)


def hadamard(x, wrong=""):
    """One head."""
    size = len(x)
    factor = f32(1 / math.sqrt(size))
    if wrong == "had-factor-first":
        return butterflies([f32(v * factor) for v in x])
    if wrong == "had-in-double":
        return [f32(v / math.sqrt(size)) for v in butterflies(list(x), lambda v: v)]
    y = butterflies(list(x))
    if wrong == "had-order":
        y = [y[row] for row in sorted(range(size), key=lambda row: sign_changes(row, size))]
    return y if wrong == "had-unnormalised" else [f32(v * factor) for v in y]


def self_test():
    """The butterflies are the matrix (-1)^popcount(row & column) / sqrt(D), and undo themselves."""
    x = [float((7 * i) % 16 - 5) for i in range(16)]
    for row, y in enumerate(hadamard(x)):
        signs = [(-1) ** bin(row & column).count("1") for column in range(16)]
        assert y == sum(s * v for s, v in zip(signs, x)) / 4, row
    assert hadamard(hadamard(x)) == x


def rotate(x, shape, wrong=""):
    size = shape[2]
    if wrong == "had-over-the-row" and (shape[1] & (shape[1] - 1)) == 0:
        size *= shape[1]
    return [v for i in range(0, len(x), size) for v in hadamard(x[i : i + size], wrong)]


def token_norm(row, wrong=""):
    total = 0.0
    for v in row:
        total += v * v
    if wrong == "norm-of-the-mean":
        total /= len(row)
    norm = f32(math.sqrt(max(total, 1e-8)))
    return half(norm) if wrong == "norm-as-half" else norm


# ---- outliers ----


def outlier_count(n, thousandths, wrong=""):
    if wrong == "outlier-rounds-up":
        return -(-n * thousandths // 200000)
    if wrong == "outlier-each-side-whole":
        thousandths *= 2
    if wrong == "outlier-float-floor":
        return min(int(n * (thousandths / 1000 / 200)), n // 2)
    return min(n * thousandths // 200000, n // 2)


def extremes(candidates, y, thousandths, wrong=""):
    """The outliers among candidates (indices in ascending order), kept ones left out already."""
    count = outlier_count(len(candidates), thousandths, wrong)
    turn = -1 if wrong == "outlier-later-tie" else 1
    if wrong == "outlier-by-magnitude":
        return sorted(candidates, key=lambda i: (-abs(y[i]), i))[: 2 * count]
    largest = sorted(candidates, key=lambda i: (-y[i], turn * i))[:count]
    rest = [i for i in candidates if i not in largest]
    return largest + sorted(rest, key=lambda i: (y[i], turn * i))[:count]


def outliers_of(y, shape, f, kept, side, wrong=""):
    tokens, heads, size = shape
    width = heads * size
    if not f.outliers:
        if not (f.has("out") and wrong == "outlier-rounds-up"):
            return set()
    along_tokens = (side == "keys") != (wrong == "outlier-other-axis")
    if along_tokens:
        lines = [[t * width + c for t in range(tokens)] for c in range(width)]
    else:
        lines = [[t * width + c for c in range(width)] for t in range(tokens)]
    if wrong == "outlier-per-group":
        lines = [
            [(t * heads + h) * size + c for t, h, c in group]
            for group in groups_of(f.axis, f.group, shape)
        ]
    found = set()
    for line in lines:
        free = [i for i in line if i // width not in kept]
        if wrong == "outlier-kept-chosen":
            free = line
        if wrong == "outlier-kept-counted":
            count = outlier_count(len(line), f.outliers)
            more = 200000 * count // max(len(free), 1)
            while outlier_count(len(free), more) < min(count, len(free) // 2):
                more += 1
            found.update(extremes(free, y, more))
        else:
            found.update(extremes(free, y, f.outliers, wrong))
    return found


# ---- one group ----


def kivi_fit(values, bits, wrong=""):
    if not values:
        return 0.0, 0.0
    low, high = min(values), max(values)
    top = 2**bits - 1
    if wrong == "kivi-in-float32":
        return half(f32(f32(high - low) / top)), half(low)
    span = f32(high - low) if wrong == "kivi-difference-not-half" else half(high - low)
    if math.isinf(span) or math.isinf(low):
        raise Refused("run", "the range %.9g is beyond what binary16 holds" % (high - low))
    scale = half(f32(span / top))
    if wrong == "" and math.isinf(half(half(top * scale) + low)):
        raise Refused("run", "the largest code, %d * %.9g, reads as infinity" % (top, scale))
    return scale, low


def kivi_code(x, bits, fit, wrong=""):
    scale, low = fit
    top = 2**bits - 1
    if scale == 0:
        return 0
    if wrong == "kivi-in-float32":
        return max(0, min(top, round(f32(f32(x - low) / scale))))
    difference = f32(x - low) if wrong == "kivi-difference-not-half" else half(x - low)
    quotient = difference / scale
    quotient = f32(quotient) if wrong == "kivi-quotient-not-half" else half(f32(quotient))
    return round(max(0.0, min(float(top), quotient)))


def kivi_value(code, fit, wrong=""):
    scale, low = fit
    if wrong in ("kivi-in-float32", "kivi-read-not-half"):
        return f32(f32(code * scale) + low)
    return half(half(code * scale) + low)


class Coder:
    """Scale, minimum and codes of one group, whatever the kind."""

    def __init__(self, f, values, constants, wrong):
        self.f, self.wrong = f, wrong
        symmetric = f.has("sym")
        if f.has("static") and wrong != "static-from-the-data":
            values = list(constants)
        if f.kind == "nf":
            self.fit = levels.nf_fit(values, wrong)
        elif f.kind == "e4m3":
            self.fit = levels.e4m3_fit(values, wrong)
        elif f.has("kivi"):
            self.fit = kivi_fit(values, f.bits, wrong)
        elif f.kind in blocks.BITS:
            self.fit = blocks.fit_of(values, f.kind, wrong) if values else (0.0, 0.0, 0.0, 0.0)
        else:
            self.fit = parameters_of_group(values, f.bits, symmetric, wrong)

    def scale(self):
        return self.fit[1] if self.f.kind in blocks.BITS else self.fit[0]

    def minimum(self):
        if self.f.kind in blocks.BITS:
            return self.fit[3]
        return self.fit[1] if self.f.kind == "integer" else 0.0

    def code(self, x, wrong=""):
        f = self.f
        wrong = wrong or self.wrong
        if f.kind == "nf":
            return levels.nf_code(x, f.bits, self.fit, wrong)
        if f.kind == "e4m3":
            return levels.e4m3_scaled_code(x, self.fit, wrong)
        if f.has("kivi"):
            return kivi_code(x, f.bits, self.fit, wrong)
        if f.kind in blocks.BITS:
            return blocks.code_of(x, f.kind, self.fit, wrong)
        shift = 2 ** (f.bits - 1) if f.has("sym") else 0
        clamp = "clamp" if wrong == "static-wraps" else wrong
        return code_of(x, f.bits, f.has("sym"), self.fit, clamp) + shift

    def value(self, code):
        f = self.f
        if f.kind == "nf":
            return levels.nf_value(code, f.bits, self.fit, self.wrong)
        if f.kind == "e4m3":
            return levels.e4m3_scaled_value(code, self.fit, self.wrong)
        if f.has("kivi"):
            return kivi_value(code, self.fit, self.wrong)
        if f.kind in blocks.BITS:
            return blocks.value_of(code, f.kind, self.fit, self.wrong)
        shift = 2 ** (f.bits - 1) if f.has("sym") else 0
        return f32(f32((code - shift) * self.fit[0]) + self.fit[1])


# ---- the whole array ----


def grouped(f, shape, wrong=""):
    """The groups in the order of their scales, as flat indices."""
    tokens, heads, size = shape
    if f.kind in blocks.BITS:
        if wrong == "block-per-head":
            row = [
                list(range(h * size + c, h * size + min(c + 32, size)))
                for h in range(heads)
                for c in range(0, size, 32)
            ]
        else:
            row = [list(range(c, c + 32)) for c in range(0, heads * size, 32)]
        return [[t * heads * size + i for i in block] for t in range(tokens) for block in row]
    return [
        [(t * heads + h) * size + c for t, h, c in group]
        for group in groups_of(f.axis, f.group, shape)
    ]


def constants_of(group, f, width, lo, hi, wrong):
    if lo is None:
        return None
    channels = [i % width for i in group]
    if wrong == "static-first-channel":
        channels = channels[:1]
    return min(lo[c] for c in channels), max(hi[c] for c in channels)


def scale_shape(f, shape):
    tokens, heads, size = shape
    if f.kind in blocks.BITS:
        return [tokens, heads * size // 32]
    once = f.has("static")
    if f.axis == "channel":
        count = 1 if once or not f.group else -(-tokens // f.group)
        return [count, heads, size]
    tokens = 1 if once else tokens
    return [tokens, heads, size // f.group] if f.group else [tokens, 1, 1]


class Result:
    """What is stored and what is read back."""

    def __init__(self, n):
        self.codes, self.dequant = [0] * n, [0.0] * n
        self.scales, self.minima, self.blocks = [], [], []
        self.norms, self.outliers = None, None


def quantize(x, shape, f, kept=(), side="keys", exclusion="both", lo=None, hi=None, wrong=""):
    tokens, heads, size = shape
    width, kept = heads * size, set(kept)
    f.check(side, heads, size)
    refuse_what_half_cannot_hold(x, shape)
    if f.has("static") and (lo is None or hi is None):
        raise Refused("usage", "static needs constants; make them with calibrate --static")
    if wrong == "exclusion-ignored":
        exclusion = "both"
    within_token = f.axis == "token" or f.kind in blocks.BITS
    rows = set() if exclusion == "exclude-only" else kept  # stored as binary16 rows
    outside = set() if exclusion == "exclude-only" and within_token else kept  # of the statistics
    if exclusion == "overwrite" or wrong in ("kept-but-in-statistics", "exclude-only-in-range"):
        outside = set()
    out = Result(len(x))
    y = list(x)
    if f.has("kivi") and wrong != "kivi-row-not-half":
        y = [half(v) for v in y]
    before = y
    if f.has("had"):
        y = rotate(y, shape, wrong)
    factor = normalise(out, y, before, f, shape, rows, wrong)
    if f.has("out"):
        chosen = outliers_of(y, shape, f, outside, side, wrong)
        chosen = {i for i in chosen if i // width not in rows} if wrong == "" else chosen
        out.outliers = {i: stored_half(y[i], "an outlier") for i in sorted(chosen)}
    fill(out, y, f, shape, rows, outside, lo, hi, wrong)
    read(out, x, f, shape, rows, factor, wrong)
    if f.has("static"):
        once = 1
        for n in scale_shape(f, shape):
            once *= n
        out.scales, out.minima = out.scales[:once], out.minima[:once]
    return out


def normalise(out, y, before, f, shape, rows, wrong):
    """Divide each token by its norm; returns the factor of every element."""
    tokens, heads, size = shape
    width = heads * size
    factor = [1.0] * len(y)
    if not f.has("norm"):
        return factor
    source = before if wrong == "norm-before-had" else y
    out.norms = []
    for t in range(tokens):
        first = t * width
        norm = token_norm(source[first : first + width], wrong)
        out.norms.append(0.0 if t in rows and wrong != "norm-of-kept" else norm)
        for i in range(first, first + width):
            factor[i] = norm
            if wrong == "norm-per-head":
                head = i - i % size
                factor[i] = token_norm(source[head : head + size])
    for i, n in enumerate(factor):
        y[i] = f32(y[i] / n)
    return factor


def fill(out, y, f, shape, rows, outside, lo, hi, wrong):
    width = shape[1] * shape[2]
    outliers = out.outliers or {}
    for group in grouped(f, shape, wrong):
        values = [y[i] for i in group if i // width not in outside]
        if wrong != "outlier-in-the-range":
            values = [y[i] for i in group if i // width not in outside and i not in outliers]
        if f.kind in blocks.BITS and group[0] // width in rows:
            values = []
        coder = Coder(f, values, constants_of(group, f, width, lo, hi, wrong), wrong)
        if wrong == "":
            stored_half(coder.scale(), "a scale"), stored_half(coder.minimum(), "a minimum")
        out.scales.append(coder.scale())
        out.minima.append(coder.minimum())
        for i in group:
            token = i // width
            if token in rows:
                out.codes[i] = kept_code(f) if wrong == "kept-code-zero" else 0
            elif i in outliers and wrong != "outlier-code":
                out.dequant[i] = outliers[i]
            else:
                clamp = "clamp" if wrong == "exclude-only-wraps" and token in outside else ""
                out.codes[i] = coder.code(y[i], clamp)
                out.dequant[i] = outliers.get(i, coder.value(out.codes[i]))
        if f.kind in blocks.BITS and len(group) == 32:
            codes = [out.codes[i] for i in group]
            if group[0] // width in rows:
                out.blocks += [0] * blocks.BYTES[f.kind]
            else:
                out.blocks += blocks.bytes_of(codes, f.kind, coder.fit, wrong)


def kept_code(f):
    """The code of zero: what a kept place must not hold."""
    if f.has("sym"):
        return 2 ** (f.bits - 1)
    if f.kind == "nf":
        return levels.LEVELS[f.bits].index(0.0)
    return {"q4_0": 8, "q5_0": 16, "q8_0": 128}.get(f.kind, 0)


def read(out, x, f, shape, rows, factor, wrong):
    """Undo norm and rotation; kept rows are the binary16 of what came."""
    width = shape[1] * shape[2]
    if f.has("norm") and wrong != "norm-not-multiplied":
        out.dequant = [f32(v * n) for v, n in zip(out.dequant, factor)]
    if f.has("had") and wrong != "had-not-undone":
        out.dequant = rotate(out.dequant, shape, wrong)
    for i, value in enumerate(x):
        if i // width in rows:
            out.dequant[i] = value if wrong == "kept-is-half" else half(value)


def bits_or_nan(x):
    """For wrong outcomes too: what half cannot hold becomes its infinity."""
    return half_bits(half(x))


def oracle(inputs, wrong=""):
    f, shape = Format(inputs["format"]), inputs["shape"]
    r = quantize(
        inputs["x"],
        shape,
        f,
        inputs["kept"],
        inputs.get("side", "keys"),
        inputs.get("exclusion", "both"),
        inputs.get("lo"),
        inputs.get("hi"),
        wrong,
    )
    out = {
        "codes": r.codes,
        "scaleShape": scale_shape(f, shape),
        "scale": [bits_or_nan(s) for s in r.scales],
        "min": [bits_or_nan(m) for m in r.minima],
        "dequant": r.dequant,
    }
    if r.norms is not None:
        out["norms"] = r.norms
    if r.outliers is not None:
        out["outlierIndex"] = list(r.outliers)
        out["outlierBits"] = [half_bits(v) for v in r.outliers.values()]
    if f.kind in blocks.BITS:
        out["blocks"] = r.blocks
    return out
