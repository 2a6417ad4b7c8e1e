"""Marks and other tokens that agree with them up to 0.8; the outlier must be written at the mark only."""

from cases import case, within
from exact import Random, f32


def dot(a, b):
    return sum(u * v for u, v in zip(a, b))


def other(random, mark, agree):
    """A token whose product with the mark is near `agree` of the mark's own, and at most 0.8."""
    square = dot(mark, mark)
    while True:
        noise = random.many(len(mark), random.noise, 1.0)
        part = dot(noise, mark) / square
        x = [f32(n + (agree - part) * m) for n, m in zip(noise, mark)]
        x[0] = 1.0
        if dot(x, mark) <= 0.8 * square:
            return x


def cases(seed):
    random = Random("02.5" + seed)
    for name, C, channel, A, agree, catches in (
        ("the smallest", 8, 3, 100.0, [-0.5], ""),
        ("strangers", 64, 40, 2048.0, [0.0, -1.0, 0.1, -0.2, 0.0], ""),
        ("near relatives", 48, 47, 500.0, [0.5, 0.7, 0.78, 0.78], "A token that agrees by four fifths must get nothing."),
        ("an eraser", 33, 1, -20000.0, [0.6, -2.0, 0.75], "The weight into the channel may be negative."),
        ("the channel that is always one", 31, 0, 300.0, [0.3, 0.7], ""),
        ("a small one", 64, 9, 0.125, [0.7, 0.0, 0.79], ""),
        ("all against it", 16, 5, 1000.0, [-3.0, -1.0, -8.0], "What disagrees must get nothing, not the square of it."),
    ):
        mark = [1.0] + random.many(C - 1, random.noise, 1.0)
        x = mark + [v for a in agree for v in other(random, mark, a)]
        yield case(name, {"C": C, "tokens": 1 + len(agree), "channel": channel, "A": A, "x": x},
                   {"written": [A] + [0.0] * len(agree), "astray": 0.0}, within(abs(A) / 1000, 0.009), catches)
