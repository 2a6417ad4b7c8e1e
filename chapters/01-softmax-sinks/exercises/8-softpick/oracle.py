"""Softpick from its formula, with as many digits as it takes."""

from cases import case, within
from exact import Random, big, exp


def right(s):
    less_one = [exp(big(x)) - 1 for x in s]
    total = sum(abs(x) for x in less_one)
    return [float(max(x, 0) / total) if total else 0.0 for x in less_one]


def cases(seed):
    random = Random("01.8" + seed)
    up, down = 800 + random.below(100), 800 + random.below(100)
    for name, s, catches in (
        ("one score", [random.uniform(1, 2)], ""),
        ("scores of zero", [0.0] * 5, "The sum can be zero: nothing is picked then."),
        ("a row of 33", random.many(33, random.noise, 2.0), "What is negative counts in the sum by its magnitude."),
        ("a sink in the middle", random.many(15, random.noise, 1.0) + [9.0] + random.many(15, random.noise, 1.0), ""),
        ("nobody wants anything", [-3.0 - 0.5 * random.below(8) for _ in range(12)],
         "If all scores are below zero, all weights are zero."),
        ("large scores", [float(up), up - 1.0, 3.0, -2.0], "exp of large scores overflows unless it is shifted, the one too."),
        ("far below zero", [-float(down), -down - 3.0], "If all scores are far below zero, nothing may overflow either."),
        ("large and far below", [float(up), -float(down), 0.0], ""),
    ):
        yield case(name, {"s": s, "in_place": int(len(s) == 33)}, {"p": right(s)}, within(1e-6, 1e-5), catches)
