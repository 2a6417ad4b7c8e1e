"""The small pieces of a llama layer: RMSNorm, RoPE in both pairings, SwiGLU.

    rmsnorm   y_i = w_i x_i / sqrt(mean(x^2) + eps)
    rope      angle = position * base^(-2 i / D), pair i turned by it; `interleaved` pairs channels
              2 i and 2 i + 1 (what GGUF files of llama expect), `half` pairs i and i + D / 2
    swiglu    y = g / (1 + e^-g) * u

Computed with 50-digit decimals.  Tolerances: a few float32 roundings; for RoPE also the angle,
whose float32 rounding moves it by up to position * 2^-23.
"""

from decimal import Decimal

from exact import DIGITS, Random, big, cos_sin, exp, f32, root
from suite import VectorFile, abs_rel

NOTES = {
    "other-pairing": "The two pairings are confused.",
    "other-direction": "The rotation turns the other way.",
    "position-off-by-one": "Positions count from 1 instead of 0.",
    "exponent": "The exponent is i / D instead of 2 i / D.",
    "eps-outside": "eps is added to the root instead of under it.",
    "mean-removed": "LayerNorm: the mean is subtracted.",
    "sum-not-mean": "The squares are summed and not divided by n.",
    "sides-swapped": "SiLU is applied to `up` instead of `gate`.",
    "no-sigmoid": "SiLU is taken for ReLU.",
    "overflow": (
        "e^-g overflows float32 for strongly negative g; the result must be -0 or tiny, not NaN."
    ),
    "outlier-channel": "One channel is far larger than the others.",
}


def rmsnorm_oracle(inputs, wrong=""):
    x = [big(v) for v in inputs["x"]]
    n = len(x)
    if wrong == "mean-removed":
        mean = sum(x) / n
        x = [v - mean for v in x]
    square = sum(v * v for v in x) / (1 if wrong == "sum-not-mean" else n)
    eps = big(inputs["eps"])
    size = root(square) + eps if wrong == "eps-outside" else root(square + eps)
    return {"y": [float(w * v / size) for w, v in zip((big(w) for w in inputs["weight"]), x)]}


def rope_oracle(inputs, wrong=""):
    tokens, heads, size = inputs["shape"]
    pairing = inputs["pairing"]
    if wrong == "other-pairing":
        pairing = "half" if pairing == "interleaved" else "interleaved"
    log_base = DIGITS.ln(big(inputs["base"]))
    out = [0.0] * len(inputs["x"])
    for i in range(size // 2):
        exponent = DIGITS.divide(Decimal(i if wrong == "exponent" else 2 * i), Decimal(size))
        frequency = exp(-DIGITS.multiply(exponent, log_base))
        a, b = (2 * i, 2 * i + 1) if pairing == "interleaved" else (i, i + size // 2)
        for t in range(tokens):
            position = inputs["positions"][t] + (1 if wrong == "position-off-by-one" else 0)
            cosine, sine = cos_sin(DIGITS.multiply(Decimal(position), frequency))
            sine = -sine if wrong == "other-direction" else sine
            for h in range(heads):
                first = (t * heads + h) * size
                x, y = big(inputs["x"][first + a]), big(inputs["x"][first + b])
                out[first + a] = float(x * cosine - y * sine)
                out[first + b] = float(x * sine + y * cosine)
    return {"y": out}


def rope_tolerance(inputs, out):
    largest = max(abs(v) for v in inputs["x"])
    absolute = float("%.2g" % (2 * largest * (max(inputs["positions"]) + 4) * 2.0**-23))
    return abs_rel(absolute, 0.0, "float32 angle: 2 |x| (position + 4) 2^-23")


def swiglu_oracle(inputs, wrong=""):
    out = []
    for g, u in zip(inputs["gate"], inputs["up"]):
        if wrong == "sides-swapped":
            g, u = u, g
        if wrong == "overflow" and g < -89:
            out.append(float("nan"))
            continue
        if wrong == "no-sigmoid":
            out.append(max(g, 0.0) * u)
        else:
            out.append(float(big(g) / (1 + exp(-big(g))) * big(u)))
    return {"y": out}


FEW = abs_rel(
    1e-30,
    2e-6,
    "float32: a sum in any order over at most 64 squares (32 * 2^-24) and a few roundings",
)


def files():
    random = Random("transformer")
    file = VectorFile(
        "rmsnorm",
        "rmsnorm",
        {},
        rmsnorm_oracle,
        NOTES,
        ["eps-outside", "mean-removed", "sum-not-mean"],
    )
    for n in (1, 2, 31, 64):
        x = random.many(n, random.noise)
        if n > 2:
            x[n // 3] = -900.0
        inputs = {"x": x, "weight": random.many(n, random.uniform, 0.5, 2), "eps": f32(1e-5)}
        file.case(
            "%d channels" % n,
            inputs,
            ["outlier-channel"] if n > 2 else [],
            ["sum-not-mean"] if n > 1 else [],
            FEW,
        )
    file.case("zeros", {"x": [0.0] * 4, "weight": [1.0] * 4, "eps": f32(1e-5)}, [], [], FEW)
    tiny = [f32(v * 1e-4) for v in (1.0, -2.0, 3.0, 0.5)]
    file.case(
        "small against eps",
        {"x": tiny, "weight": [1.0, 2.0, 0.5, 1.0], "eps": f32(1e-5)},
        [],
        ["eps-outside"],
        FEW,
    )
    yield file
    for pairing in ("interleaved", "half"):
        file = VectorFile(
            "rope_" + pairing,
            "rope",
            {"pairing": pairing},
            rope_oracle,
            NOTES,
            ["other-pairing", "other-direction", "position-off-by-one", "exponent"],
        )
        for size, heads, positions, base in (
            (2, 1, [0, 1, 2, 3], 10000.0),
            (8, 2, [0, 5, 31], 10000.0),
            (64, 1, [1, 33], 100000.0),
            (8, 1, [511, 1000, 2047], 500000.0),
        ):
            shape = [len(positions), heads, size]
            x = random.many(len(positions) * heads * size, random.noise)
            must = ["other-direction", "position-off-by-one"] + (
                ["other-pairing", "exponent"] if size > 2 else []
            )
            file.case(
                "head of %d up to position %d" % (size, positions[-1]),
                {"pairing": pairing, "base": base, "shape": shape, "positions": positions, "x": x},
                [],
                must,
                rope_tolerance,
            )
        yield file
    file = VectorFile(
        "swiglu", "swiglu", {}, swiglu_oracle, NOTES, ["sides-swapped", "no-sigmoid", "overflow"]
    )
    file.case(
        "random",
        {"gate": random.many(33, random.noise, 2.0), "up": random.many(33, random.noise)},
        [],
        ["sides-swapped", "no-sigmoid"],
        FEW,
    )
    file.case(
        "large", {"gate": [0.0, 50.0, 1000.0, -20.0], "up": [3.0, -2.0, 1.5, 4.0]}, [], [], FEW
    )
    file.case(
        "strongly negative",
        {"gate": [-90.0, -200.0, -1000.0], "up": [1.0, -2.0, 3.0]},
        [],
        ["overflow"],
        abs_rel(
            1e-30,
            1e-5,
            "below 1e-30 any value; e^90 in float32 has an argument error of 90 * 2^-24",
        ),
    )
    yield file
