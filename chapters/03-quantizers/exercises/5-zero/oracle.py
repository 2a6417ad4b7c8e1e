"""Asymmetric codes with an integer zero point, in float32."""

from cases import case
from exact import Random, f32, round_even


def right(x, bits):
    top = 2 ** bits - 1
    low, high = min(x + [0.0]), max(x + [0.0])
    scale = f32(f32(high - low) / top) or 1.0
    zero = round_even(f32(-low / scale))
    codes = [max(0, min(top, round_even(f32(v / scale)) + zero)) for v in x]
    return {"codes": codes, "scale": [scale], "zero": [zero], "back": [f32(scale * (q - zero)) for q in codes]}


def cases(seed):
    random = Random("03.5" + seed)
    offset = [f32(v + 11) for v in random.many(64, random.noise, 1.0)]
    for name, x, bits, catches in (
        ("one element", [2.5], 2, "Zero belongs to the range, so a lone number has a width."),
        ("zeros", [0.0, 0.0, 0.0], 4,
         "A range without width gets scale 1, and everything is zero."),
        ("around zero", random.many(33, random.noise, 2.0), 4, ""),
        ("ties", [-1.5, -0.5, 0.5, 1.5, 2.5, 4.5], 3,
         "The number and the zero are rounded apart, to even, and then added."),
        ("an offset", offset, 2,
         "All numbers are positive: zero is the smallest level, and none of theirs."),
        ("an offset and a sink", offset[:31] + [0.25] + offset[31:], 2,
         "A small number does not widen this range."),
        ("eight bits", random.many(127, random.noise, 5.0), 8, ""),
    ):
        yield case(name, {"x": x, "bits": bits}, right(x, bits), catches=catches)
