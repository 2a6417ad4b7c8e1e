"""The integer group quantizers: SPEC 0.5, A.0 and C.4; CONTRACT 2.

A group is a list of (token, head, channel).  Along tokens (`channel`) groups are cut by position
and the last one may be short; along channels (`token`) every token has its own.  Kept rows stay
in their group as holes: they carry code 0, are left out of the minimum and maximum, and read
back as the binary16 of the input.

    lo = min, hi = max         over the elements of the group that are not kept
    s = half((hi - lo) / Q)    m = half(lo)              Q = 2**b - 1; float32, then binary16
    q = clamp(rne((x - m) / s), 0, Q)                    with the stored s and m
    x^ = q * s + m                                       float32 product, float32 sum

Symmetric: s = half(max|x| / (2**(b-1) - 1)), q in -2**(b-1) .. 2**(b-1)-1, stored as q + 2**(b-1),
m = 0.
If s is 0 after rounding, q = 0 and x^ = m.  If all elements are kept, s = m = 0 and codes are 0.
"""

import math

from exact import Random, Refused, f32, half, half_bits, round_away, round_even, stored_half
from suite import VectorFile

MISTAKES = {
    "kept-but-in-statistics": (
        "The kept row still takes part in its group's minimum and maximum, so its neighbours stay "
        "damaged although the row itself is served in 16 bits (SPEC C.4)."
    ),
    "overwrite": (
        "Kept rows are overwritten by zeros before the statistics instead of being left out of "
        "them; zero then widens the range of a group that lies away from zero."
    ),
    "kept-rows-shift-groups": (
        "Kept rows are removed first and the rest is cut into groups; groups are cut by position "
        "and kept rows leave holes (CONTRACT 2)."
    ),
    "kept-code-zero": (
        "A kept row carries code 0 also in symmetric formats, not the code of the value 0."
    ),
    "kept-is-half": "A kept row reads back as the binary16 of the input, not as the float32 input.",
    "truncation": "Codes are truncated instead of rounded to nearest.",
    "ties-away": "A quotient exactly half-way goes away from zero instead of to the even code.",
    "uses-stored-scale": (
        "Codes are computed with the float32 scale and minimum before they were rounded to "
        "binary16; the reader only has the rounded ones."
    ),
    "float32-arithmetic": (
        "x - m is computed in more than float32, so a tie made by float32 rounding is missed."
    ),
    "constant-group": (
        "A constant group gets scale 1 (or an epsilon) instead of scale 0 with codes 0."
    ),
    "scale-rounds-to-zero": (
        "Only the scale before rounding is tested for 0; a nearly constant group's scale becomes "
        "0 as binary16, and the division then gives infinity."
    ),
    "tail-group": (
        "The short last group is merged into the one before it instead of having its own scale."
    ),
    "clamp": (
        "Codes are not clamped; rounding s down or m up pushes the quotient outside the range and "
        "the code wraps."
    ),
    "integer-zero-point": (
        "The minimum is turned into an integer zero point, s * (q - z), instead of being stored "
        "as a float."
    ),
    "reciprocal": "The quotient is computed as a product with 1 / s, which rounds twice.",
    "symmetric-range": (
        "The lowest code -2**(b-1) is not used; it is reached when a tiny scale is rounded down."
    ),
    "not-finite": "A NaN or an infinity must be refused, not quantized.",
    "half-overflow": (
        "A finite value whose binary16 is infinite (|x| >= 65520) must be refused, also in a kept "
        "row."
    ),
}

DESCRIPTIONS = {
    "tie": "Quotients lie exactly half-way between two codes.",
    "near-constant": (
        "The group's range is so small that its scale is subnormal or zero in binary16."
    ),
    "all-kept": "Every token of a group is kept: scale 0, minimum 0, codes 0, no division.",
    "outlier-channel": (
        "One channel is far larger than the others; a wrong axis or a scale shared by channels "
        "shows."
    ),
    "sink-not-first": "A kept row that is not at position 0.",
    "several-sinks": "More than one kept row.",
    "no-sink": "No kept row at all.",
    "n-larger-than-prompt": "Every row is kept.",
}

NOTES = dict(MISTAKES, **DESCRIPTIONS)


def parse_format(text):
    """bits, axis, group (0 means all), symmetric."""
    parts = text.split(":")
    return int(parts[0]), parts[1], 0 if parts[2] == "all" else int(parts[2]), "sym" in parts[3:]


def groups_of(axis, group, shape, kept=(), wrong=""):
    """The groups in the order of their scales, each a list of (token, head, channel)."""
    tokens, heads, size = shape
    out = []
    if axis == "token":
        for t in range(tokens):
            if group == 0:
                out.append([(t, h, c) for h in range(heads) for c in range(size)])
            else:
                for h in range(heads):
                    for first in range(0, size, group):
                        out.append([(t, h, c) for c in range(first, first + group)])
        return out
    for positions in token_groups(tokens, group or max(tokens, 1), kept, wrong):
        for h in range(heads):
            for c in range(size):
                out.append([(t, h, c) for t in positions])
    return out


def token_groups(tokens, group, kept, wrong):
    """Runs of `group` positions from the first one on; the last may be short."""
    if wrong == "kept-rows-shift-groups" and kept:
        order = [t for t in range(tokens) if t not in kept]
        cuts = [order[i : i + group] for i in range(0, len(order), group)] or [[]]
        cuts[-1] = cuts[-1] + sorted(kept)
        return cuts
    cuts = [list(range(first, min(first + group, tokens))) for first in range(0, tokens, group)]
    if wrong == "tail-group" and len(cuts) > 1 and len(cuts[-1]) < group:
        last = cuts.pop()
        cuts[-1] = cuts[-1] + last
    return cuts


def parameters_of_group(values, bits, symmetric, wrong=""):
    """Stored scale and minimum of one group, and the two before rounding."""
    if not values:
        return 0.0, 0.0, 0.0, 0.0
    if symmetric:
        largest = max(abs(v) for v in values)
        exact_scale, exact_min = f32(largest / (2 ** (bits - 1) - 1)), 0.0
    else:
        low, high = min(values), max(values)
        exact_scale, exact_min = f32(f32(high - low) / (2**bits - 1)), low
    scale, minimum = half(exact_scale), half(exact_min)
    if wrong == "constant-group" and exact_scale == 0:
        scale = 1.0
    return scale, minimum, exact_scale, exact_min


def code_of(x, bits, symmetric, group, wrong=""):
    """The code q of one element (before the symmetric shift)."""
    scale, minimum, exact_scale, exact_min = group
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if symmetric else (0, 2**bits - 1)
    if wrong == "symmetric-range" and symmetric:
        low += 1
    zero_test = exact_scale if wrong == "scale-rounds-to-zero" else scale
    if zero_test == 0:
        return 0
    if scale == 0:
        return high if x > minimum else low
    if wrong == "uses-stored-scale":
        scale, minimum = exact_scale, exact_min
    difference = x - minimum if wrong == "float32-arithmetic" else f32(x - minimum)
    quotient = difference / scale if wrong == "float32-arithmetic" else f32(difference / scale)
    if wrong == "reciprocal":
        quotient = f32(difference * f32(1.0 / scale))
    if wrong == "integer-zero-point" and not symmetric:
        zero = round_even(f32(-exact_min / scale))
        return max(low, min(high, round_even(f32(x / scale)) + zero))
    if wrong == "truncation":
        code = math.trunc(quotient)
    elif wrong == "ties-away":
        code = round_away(quotient)
    else:
        code = round_even(quotient)
    if wrong == "clamp":
        return (code - low) % (2**bits) + low
    return max(low, min(high, code))


def refuse_what_half_cannot_hold(x, shape):
    tokens, heads, size = shape
    for i, value in enumerate(x):
        where = "token %d, head %d, channel %d" % (i // (heads * size), i // size % heads, i % size)
        stored_half(value, where)


def quantize_array(x, shape, text, kept=(), wrong=""):
    """Codes, scales, minima (as numbers) and the array that a reader gets back."""
    bits, axis, group, symmetric = parse_format(text)
    tokens, heads, size = shape
    if axis == "token" and group and size % group:
        raise Refused("usage", "group %d does not divide the head size %d" % (group, size))
    refuse_what_half_cannot_hold(x, shape)
    kept = set(kept)
    shift = 2 ** (bits - 1) if symmetric else 0

    def index(element):
        return (element[0] * heads + element[1]) * size + element[2]

    codes, dequant, scales, minima = [0] * len(x), [0.0] * len(x), [], []
    for elements in groups_of(axis, group, shape, kept, wrong):
        values = [x[index(e)] for e in elements if e[0] not in kept]
        if wrong == "kept-but-in-statistics":
            values = [x[index(e)] for e in elements]
        elif wrong == "overwrite":
            values = [0.0 if e[0] in kept else x[index(e)] for e in elements]
        fit = parameters_of_group(values, bits, symmetric, wrong)
        scales.append(fit[0])
        minima.append(fit[1])
        for e in elements:
            i = index(e)
            if e[0] in kept and wrong == "kept-row-from-codes":
                dequant[i] = f32(f32(-shift * fit[0]) + fit[1])
            elif e[0] in kept:
                codes[i] = shift if wrong == "kept-code-zero" else 0
                dequant[i] = x[i] if wrong == "kept-is-half" else half(x[i])
            else:
                q = code_of(x[i], bits, symmetric, fit, wrong)
                codes[i] = q + shift
                minimum = 0.0 if wrong == "minimum-ignored" else fit[1]
                dequant[i] = f32(f32(q * fit[0]) + minimum)
    return codes, scales, minima, dequant


def scale_shape(text, shape):
    bits, axis, group, symmetric = parse_format(text)
    tokens, heads, size = shape
    if axis == "channel":
        return [-(-tokens // group) if group else 1, heads, size]
    return [tokens, heads, size // group] if group else [tokens, 1, 1]


def bits_or_nan(x):
    """For wrong outcomes too: what half cannot hold becomes its infinity."""
    return half_bits(half(x))


def oracle(inputs, wrong=""):
    shape, text = inputs["shape"], inputs["format"]
    if wrong in ("not-finite", "half-overflow"):
        bad_numbers = [v for v in inputs["x"] if math.isnan(v) or math.isinf(v)]
        too_large = [v for v in inputs["x"] if abs(v) >= 65520 and not math.isinf(v)]
        if bad_numbers if wrong == "not-finite" else too_large:
            return {"codes": "accepted"}
    codes, scales, minima, dequant = quantize_array(inputs["x"], shape, text, inputs["kept"], wrong)
    return {
        "codes": codes,
        "scaleShape": scale_shape(text, shape),
        "scale": [bits_or_nan(s) for s in scales],
        "min": [bits_or_nan(m) for m in minima],
        "dequant": dequant,
    }


def planted(random, shape, kept, outlier, offset=0.0, fine=False):
    """Keys as a language model makes them: each channel around its own level, one of them huge;
    kept rows (sinks) small everywhere except in the huge channel, where the sign is the other one.
    """
    tokens, heads, size = shape
    levels = [[f32(random.uniform(-2, 2) + offset) for _ in range(size)] for _ in range(heads)]
    x = []
    for t in range(tokens):
        for h in range(heads):
            for c in range(size):
                spread = random.fine(-1, 1) if fine else random.noise(0.5)
                value = levels[h][c] + spread
                if outlier is not None and (h, c) == outlier:
                    value = 40 + 8 * spread
                if t in kept:
                    value = -90 + spread if (h, c) == outlier else 0.05 * spread
                x.append(f32(value) if fine else f32(round(value, 3)))
    return x


def lay(groups, axis, group):
    """Put equally long groups side by side along an axis: shape and flat array."""
    n, length = len(groups), len(groups[0])
    if axis == "channel":
        return [length, 1, n], [groups[c][t] for t in range(length) for c in range(n)]
    heads = 2 if group == 0 else 1
    return [n, heads, length // heads], [v for g in groups for v in g]


def tie_group(bits, symmetric):
    """Scale 1 and values on the half-way points, at least one even and one odd on either side."""
    if symmetric:
        top = 2 ** (bits - 1) - 1
        ties = [0.5, -0.5] if bits == 2 else [0.5, 1.5, -0.5, -1.5, 2.5 if bits > 3 else 0.5]
        return [float(top), -float(top)] + ties + [0.75] * (6 - len(ties))
    top = 2**bits - 1
    return [-4.0, top - 4.0, -3.5, -2.5, -1.5, f32(-1.5 + 2.0**-23), -3.25, -2.0]


def special_groups(bits, symmetric):
    """Eight values each; every group carries one difficulty."""
    tiny = 2.0**-24
    top = 2 ** (bits - 1) - 1 if symmetric else 2**bits - 1
    small_top = f32(1.49 * top * tiny)
    third = f32(1 / 3)
    turn = -1 if symmetric else 1
    return [
        ("tie", tie_group(bits, symmetric)),
        ("constant", [0.0 if symmetric else third] * 8),
        ("nearly constant", [f32(0.25 * top * tiny * k / 7) for k in range(8)]),
        ("subnormal scale", [f32(turn**k * small_top * k / 7) for k in range(8)]),
        ("far from zero", [f32(1000.3 + 0.9 * k / 7) for k in range(8)]),
        ("scale not a half", [f32(math.ldexp(third, k % 3) * (1 + k) - 1.7) for k in range(8)]),
        ("negative only", [f32(-5.1 - 0.37 * k) for k in range(8)]),
        ("largest", [65504.0, -65504.0, 65519.0, -65519.0, 30000.0, 1.0, -2.0, 0.0]),
    ]


def reciprocal_group(random, bits, symmetric):
    """Search for a group in which x * (1 / s) picks another code than x / s; with one bit of
    magnitude there is hardly any, so the search may give up."""
    for _ in range(3000):
        values = [random.fine(-1, 1) for _ in range(8)]
        scale, minimum, a, b = parameters_of_group(values, bits, symmetric)
        k = random.below(2 ** (bits - 1) - 1) + 0.5
        values[3] = f32(f32(k * scale) + minimum)
        fit = parameters_of_group(values, bits, symmetric)
        plain = [code_of(v, bits, symmetric, fit) for v in values]
        if plain != [code_of(v, bits, symmetric, fit, "reciprocal") for v in values]:
            return values
    return None


def format_text(bits, axis, group, symmetric):
    return "%d:%s:%s%s" % (bits, axis, group or "all", ":sym" if symmetric else "")


def add_special_cases(file, random, bits, axis, symmetric, group):
    text = format_text(bits, axis, group, symmetric)
    for name, values in special_groups(bits, symmetric):
        shape, x = lay([values, [f32(v / 2) for v in values]], axis, group)
        must = {
            "tie": ["ties-away", "truncation"] + ([] if symmetric else ["float32-arithmetic"]),
            "constant": ["constant-group"],
            "nearly constant": ["scale-rounds-to-zero"],
            "subnormal scale": ["clamp", "symmetric-range"] if symmetric and bits > 2 else [],
            "far from zero": [] if symmetric else ["clamp"],
            "scale not a half": [],
            "negative only": [],
            "largest": [],
        }[name]
        flags = {
            "tie": ["tie"],
            "constant": ["no-sink"],
            "nearly constant": ["near-constant"],
            "subnormal scale": ["near-constant"],
        }.get(name, [])
        file.case(name, {"format": text, "shape": shape, "x": x, "kept": []}, flags, must)
    values = reciprocal_group(random, bits, symmetric)
    if values:
        shape, x = lay([values, values], axis, group)
        file.case(
            "reciprocal", {"format": text, "shape": shape, "x": x, "kept": []}, [], ["reciprocal"]
        )


def add_random_cases(file, random, bits, axis, symmetric, group):
    """Sizes around a group's length, rows kept in mid-sequence, an outlier channel."""
    along = group if axis == "channel" else 0
    plans = [
        ("one token", [1, 2, 4], [], along),
        ("31 tokens", [31, 1, 4], [30], along),
        ("32 tokens", [32, 1, 4], [7], along),
        ("33 tokens", [33, 1, 4], [0, 17, 32], along),
        ("37 tokens", [37, 2, 4 if bits == 2 else 2], [5, 6, 14, 34], along),
        ("129 tokens", [129, 1, 2], [64, 100], along),
    ]
    if (axis == "token" or symmetric) and not (bits == 2 and group and not symmetric):
        plans = [plan for plan in plans if plan[0] in ("one token", "33 tokens", "37 tokens")]
    if axis == "channel" and group:
        plans += [
            ("groups of 8", [19, 1, 2], [8, 9, 10, 11, 12, 13, 14, 15, 17], 8),
            ("groups of 5", [13, 1, 2], [3, 11], 5),
        ]
    for name, shape, kept, length in plans:
        if axis == "token" and group:
            length = 2
        text = format_text(bits, axis, length, symmetric)
        offset = 6.0 if name != "one token" else 0.0
        fine = name in ("one token", "31 tokens", "groups of 5")
        x = planted(random, shape, kept, (shape[1] - 1, 1), offset, fine)
        flags, must = ["outlier-channel"] if shape[0] > 1 else [], []
        if not kept:
            flags.append("no-sink")
        if any(kept):
            flags.append("sink-not-first")
        if len(kept) > 1:
            flags.append("several-sinks")
        if name == "groups of 8" or (axis == "token" and kept):
            flags.append("all-kept")
        if axis == "channel" and kept:
            must += ["kept-but-in-statistics", "kept-is-half"] + (
                [] if symmetric else ["overwrite"]
            )
            if length and shape[0] % length and shape[0] > length:
                must += ["tail-group", "kept-rows-shift-groups"]
        if kept and symmetric:
            must.append("kept-code-zero")
        if shape[0] > 1:
            must += [] if bits == 8 else ["truncation"]
        if bits == 8 and shape[0] > 30 and axis == "channel" and not symmetric:
            must.append("uses-stored-scale")
        file.case(name, {"format": text, "shape": shape, "x": x, "kept": kept}, flags, must)
    shape = [5, 1, 4]
    text = format_text(bits, axis, 4 if group else 0, symmetric)
    x = planted(random, shape, [], None)
    file.case(
        "all rows kept",
        {"format": text, "shape": shape, "x": x, "kept": [0, 1, 2, 3, 4]},
        ["all-kept", "n-larger-than-prompt", "several-sinks", "sink-not-first"],
        ["kept-is-half"],
    )


def add_wide_heads(file, random, bits, symmetric):
    """Three KV heads of size 64, three groups of 64 a token (CONTRACT 2's own example)."""
    shape = [2, 3, 64]
    x = planted(random, shape, [1], (1, 20))
    text = format_text(bits, "token", 64, symmetric)
    file.case(
        "three heads of 64",
        {"format": text, "shape": shape, "x": x, "kept": [1]},
        ["outlier-channel", "sink-not-first", "all-kept"],
        ["truncation"],
    )


def add_refusals(file, bits, axis, symmetric, group):
    text = format_text(bits, axis, 4 if group else 0, symmetric)
    for name, value, kept, must in (
        ("65519.996 fits", 65519.99609375, [], []),
        ("65520", 65520.0, [], ["half-overflow"]),
        ("-65520 in a kept row", -65520.0, [1], ["half-overflow"]),
        ("1e30", f32(1e30), [], ["half-overflow"]),
        ("NaN", float("nan"), [], ["not-finite"]),
        ("NaN in a kept row", float("nan"), [1], ["not-finite"]),
        ("infinity", float("inf"), [], ["not-finite"]),
        ("minus infinity", float("-inf"), [], ["not-finite"]),
    ):
        x = [1.0, -2.0, 0.5, 3.0, 0.25, value, -1.0, 2.0, 0.0, 1.5, -0.5, 0.75]
        file.case(name, {"format": text, "shape": [3, 1, 4], "x": x, "kept": kept}, [], must)
    if axis == "token" and group:
        file.case(
            "group does not divide the head",
            {
                "format": format_text(bits, axis, 3, symmetric),
                "shape": [1, 1, 4],
                "x": [1.0, 2.0, 3.0, 4.0],
                "kept": [],
            },
        )


def files():
    for bits in (2, 3, 4, 8):
        for axis, group in (("channel", 8), ("channel", 0), ("token", 8), ("token", 0)):
            for symmetric in (False, True):
                name = "quantize_%d_%s%s%s" % (
                    bits,
                    axis,
                    "" if group else "_all",
                    "_sym" if symmetric else "",
                )
                file = VectorFile(
                    name,
                    "quantize",
                    {
                        "bits": bits,
                        "axis": axis,
                        "group": "some" if group else "all",
                        "symmetric": symmetric,
                    },
                    oracle,
                    NOTES,
                    list(MISTAKES),
                )
                random = Random(name)
                add_special_cases(file, random, bits, axis, symmetric, group)
                add_random_cases(file, random, bits, axis, symmetric, 32 if group else 0)
                if axis == "token" and group and bits in (2, 4) and not symmetric:
                    add_wide_heads(file, random, bits, symmetric)
                add_refusals(file, bits, axis, symmetric, group)
                yield file
