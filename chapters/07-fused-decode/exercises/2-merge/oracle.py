"""Parts of an online softmax against the softmax of all tokens."""

import math

from cases import case, within
from exact import Random, big, exp, f32


def told(x):
    return "-Infinity" if x == -math.inf else x


def sums(scores, values, D):
    """Largest score, sum of weights, sum of weighted values."""
    if not scores:
        return -math.inf, 0.0, [0.0] * D
    most = max(scores)
    p = [exp(big(s) - big(most)) for s in scores]
    return most, float(sum(p)), [float(sum(w * big(v[c]) for w, v in zip(p, values))) for c in range(D)]


def cases(seed):
    random = Random("07.2" + seed)
    empty = "A worker that met no token has nothing to scale."
    for name, D, lengths, level, sink, catches in (
        ("one worker", 4, [3], 0.0, None, ""),
        ("two workers", 8, [5, 11], 0.0, None, "Sums of weights count for how much a worker has seen."),
        ("33 workers of one token", 31, [1] * 33, 0.0, None, ""),
        ("the first met no token", 4, [0, 0, 7], 0.0, None, empty),
        ("the last met no token", 4, [7, 0, 0], 0.0, None, empty),
        ("nobody met a token", 3, [0, 0], 0.0, None, empty),
        ("scores that grow by hundreds", 5, [4, 4, 4], 300.0, None, "Scale to the larger of both maxima."),
        ("scores that fall by hundreds", 5, [4, 4, 4], -300.0, None, "Scale to the larger of both maxima."),
        ("a sink logit", 8, [9, 2, 13], 0.0, 2.5, "The sink takes weight and brings no value."),
        ("a sink logit above everything", 2, [5, 3], -200.0, 400.0, "The sink may be the largest score of all."),
        ("a sink logit and no token", 2, [0, 0], 0.0, -1.5, empty),
    ):
        scores, values, parts = [], [], []
        for i, n in enumerate(lengths):
            s = [f32(x + i * level) for x in random.many(n, random.noise, 2.0)]
            v = [random.many(D, random.noise) for _ in range(n)]
            parts.append(sums(s, v, D))
            scores, values = scores + s, values + v
        most, weight, sum_ = sums(scores, values, D)
        if sink is None:
            out = [x / weight for x in sum_] if weight else sum_
        else:
            top = max(most, sink)
            f = float(exp(big(most) - big(top))) if weight else 0.0
            out = [f * x / (f * weight + float(exp(big(sink) - big(top)))) for x in sum_]
        yield case(name, {"D": D, "max": [told(p[0]) for p in parts], "weight": [p[1] for p in parts],
                          "sums": [x for p in parts for x in p[2]], "sink": told(-math.inf if sink is None else sink)},
                   {"sum": sum_, "max": told(most), "weight": weight, "out": out}, within(2e-5, 2e-5), catches)
