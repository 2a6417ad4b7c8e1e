"""Extremes by sorting; all of it is exact."""

from cases import case
from exact import Random, f32


def right(x, rows, cols):
    size = sorted(abs(v) for v in x)
    n = len(x)
    middle = f32((size[(n - 1) // 2] + size[n // 2]) / 2) if n else 0.0
    most = max(range(n), key=lambda i: (abs(x[i]), -i))
    if x[most] == 0:
        most = 0
    peak = []
    for c in range(cols):
        column = [x[r * cols + c] for r in range(rows)]
        best = max(range(rows), key=lambda r: (abs(column[r]), -r))
        peak.append(column[best] + 0.0)
    return {"max": abs(x[most]), "median": middle, "row": most // cols, "col": most % cols, "peak": peak,
            "alone": middle}


def cases(seed):
    random = Random("02.3" + seed)
    for name, rows, cols, kind, catches in (
        ("one number", 1, 1, "", ""),
        ("two numbers", 1, 2, "", "An even count has two middle elements: their mean."),
        ("zeros", 3, 4, "zeros", ""),
        ("31 by 3", 31, 3, "", ""),
        ("an outlier below zero", 32, 33, "outlier", "The largest magnitude counts, and a peak keeps its sign."),
        ("equal numbers", 16, 8, "ties", "The first of equals is named, and its sign is the peak's."),
        ("a long one", 97, 60, "", ""),
    ):
        x = random.many(rows * cols, random.noise, 3.0)
        if kind == "zeros":
            x = [0.0] * (rows * cols)
        if kind == "outlier":
            x[(rows // 2) * cols + cols - 2] = -float(2000 + random.below(900))
        if kind == "ties":
            x = [float(random.below(3) - 1) * 2 for _ in x]
            x[0], x[1], x[2 * cols] = 1.0, -2.0, 2.0
        yield case(name, {"x": x, "rows": rows, "cols": cols}, right(x, rows, cols), catches=catches)
