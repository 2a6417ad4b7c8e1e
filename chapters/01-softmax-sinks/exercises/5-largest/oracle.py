"""The largest weight of each row, with a budget of one read."""

import attention
from cases import case, sectors, within
from exact import Random, big


def cases(seed):
    random = Random("01.5" + seed)
    for name, rows, n, catches in (
        ("one score", 1, 1, ""),
        ("five rows of a warp", 5, 32, "There are fewer rows than threads for them."),
        ("rows of 129", 3, 129, "A row need not end where a warp ends."),
        ("rows of 512", 8, 512, "Neighbouring lanes should read neighbouring scores, and each only once."),
    ):
        s = random.many(rows * n, random.noise, 2.0)
        for r in range(rows):
            s[r * n + n // 2] += 4.0
        out = [float(max(attention.probabilities([big(x) for x in s[r * n:(r + 1) * n]])))
               for r in range(rows)]
        once = sectors(rows * n)
        # where rows do not begin at a sector, neighbours share one
        slack = rows * (n // 32 + 2) if n % 8 else 0
        yield case(name, {"s": s, "rows": rows, "n": n}, {"largest": out}, within(0, 1e-4), catches,
                   loads=once + slack, least=once)
