"""The oracle's norm and gate; its rotation once more, with a part of the channels left alone."""

import math

from cases import case, within
from exact import Random
import transformer


def turned(i):
    angles = []
    for p in range(i["dims"] // 2):
        angle = i["position"] * i["scale"] / i["base"] ** (2 * p / i["dims"])
        angles.append(angle / (i["factors"][p] if "factors" in i else 1))
    y = list(i["x"])
    for h in range(i["heads"]):
        for p, angle in enumerate(angles):
            a = h * i["D"] + (2 * p if i["interleaved"] else p)
            b = a + (1 if i["interleaved"] else i["dims"] // 2)
            u, v = y[a], y[b]
            y[a] = u * math.cos(angle) - v * math.sin(angle)
            y[b] = u * math.sin(angle) + v * math.cos(angle)
    return {"y": y, "cs": [f(a) for a in angles for f in (math.cos, math.sin)]}


def cases(seed):
    random = Random("02.2" + seed)
    for name, n, eps, most, catches in (
        ("norm of one channel", 1, 0.01, 1, "eps stands under the root."),
        ("norm of zeros", 5, 1e-5, 0, "All zeros give zeros."),
        ("norm of small numbers", 32, 0.25, 1, "eps stands under the root."),
        ("norm with an outlier", 33, 1e-5, 3000, "One huge channel makes all others small."),
    ):
        x = random.many(n, random.noise, 0.5 if most else 0.0)
        x[n // 2] = x[n // 2] * most if most > 1 else x[n // 2]
        inputs = {"x": x, "weight": random.many(n, random.uniform, 0.1, 2.0), "eps": eps}
        yield case(name, dict(inputs, what="norm"), transformer.rmsnorm_oracle(inputs), within(1e-30, 2e-6), catches)
    inputs = {"gate": random.many(29, random.noise, 4.0) + [-200.0, 60.0],
              "up": random.many(29, random.noise, 2.0) + [3.0, 70.0]}
    yield case("gates", dict(inputs, what="swiglu"), transformer.swiglu_oracle(inputs), within(1e-30, 2e-6),
               "silu belongs to the gate, and a gate far below zero gives nothing.")
    for name, heads, D, dims, interleaved, position, scale, factors, catches in (
        ("position 0", 1, 4, 4, 1, 0, 1.0, 0, "At position 0 nothing turns."),
        ("neighbours are a pair", 2, 8, 8, 1, 5, 1.0, 0, "Pair i turns at base^(-2i/dims)."),
        ("halves are a pair", 3, 8, 8, 0, 31, 1.0, 0, ""),
        ("some channels stay", 2, 10, 6, 0, 7, 1.0, 0, "Only dims channels of each head take part in the pairing."),
        ("a scaled context", 1, 16, 16, 1, 97, 0.25, 0, ""),
        ("factors", 1, 16, 16, 1, 40, 1.0, 1, "The factors divide the angle."),
        ("a negative position", 1, 6, 6, 0, -3, 1.0, 0, ""),
    ):
        inputs = {"what": "rope", "heads": heads, "D": D, "dims": dims, "interleaved": interleaved,
                  "position": position, "scale": scale, "base": 10000.0,
                  "x": random.many(heads * D, random.noise, 2.0)}
        if factors:
            inputs["factors"] = random.many(dims // 2, random.uniform, 1.0, 8.0)
        yield case(name, inputs, turned(inputs), within(1e-5, 1e-5), catches)
