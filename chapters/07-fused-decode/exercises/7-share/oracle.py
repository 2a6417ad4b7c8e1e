"""Attention by workers, with a budget: keys and values once, and a little for the query and the parts."""

import math

from cases import case, within
from exact import Random, f32

D = 32


def softmax_sums(s, rows):
    most = max(s)
    p = [math.exp(x - most) for x in s]
    return most, sum(p), [sum(w * row[c] for w, row in zip(p, rows)) for c in range(D)]


def cases(seed):
    random = Random("07.7" + seed)
    grows = "What a worker holds belongs to its largest score so far; a larger one makes it smaller."
    for name, T, n, slope, sink, catches in (
        ("one token, one worker", 1, 1, 0.0, None, ""),
        ("one token, three workers", 1, 3, 0.0, None, "A worker without a token leaves zeros, -INFINITY and 0."),
        ("33 tokens, two workers", 33, 2, 0.0, None, grows),
        ("a sink in the middle", 61, 4, 0.0, 30, "Workers count by their weights, not by their number."),
        ("scores that grow", 128, 8, 2.0, None, grows),
    ):
        q = random.many(D, random.noise, 0.5)
        unit = [x / sum(y * y for y in q) for x in q]  # q . unit = 1
        k, v = [], []
        for t in range(T):
            more = slope * t + (14.0 if t == sink else 0.0)
            k.append([f32(random.noise(0.5) + more * u) for u in unit])
            v.append(random.many(D, random.noise))
        s = [sum(a * b for a, b in zip(q, row)) for row in k]
        part = []
        for i in range(n):
            if i >= T:
                part += [0.0] * D + ["-Infinity", 0.0]
                continue
            most, weight, sums = softmax_sums(s[i::n], v[i::n])
            part += sums + [most, weight]
        _, weight, sums = softmax_sums(s, v)
        yield case(name, {"q": q, "k": k, "v": v, "T": T, "workers": n},
                   {"part": part, "out": [x / weight for x in sums]}, within(1e-3, 1e-3), catches,
                   loads=8 * T + 14 * n, least=8 * T)
