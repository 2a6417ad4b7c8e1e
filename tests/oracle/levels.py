"""Codes that are not integers: NormalFloat and FP8 E4M3 (SPEC A.7), one group at a time.

nfB.   s = half(max|x|); the code is that of the level nearest to x / s, where the quotient and the
       distances |x/s - level| are float32 numbers and ties go to the lower code; x^ = level * s.
       s = 0: the code of level 0.
e4m3.  s = half(max|x| / 448); the code is the E4M3FN byte nearest to x / s (float32 quotient), ties
       to even, saturating at +-448, the sign of zero kept; x^ = value * s.  s = 0: code 0.

Neither stores a minimum.  E4M3FN: sign, 4 bits of exponent with bias 7, 3 bits of fraction; no
infinities, S.1111.111 is NaN, so 448 is the largest value and 2**-9 the smallest.
"""

import math
import statistics

from exact import NAN, Random, f32, half, round_away, small_float
from suite import VectorFile

LEVELS = {
    2: [-1.0, 0.0, 0.3379151, 1.0],
    3: [-1.0, -0.4786291, -0.2171418, 0.0, 0.1609301, 0.3379151, 0.5626169, 1.0],
    4: [
        -1.0,
        -0.6961928,
        -0.5250731,
        -0.3949175,
        -0.2844414,
        -0.1847734,
        -0.0910500,
        0.0,
        0.0795803,
        0.1609302,
        0.2461123,
        0.3379152,
        0.4407098,
        0.5626170,
        0.7229568,
        1.0,
    ],
}
LEVELS = {bits: [f32(v) for v in levels] for bits, levels in LEVELS.items()}

NF_MISTAKES = {
    "ties-to-higher-level": "Half-way between two levels the higher code is taken.",
    "nf-distance-in-double": (
        "The distances to the levels are compared in double; float32 makes ties that double does "
        "not see."
    ),
    "signed-max": (
        "The scale is the largest value instead of the largest magnitude; it is wrong where the "
        "extreme value is negative."
    ),
    "nf-mirrored-levels": (
        "The levels are taken as symmetric; the positive side has one level more than the negative "
        "one."
    ),
    "nf-uniform-levels": "The levels are evenly spaced, as those of integers.",
    "nf-zero-is-code-0": "A group of zeros gets code 0, which is the level -1.",
}
E4M3_MISTAKES = {
    "ties-away": "A quotient exactly half-way goes away from zero instead of to the even code.",
    "truncation": "Codes are truncated instead of rounded to nearest.",
    "subnormal-flushed": "Quotients below 2**-6 become zero.",
    "e4m3-no-saturation": (
        "What lies beyond 448, after a scale that was rounded down, becomes the NaN code."
    ),
    "e4m3-largest-is-240": (
        "The highest exponent is reserved for infinities, as in IEEE 754, so 240 is the largest."
    ),
    "minus-zero-lost": "A negative value that rounds to zero keeps its sign: the code is 128.",
}
NOTES = dict(
    {
        "tie": "The value lies exactly half-way between two neighbours.",
        "not-a-number": "Codes 127 and 255 are NaN.",
        "saturates": "Values beyond 448 become 448; there is no infinity.",
    },
    **NF_MISTAKES,
    **E4M3_MISTAKES,
)


# ---- NormalFloat ----


def nf_levels(bits, wrong=""):
    levels = LEVELS[bits]
    if wrong == "nf-mirrored-levels":
        middle = levels.index(0.0)
        positive = levels[-middle:] if middle else []
        return [-v for v in reversed(positive)] + levels[middle:]
    if wrong == "nf-uniform-levels":
        return [f32(2 * i / (len(levels) - 1) - 1) for i in range(len(levels))]
    return levels


def nf_fit(values, wrong=""):
    """Scale as stored and before it was rounded."""
    if not values:
        return 0.0, 0.0
    largest = max(values) if wrong == "signed-max" else max(abs(v) for v in values)
    return half(largest), largest


def nf_code(x, bits, fit, wrong=""):
    scale, exact_scale = fit
    levels = nf_levels(bits, wrong)
    if scale == 0:
        return 0 if wrong == "nf-zero-is-code-0" else LEVELS[bits].index(0.0)
    quotient = f32(x / scale)
    if wrong == "uses-stored-scale":
        quotient = f32(x / exact_scale)
    if wrong == "reciprocal":
        quotient = f32(x * f32(1.0 / scale))
    best, least = 0, math.inf
    for code, level in enumerate(levels):
        distance = abs(quotient - level)
        if wrong != "nf-distance-in-double":
            distance = f32(distance)
        if distance < least or (distance == least and wrong == "ties-to-higher-level"):
            best, least = code, distance
    return best


def nf_value(code, bits, fit, wrong=""):
    return f32(nf_levels(bits, wrong)[code] * fit[0])


# ---- E4M3 ----


def e4m3_code(x, wrong=""):
    """The byte nearest to a finite x."""
    rounding = {"ties-away": round_away, "truncation": math.trunc}.get(wrong, round)
    value = small_float(x, 4, -9, 1000, rounding)
    largest = 240.0 if wrong == "e4m3-largest-is-240" else 448.0
    sign = 128 if math.copysign(1.0, x) < 0 else 0
    value = abs(value)
    if wrong == "subnormal-flushed" and value < 2.0**-6:
        value = 0.0
    if value > largest:
        if wrong == "e4m3-no-saturation":
            return sign | 127
        value = largest
    if value == 0:
        return 0 if wrong == "minus-zero-lost" else sign
    if value < 2.0**-6:
        return sign | int(value * 512)
    fraction, exponent = math.frexp(value)
    return sign | (exponent + 6) << 3 | int(fraction * 16) - 8


def e4m3_value(code, wrong=""):
    sign = -1.0 if code & 128 else 1.0
    exponent, fraction = code >> 3 & 15, code & 7
    if code & 127 == 127:
        return NAN
    if wrong == "e4m3-largest-is-240" and exponent == 15:
        return sign * math.inf
    if exponent == 0:
        return 0.0 if wrong == "subnormal-flushed" else sign * math.ldexp(fraction, -9)
    return sign * math.ldexp(8 + fraction, exponent - 10)


def e4m3_fit(values, wrong=""):
    if not values:
        return 0.0, 0.0
    largest = max(values) if wrong == "signed-max" else max(abs(v) for v in values)
    exact = f32(largest / (240.0 if wrong == "e4m3-largest-is-240" else 448.0))
    return half(exact), exact


def e4m3_scaled_code(x, fit, wrong=""):
    scale, exact = fit
    if scale == 0:
        return 0
    if wrong == "uses-stored-scale":
        scale = exact
    quotient = f32(x * f32(1.0 / scale)) if wrong == "reciprocal" else f32(x / scale)
    return e4m3_code(quotient, wrong)


def e4m3_scaled_value(code, fit, wrong=""):
    return f32(e4m3_value(code, wrong) * fit[0])


# ---- the conversion by itself ----


def e4m3_oracle(inputs, wrong=""):
    codes = [e4m3_code(x, wrong) for x in inputs["x"]]
    return {"codes": codes, "back": [e4m3_value(code, wrong) for code in codes]}


def e4m3_decode_oracle(inputs, wrong=""):
    return {"x": [e4m3_value(code, wrong) for code in inputs["codes"]]}


def normal_float(bits):
    """The construction of SPEC A.2: quantiles of the normal distribution, each side by itself."""
    inverse, first = statistics.NormalDist().inv_cdf, (1 / 32 + 1 / 30) / 2
    count = 2 ** (bits - 1)
    negative = [inverse(first + i * (0.5 - first) / (count - 1)) for i in range(count)]
    positive = [inverse(0.5 + i * (0.5 - first) / count) for i in range(1, count + 1)]
    return [v / -negative[0] for v in negative] + [v / positive[-1] for v in positive]


def self_test():
    """The printed levels are those of the construction; every finite code of E4M3 decodes to a
    value that encodes to it, and values ascend with codes."""
    for bits, table in LEVELS.items():
        assert len(table) == 2**bits == len(normal_float(bits))
        assert all(abs(a - b) < 2e-7 for a, b in zip(table, normal_float(bits))), bits
    values = [e4m3_value(code) for code in range(127)]
    assert values == sorted(set(values)) and values[-1] == 448.0 and values[1] == 2.0**-9
    assert all(e4m3_code(e4m3_value(c)) == c for c in range(256) if c & 127 != 127)


def e4m3_ties():
    """Half-way between neighbours, and one float32 step to either side."""
    out = []
    for code in (0, 1, 2, 6, 7, 8, 9, 15, 16, 55, 56, 57, 63, 64, 118, 119, 124, 125):
        middle = (e4m3_value(code) + e4m3_value(code + 1)) / 2
        step = math.ldexp(1.0, math.frexp(middle)[1] - 24)
        out += [middle, -middle, middle - step, middle + step]
    return out


def files():
    self_test()
    random = Random("e4m3")
    file = VectorFile(
        "e4m3", "e4m3", {"scale": "none"}, e4m3_oracle, NOTES, list(E4M3_MISTAKES)
    )
    file.case("every value", {"x": [e4m3_value(c) for c in range(256) if c & 127 != 127]}, [],
              ["subnormal-flushed", "e4m3-largest-is-240", "minus-zero-lost"])
    file.case("ties", {"x": e4m3_ties()}, ["tie"], ["ties-away", "truncation"])
    file.case(
        "saturation",
        {"x": [448.0, 449.0, f32(463.99997), 464.0, f32(464.00003), 480.0, 512.0, 65504.0,
               f32(1e30), -448.0, -465.0, f32(-3e38)]},
        ["saturates"],
        ["e4m3-no-saturation", "e4m3-largest-is-240"],
    )
    file.case(
        "around the smallest",
        {"x": [2.0**-9, 2.0**-10, f32(2.0**-10 * (1 + 2.0**-23)), 2.0**-11, -(2.0**-10),
               -(2.0**-40), 2.0**-149, -(2.0**-149), 0.0, -0.0, f32(1.5 * 2.0**-9), f32(2.5 * 2.0**-9)]},
        ["tie"],
        ["ties-away", "subnormal-flushed", "minus-zero-lost"],
    )
    file.case(
        "random",
        {"x": [f32(random.fine(-1, 1) * 2.0 ** (random.below(20) - 10)) for _ in range(80)]},
        [],
        ["truncation"],
    )
    yield file
    file = VectorFile(
        "e4m3_decode",
        "e4m3_decode",
        {"codes": "all 256"},
        e4m3_decode_oracle,
        NOTES,
        ["subnormal-flushed", "e4m3-largest-is-240"],
    )
    file.case(
        "all codes",
        {"codes": list(range(256))},
        ["not-a-number"],
        ["subnormal-flushed", "e4m3-largest-is-240"],
    )
    yield file
