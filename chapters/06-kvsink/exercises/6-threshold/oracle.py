"""The threshold rule, with a budget: h and add once, and a few numbers a token."""

from cases import EXACT, case, sectors
from exact import Random, f32


def cases(seed):
    random = Random("06.6" + seed)
    for name, n, C, channel, sinks, catches in (
        ("one token", 1, 32, 31, [0], ""),
        ("31 tokens without a sink", 31, 32, 0, [], "Places behind the last kept token hold -1."),
        ("33 tokens", 33, 64, 40, [0, 20, 32], "Magnitude counts: some sinks are negative."),
        ("more tokens than threads in a block", 259, 32, 7, [3, 4, 100, 255, 256, 258],
         "Positions are in ascending order, whichever warp came first, and h is read once."),
    ):
        h = random.many(n * C, random.noise, 1.0)
        add = random.many(n * C, random.noise, 1.0)
        for j, t in enumerate(sinks):
            h[t * C + channel] = f32((400 + random.uniform(0, 99)) * (1 if j % 2 else -1))
        out = [f32(a + b) for a, b in zip(h, add)]
        kept = [t for t in range(n) if abs(out[t * C + channel]) >= 100]
        once = 2 * sectors(n * C)
        yield case(name, {"n": n, "C": C, "channel": channel, "threshold": 100, "h": h, "add": add},
                   {"positions": kept + [-1] * (n - len(kept)), "count": len(kept), "out": out}, EXACT,
                   catches, loads=once + 2 * sectors(n) + 8, least=once)
