"""Scores of coded keys, with a budget of one read of codes, and of scales, minima and query for each group."""

from cases import case, sectors, within
from exact import Random

D, GROUP = 64, 32


def cases(seed):
    random = Random("07.6" + seed)
    tail = "The last group may be short: there are no codes behind its last token."
    once = "Read each word once, and scales, minima and query once for 32 tokens."
    for name, T, catches in (("one token", 1, tail), ("31 tokens", 31, tail), ("a group", 32, once),
                             ("33 tokens", 33, tail), ("six groups", 192, once)):
        groups = -(-T // GROUP)
        q, codes = random.many(D, random.noise), random.many(T * D, random.below, 4)
        scale = random.many(groups * D, random.uniform, 0.1, 0.9)
        low = random.many(groups * D, random.uniform, -2.0, 1.0)
        for g in range(groups):  # an outlier channel
            scale[g * D + 5], low[g * D + 5] = 8.0, -30.0 - g
        s = [sum(q[c] * (codes[t * D + c] * scale[t // GROUP * D + c] + low[t // GROUP * D + c]) for c in range(D))
             for t in range(T)]
        words = [sum(codes[i + j] << 2 * j for j in range(16)) for i in range(0, T * D, 16)]
        yield case(name, {"q": q, "codes": words, "scale": scale, "low": low, "T": T}, {"s": s}, within(1e-3, 1e-4),
                   catches, loads=sectors(T * 4) + 3 * groups * sectors(D), least=sectors(T * 4))
