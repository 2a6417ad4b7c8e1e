"""Binary16 of tests/oracle/exact.py, at all the places where it can go wrong."""

import math

from cases import case
from exact import Random, f32, half, half_bits, half_from_bits


def fields(xs, codes):
    inputs = {"x": xs, "h": codes}
    return inputs, {"bits": [half_bits(half(x)) for x in xs], "back": [half_from_bits(h) for h in codes]}


def cases(seed):
    random = Random("03.2" + seed)
    signs = (1.0, -1.0)
    some = [random.below(0x7C00) for _ in range(24)]
    for name, xs, codes, catches in (
        ("ordinary numbers", random.many(40, random.noise, 30.0), some, ""),
        ("zeros", [0.0, -0.0], [0, 0x8000], "Zero has a sign."),
        ("ties", [s * (1024 + k + 0.5) * 2.0 ** e
                  for s in signs for k in (0, 1, 2, 3, 1023) for e in (-10, -3, 4)],
         [0x3C01], "Half-way cases go to the even fraction; a carry may run into the exponent."),
        ("just beside ties", [f32((1024 + k + 0.5) * (1 + d * 2.0 ** -23))
                              for k in (0, 1, 2, 3) for d in (-1, 1)],
         [0x6400], "All bits that are dropped decide, not the highest of them alone."),
        ("subnormals", [s * (k + f) * 2.0 ** -24
                        for s in signs for k in (0, 1, 2, 1022, 1023) for f in (0.25, 0.5, 0.75)],
         [1, 2, 0x3FF, 0x8001, 0x83FF],
          "Below 2^-14 the step is 2^-24; below half of that there is zero."),
        ("overflow", [65503.9, 65504.0, 65519.0, -65519.0, 65520.0, -65520.0, 1e30], [0x7BFF, 0xFBFF],
         "From 65520 on the nearest half is infinity."),
        ("infinities", ["Infinity", "-Infinity"], [0x7C00, 0xFC00],
         "Exponent 31 is not a number like others."),
    ):
        numbers = [float(str(x).replace("Infinity", "inf")) for x in xs]
        numbers = [x if math.isinf(x) else f32(x) for x in numbers]
        inputs, out = fields(numbers, codes)
        inputs["x"] = [x if isinstance(x, str) else f32(x) for x in xs]
        out["back"] = [x if not math.isinf(x) else "Infinity" if x > 0 else "-Infinity" for x in out["back"]]
        yield case(name, inputs, out, catches=catches)
