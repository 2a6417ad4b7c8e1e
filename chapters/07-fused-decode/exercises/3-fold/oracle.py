"""Attention over a group of codes: numbers first, products after, in double."""

from cases import case, within
from exact import Random


def cases(seed):
    random = Random("07.3" + seed)
    for name, T, D, bits, wide, catches in (
        ("one token, one channel", 1, 1, 2, 1, ""),
        ("two tokens", 2, 3, 2, 1, "The minima add the same to every score."),
        ("a group of 32", 32, 64, 2, 1, "The minima add the same to every score."),
        ("31 tokens of 33 channels", 31, 33, 3, 1, "The minima of values add the same to every channel."),
        ("an outlier channel", 33, 32, 4, 40, "The query weighs the minima of keys, channel by channel."),
        ("97 tokens", 97, 16, 8, 1, "The weights weigh the minima of values, token by token."),
    ):
        q, p = random.many(D, random.noise), random.many(T, random.uniform, 0.0, 0.1)
        before = random.many(D, random.noise)
        k = {"codes": random.many(T * D, random.below, 1 << bits), "scale": random.many(D, random.uniform, 0.1, 0.9),
             "low": random.many(D, random.uniform, -2.0, 1.0)}
        v = {"codes": random.many(T * D, random.below, 1 << bits), "scale": random.many(T, random.uniform, 0.1, 0.9),
             "low": random.many(T, random.uniform, -2.0, 1.0)}
        k["low"][D // 2] *= wide
        if T > 1:
            p[T // 2] = 0.75
        s = [sum(q[c] * (k["codes"][t * D + c] * k["scale"][c] + k["low"][c]) for c in range(D)) for t in range(T)]
        out = [before[c] + sum(p[t] * (v["codes"][t * D + c] * v["scale"][t] + v["low"][t]) for t in range(T))
               for c in range(D)]
        yield case(name, {"q": q, "p": p, "before": before, "keys": k, "values": v},
                   {"s": s, "out": out, "folded_keys": [a * b for a, b in zip(q, k["scale"])],
                    "folded_values": [a * b for a, b in zip(p, v["scale"])],
                    "offset_keys": sum(a * b for a, b in zip(q, k["low"])),
                    "offset_values": sum(a * b for a, b in zip(p, v["low"]))}, within(2e-3, 1e-4), catches)
