"""RMSNorm row by row, with a budget of one load for each element of x and, per row, of the gain."""

import math

from cases import case, sectors, within
from exact import Random


def right(x, gain, eps, rows, C):
    y = []
    for r in range(rows):
        row = x[r * C:(r + 1) * C]
        root = math.sqrt(sum(v * v for v in row) / C + eps)
        y += [g * v / root if v else 0.0 for g, v in zip(gain, row)]
    return {"y": y}


def cases(seed):
    random = Random("02.6" + seed)
    for name, rows, C, catches in (
        ("one short row", 1, 8, "The mean is over C elements, not over 32 lanes."),
        ("rows of 40", 5, 40, "The last lanes of a warp have fewer elements."),
        ("an outlier in each row", 7, 96, "The lanes of a warp must agree on one sum."),
        ("a row of zeros", 2, 64, "Zeros give zeros, thanks to eps."),
        ("the widest", 2, 1024, ""),
    ):
        x = random.many(rows * C, random.noise, 1.5)
        if "outlier" in name:
            for r in range(rows):
                x[r * C + random.below(C)] = float(1000 + random.below(900))
        if "zeros" in name:
            x[:C] = [0.0] * C
        gain = random.many(C, random.uniform, 0.1, 2.0)
        eps = 0.0009765625
        yield case(name, {"x": x, "gain": gain, "eps": eps, "rows": rows, "C": C}, right(x, gain, eps, rows, C),
                   within(1e-7, 1e-5), catches, loads=2 * rows * sectors(C), least=rows * sectors(C))
