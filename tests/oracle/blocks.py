"""llama.cpp's cache types, byte for byte: SPEC A.8, CONTRACT 2 and 3.

A block is 32 consecutive channels of the row [Hk * D] of one token.  All arithmetic is float32,
and codes are decided with the float32 d, while the reader has only the stored half d:

    q4_0, q5_0   v = the element of largest magnitude with its sign, the first such
                 d = v / -8 (v / -16)          q = min(15, trunc(x * id + 8.5)) (31, 16.5)
    q4_1, q5_1   d = (max - min) / 15 (/ 31)   q = min(15, trunc((x - min) * id + 0.5)) (31)
    q8_0         d = max|x| / 127              q = x * id, half away from zero
    id = 1 / d, or 0 if d is 0; stored are half(d) and, for the _1 kinds, m = half(min)

    x^ = (q - 8) * d,  (q - 16) * d,  q * d + m,  q * d        each operation float32

A block of zeros of q4_0 has d = 0 / -8, which is minus zero: 0x8000 is stored.  Bytes: half d,
[half m], [fifth bits of elements 0..31 in a little-endian 32-bit word], 16 bytes of which byte j
holds element j low and element j + 16 high; q8_0: half d and 32 signed bytes.  In arrays of codes
q8_0 is stored as q + 128.  A kept token has zero bytes, codes, d and m.
"""

import math

from exact import f32, half, half_bits, round_away

BITS = {"q4_0": 4, "q4_1": 4, "q5_0": 5, "q5_1": 5, "q8_0": 8}
BYTES = {"q4_0": 18, "q4_1": 20, "q5_0": 22, "q5_1": 24, "q8_0": 34}

MISTAKES = {
    "unsigned-max": (
        "d is made from the largest magnitude instead of the element with its sign, so the range "
        "-8..7 points the wrong way when the extreme is positive."
    ),
    "later-maximum": "Of two elements of equal magnitude the later one decides the sign of d.",
    "coded-with-half-d": "Codes are decided with the stored half d instead of the float32 d.",
    "read-with-float32-d": "x^ is computed with the float32 d; a reader has only the half.",
    "divides": "x / d instead of x * (1 / d), each rounded to float32.",
    "rounds-instead-of-truncating": (
        "q4_0 and its kin add one half and truncate; rounding half to even goes down on ties that "
        "they round up."
    ),
    "half-even": "q8_0 rounds half away from zero, not to even.",
    "no-minimum-15": "The largest code is not clamped: x * id + 8.5 reaches 16.5.",
    "nibbles-interleaved": (
        "Byte j holds elements 2j and 2j + 1 instead of elements j and j + 16."
    ),
    "nibbles-swapped": "The high nibble holds the first half of the block.",
    "fifth-bits-interleaved": (
        "Bit j of the 32-bit word belongs to element j; here the bits follow the order of the "
        "nibbles."
    ),
    "block-per-head": "Every head begins a new block, also if its size is not a multiple of 32.",
    "zero-block-is-plus-zero": "A block of zeros stores d = -0 (0x8000) in q4_0 and q5_0.",
    "signed-bytes": "q8_0's bytes hold q + 128 instead of the two's complement of q.",
}


def fit_of(values, kind, wrong=""):
    """d in float32 and as stored, minimum in float32 and as stored."""
    if kind in ("q4_1", "q5_1"):
        low, high = min(values), max(values)
        d = f32(f32(high - low) / (2 ** BITS[kind] - 1))
        return d, half(d), low, half(low)
    largest = 0.0
    for v in values:
        if abs(largest) < abs(v) or (wrong == "later-maximum" and abs(largest) == abs(v)):
            largest = v
    if kind == "q8_0":
        d = f32(abs(largest) / 127)
    else:
        if wrong == "unsigned-max":
            largest = abs(largest)
        d = f32(largest / -(2.0 ** (BITS[kind] - 1)))
        if d == 0:
            d = 0.0 if wrong == "zero-block-is-plus-zero" else -0.0
    return d, half(d), 0.0, 0.0


def code_of(x, kind, fit, wrong=""):
    """The unsigned code of one element."""
    d, stored, low, _ = fit
    if wrong == "coded-with-half-d":
        d = stored
    inverse = f32(1.0 / d) if d else 0.0
    x = f32(x - low)
    scaled = f32(x * inverse)
    if wrong == "divides":
        scaled = f32(x / d) if d else 0.0
    if kind == "q8_0":
        q = round(scaled) if wrong == "half-even" else round_away(scaled)
        return q + 128
    offset = {"q4_0": 8.5, "q5_0": 16.5}.get(kind, 0.5)
    q = math.trunc(f32(scaled + offset))
    if wrong == "rounds-instead-of-truncating":
        q = round(scaled) + int(offset)
    top = 2 ** BITS[kind] - 1
    return q % (top + 1) if wrong == "no-minimum-15" else min(top, q)


def value_of(code, kind, fit, wrong=""):
    d, stored, _, low = fit
    if wrong == "read-with-float32-d":
        stored = d
    middle = {"q4_0": 8, "q5_0": 16, "q8_0": 128}.get(kind, 0)
    product = f32((code - middle) * stored)
    return f32(product + low) if kind in ("q4_1", "q5_1") else product


def word(bits):
    return [bits & 255, bits >> 8]


def bytes_of(codes, kind, fit, wrong=""):
    """The bytes of one block, from its 32 codes."""
    out = word(half_bits(fit[1]))
    if kind == "q8_0":
        return out + [c if wrong == "signed-bytes" else (c - 128) & 255 for c in codes]
    if kind in ("q4_1", "q5_1"):
        out += word(half_bits(fit[3]))
    pairs = [(codes[j], codes[j + 16]) for j in range(16)]
    if wrong == "nibbles-interleaved":
        pairs = [(codes[2 * j], codes[2 * j + 1]) for j in range(16)]
    if wrong == "nibbles-swapped":
        pairs = [(b, a) for a, b in pairs]
    if BITS[kind] == 5:
        order = codes
        if wrong == "fifth-bits-interleaved":
            order = [c for pair in pairs for c in pair]
        mask = sum((c >> 4 & 1) << j for j, c in enumerate(order))
        out += word(mask & 0xFFFF) + word(mask >> 16)
    return out + [(a & 15) | (b & 15) << 4 for a, b in pairs]
