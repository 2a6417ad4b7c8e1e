"""The matrix, entry by entry: the sign is that of the number of bits that row and column share."""

import math

from cases import case, within
from exact import Random


def turned(x, heads, size):
    out = []
    for h in range(heads):
        head = x[h * size:(h + 1) * size]
        for i in range(size):
            total = sum(-v if bin(i & j).count("1") % 2 else v for j, v in enumerate(head))
            out.append(total / math.sqrt(size))
    return out


def cases(seed):
    random = Random("03.4" + seed)
    for name, heads, size, catches in (
        ("heads of one channel", 3, 1, ""),
        ("a head of two", 1, 2, "Sum into the lower place, difference into the upper."),
        ("a head of eight", 1, 8, "The order is the natural one: distances 1, 2, 4, ..."),
        ("three heads of 64", 3, 64, "Each head is turned by itself."),
        ("an outlier channel", 2, 128,
         "The factor makes the matrix orthonormal, so that it is its own inverse."),
    ):
        x = random.many(heads * size, random.noise, 1.0)
        if name == "an outlier channel":
            x[77] = 90.0
        yield case(name, {"x": x, "heads": heads, "size": size}, {"y": turned(x, heads, size)},
                   within(2e-5, 2e-6), catches)
