"""The widest gap, written down once more in plain Python."""

import math

from cases import case, within
from exact import Random, f32


def threshold(h):
    a = sorted(h, reverse=True)
    if len(a) == 1:
        return a[0] / 2
    a = [max(x, 1e-6 * a[0]) for x in a]
    if a[0] == 0:
        return 0.0
    most, i = max((a[i - 1] / a[i], -i) for i in range(1, len(a) // 2 + 1))
    return math.sqrt(a[-i - 1] * a[-i])


def cases(seed):
    random = Random("06.3" + seed)

    def ordinary(n):
        return [f32(random.uniform(20, 60)) for _ in range(n)]

    def one(name, h, catches=""):
        h = [f32(x) for x in h]
        return case(name, {"h": h}, {"threshold": threshold(h)}, within(1e-9, 1e-5), catches)

    yield one("one token", [8])
    yield one("two tokens", [300, 3])
    h = ordinary(31)
    h[0], h[9] = 20000, 15000
    yield one("two sinks of one size", h, "The middle of a gap between factors is the geometric mean.")
    h = ordinary(64)
    h[0], h[30], h[41] = 20000, 5000, 900
    yield one("sinks of several sizes", h,
              "The largest difference lies between two sinks. Compare ratios.")
    h = ordinary(33)
    h[0], h[4], h[20] = 400, 380, 0.001
    yield one("a tiny value", h, "A gap among the many makes sinks of the majority.")
    yield one("zeros elsewhere", [500] + [0] * 6,
              "What is below a millionth of the largest counts as that.")
    yield one("all zero", [0] * 5)
