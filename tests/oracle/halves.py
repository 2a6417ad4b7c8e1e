"""Binary16 and bfloat16: SPEC 0.5 (round half to even), CONTRACT 2 (`f16`, `bf16`).

Conversions are IEEE 754's: nearest, ties to even, subnormals kept.  What binary16 cannot hold is
an error wherever it would be stored; a plain conversion function without a way to fail must give
an infinity there.  bfloat16 has float32's range and overflows only in its last half step, to
infinity.  A NaN stays a NaN, whatever its payload.
"""

import math

from exact import (
    Random,
    Refused,
    bfloat16,
    bfloat16_bits,
    f32,
    f32_from_bits,
    half,
    half_bits,
    half_from_bits,
    round_away,
)
from suite import VectorFile

NOTES = {
    "tie": "The value lies exactly half-way between two neighbours.",
    "ties-away": "Half-way cases go away from zero instead of to the even mantissa.",
    "truncation": "The low bits are cut off instead of rounded.",
    "subnormal-flushed": "Subnormal results become zero.",
    "half-overflow": (
        "A finite float32 whose binary16 is infinite (|x| >= 65520) must not become 65504 or pass "
        "silently."
    ),
    "overflow": "Rounding up past the largest finite value gives infinity.",
    "nan-payload": (
        "Adding a rounding constant to a NaN's bits turns it into an infinity or a zero."
    ),
    "not-finite": "Infinities and NaNs in the encoding.",
}


def encode(x, kind, wrong):
    rounding = {"ties-away": round_away, "truncation": math.trunc}.get(wrong, round)
    result = half(x, rounding) if kind == "half" else bfloat16(x, rounding)
    smallest = 2.0 ** (-14 if kind == "half" else -126)
    return (
        math.copysign(0.0, x) if wrong == "subnormal-flushed" and abs(result) < smallest else result
    )


def half_oracle(inputs, wrong=""):
    back = [encode(x, "half", wrong) for x in inputs["x"]]
    for x, y in zip(inputs["x"], back):
        if math.isinf(y) and not math.isinf(x):
            if wrong == "half-overflow":
                return {"bits": [0x7BFF], "back": [65504.0]}
            raise Refused("run", "%.9g is beyond what binary16 holds" % x)
    return {"bits": [half_bits(y) for y in back], "back": back}


def bfloat16_oracle(inputs, wrong=""):
    back = [encode(x, "bfloat16", wrong) for x in inputs["x"]]
    if wrong == "overflow":
        back = [
            f32_from_bits(0x7F7F0000) if math.isinf(y) and not math.isinf(x) else y
            for x, y in zip(inputs["x"], back)
        ]
    return {"bits": [bfloat16_bits(y) for y in back], "back": back}


def decode_oracle(inputs, wrong=""):
    out = []
    for bits in inputs["bits"]:
        value = half_from_bits(bits) if inputs["kind"] == "half" else f32_from_bits(bits << 16)
        if wrong == "subnormal-flushed" and abs(value) < 2.0 ** (
            -14 if inputs["kind"] == "half" else -126
        ):
            value = 0.0
        out.append(value)
    return {"x": out}


def nan_oracle(inputs, wrong=""):
    """For each float32 bit pattern: 1 where the narrow format must hold a NaN."""
    if wrong == "nan-payload":
        rounded = [
            (bits + 0x7FFF + (bits >> 16 & 1) & 0xFFFFFFFF) >> 16 for bits in inputs["floatBits"]
        ]
        return {"isNan": [1 if b >> 7 & 255 == 255 and b & 127 else 0 for b in rounded]}
    return {
        "isNan": [
            1 if bits >> 23 & 255 == 255 and bits & 0x7FFFFF else 0 for bits in inputs["floatBits"]
        ]
    }


def around(values):
    """Each value, the half-way point to its neighbour in 11 bits, and that point's neighbours."""
    out = []
    for v in values:
        step = math.ldexp(1.0, max(math.frexp(v)[1] - 11, -24))
        middle = v + step / 2
        ulp = math.ldexp(1.0, math.frexp(middle)[1] - 24)
        out += [v, middle, middle - ulp, middle + ulp, -middle]
    return out


def files():
    random = Random("halves")
    file = VectorFile(
        "half",
        "half",
        {"direction": "float32 to binary16 and back"},
        half_oracle,
        NOTES,
        ["ties-away", "truncation", "subnormal-flushed", "half-overflow"],
    )
    file.case("plain", {"x": [0.0, -0.0, 1.0, -1.0, f32(0.1), f32(1 / 3), 65504.0]})
    file.case(
        "ties",
        {
            "x": around(
                [1.0, 1.0009765625, 2.0, 2.001953125, 1023.0, 1023.5, 2048.0, 2050.0, 32768.0]
            )
        },
        ["tie"],
        ["ties-away", "truncation"],
    )
    tiny = 2.0**-24
    file.case(
        "subnormals",
        {
            "x": around(
                [tiny, 2 * tiny, 3 * tiny, 1022 * tiny, 1023 * tiny, 1024 * tiny, 1025 * tiny]
            )
            + [tiny / 2, f32(tiny / 2 * (1 + 2.0**-23)), tiny / 4, 2.0**-126, 2.0**-149, -tiny / 2]
        },
        ["tie"],
        ["ties-away", "truncation", "subnormal-flushed"],
    )
    file.case(
        "random",
        {"x": [f32(random.fine(-1, 1) * 2.0 ** (random.below(40) - 24)) for _ in range(80)]},
        [],
        ["truncation"],
    )
    file.case(
        "just fits",
        {"x": [65519.99609375, -65519.99609375, 65488.0, 65487.99609375]},
        ["tie"],
        ["ties-away"],
    )
    for name, x in (
        ("65520", 65520.0),
        ("-65520", -65520.0),
        ("65536", 65536.0),
        ("1e38", f32(1e38)),
    ):
        file.case("overflow " + name, {"x": [x]}, [], ["half-overflow"])
    yield file
    file = VectorFile(
        "half_decode",
        "decode_bits",
        {"direction": "binary16 to float32"},
        decode_oracle,
        NOTES,
        ["subnormal-flushed"],
    )
    file.case(
        "every exponent",
        {
            "kind": "half",
            "bits": [
                s | e << 10 | f
                for s in (0, 0x8000)
                for e in range(31)
                for f in (0, 1, 0x155, 0x3FF)
            ],
        },
        [],
        ["subnormal-flushed"],
    )
    file.case(
        "infinities and NaN",
        {"kind": "half", "bits": [0x7C00, 0xFC00, 0x7C01, 0x7E00, 0xFFFF]},
        ["not-finite"],
    )
    yield file
    file = VectorFile(
        "bfloat16",
        "bfloat16",
        {"direction": "float32 to bfloat16 and back"},
        bfloat16_oracle,
        NOTES,
        ["ties-away", "truncation", "overflow", "subnormal-flushed"],
    )
    file.case(
        "plain",
        {"x": [0.0, -0.0, 1.0, -2.0, f32(0.1), f32(1 / 3), f32(3.14159265), 65520.0, f32(1e30)]},
        [],
        ["truncation"],
    )
    file.case(
        "ties",
        {
            "x": [
                f32_from_bits(b)
                for b in (
                    0x3F808000,
                    0x3F818000,
                    0x3F807FFF,
                    0x3F808001,
                    0xBF808000,
                    0xBF818000,
                    0x00008000,
                    0x00018000,
                    0x007F8000,
                    0x00007FFF,
                )
            ]
        },
        ["tie"],
        ["ties-away", "truncation", "subnormal-flushed"],
    )
    file.case(
        "largest",
        {
            "x": [
                f32_from_bits(b)
                for b in (0x7F7F0000, 0x7F7F7FFF, 0x7F7F8000, 0x7F7FFFFF, 0xFF7F8000)
            ]
        },
        ["tie"],
        ["overflow", "truncation"],
    )
    file.case("infinities", {"x": [float("inf"), float("-inf")]}, ["not-finite"])
    file.case(
        "random",
        {"x": [f32(random.fine(-1, 1) * 2.0 ** (random.below(200) - 100)) for _ in range(60)]},
        [],
        ["truncation"],
    )
    yield file
    for kind in ("half", "bfloat16"):
        file = VectorFile(kind + "_nan", "nan", {"kind": kind}, nan_oracle, NOTES, ["nan-payload"])
        file.case(
            "NaN stays NaN",
            {
                "kind": kind,
                "floatBits": [
                    0x7FC00000,
                    0x7F800001,
                    0x7FFFFFFF,
                    0xFF800001,
                    0xFFFFFFFF,
                    0x7F800000,
                    0xFF800000,
                    0x3F800000,
                ],
            },
            ["not-finite"],
            ["nan-payload"],
        )
        yield file
