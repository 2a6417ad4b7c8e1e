"""Groups as tests/oracle/quantize.py codes them."""

import quantize
from cases import case
from exact import Random, f32, half_bits


def right(x, kept, bits, symmetric):
    group = quantize.parameters_of_group([v for v, k in zip(x, kept) if not k], bits, symmetric)
    shift = 2 ** (bits - 1) if symmetric else 0
    codes = [0 if k else quantize.code_of(v, bits, symmetric, group) + shift for v, k in zip(x, kept)]
    return {"codes": codes, "scale": half_bits(group[0]), "min": 0 if symmetric else half_bits(group[1])}


def spread(x, stride):
    """x with other numbers between its elements, which are nobody's business."""
    return [v for i, one in enumerate(x) for v in [one] + [1e4] * (stride - 1 if i + 1 < len(x) else 0)]


def cases(seed):
    random = Random("03.3" + seed)
    offset = [f32(v - 12) for v in random.many(128, random.noise, 1.0)]
    offset[37] = 0.5
    first = random.many(64, random.noise, 2.0)
    first[0], first[41] = 60.0, -75.0
    tiny = [f32(1 + k * 2.0 ** -23) for k in range(9)]
    for name, x, kept, bits, symmetric, stride, catches in (
        ("one element", [0.1], [], 2, 0, 1, "A group without width has scale 0 and code 0."),
        ("33 elements", random.many(33, random.noise, 2.0), [], 3, 0, 1, ""),
        ("ties", [0.0, 1.0, 2.0, 3.0, 5.0, 6.0], [], 2, 0, 1,
         "Half-way cases go to the even code."),
        ("a sink among offsets", offset, [37], 2, 0, 1,
         "A kept element is not in the range; its code is 0."),
        ("two sinks", first, [0, 41], 4, 0, 1, "Kept elements need not come first."),
        ("all kept", [3.0, 4.0, 5.0], [0, 1, 2], 2, 0, 1, "Nothing left: scale and minimum 0."),
        ("nearly constant", tiny, [], 4, 0, 1,
         "The scale is 0 once it has been rounded to binary16."),
        ("eight bits", [f32(v + 40) for v in random.many(129, random.noise, 3.0)], [], 8, 0, 1,
         "Codes are decided with the scale and the minimum that are stored."),
        ("symmetric", random.many(31, random.noise, 2.0), [5], 3, 1, 1,
         "Stored codes are shifted; a kept element's is 0."),
        ("strided", random.many(17, random.noise, 2.0), [3], 2, 0, 3,
         "Elements lie `stride` apart, flags do not."),
    ):
        flags = [int(i in kept) for i in range(len(x))]
        inputs = {"x": spread(x, stride), "n": len(x), "stride": stride, "bits": bits, "symmetric": symmetric}
        if kept:
            inputs["kept"] = flags
        yield case(name, inputs, right(x, flags, bits, symmetric), catches=catches)
    for bad in ("NaN", 65520.0):
        yield case("%s in a kept element" % bad,
                   {"x": [1.0, bad, 2.0], "n": 3, "stride": 1, "bits": 2, "symmetric": 0, "kept": [0, 1, 0]}, {},
                   error="run", catches="What binary16 cannot hold is refused, kept or not.")
