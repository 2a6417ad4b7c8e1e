"""The Euclidean norm of each row, with a budget of one read."""

import math

from cases import case, sectors, within
from exact import Random


def cases(seed):
    random = Random("05.6" + seed)
    for name, T, C, catches in (
        ("one number", 1, 1, ""),
        ("five short rows", 5, 31, "There are fewer rows than threads for them."),
        ("rows of 192", 9, 192, "Neighbouring lanes should read neighbouring numbers, each only once."),
        ("rows of 131", 3, 131, "A row need not end where a warp ends."),
        ("a huge channel", 4, 64, ""),
    ):
        k = random.many(T * C, random.noise, 3.0)
        if name == "a huge channel":
            k[2 * C + 17] = 4000.0
        norm = [math.sqrt(math.fsum(x * x for x in k[t * C:(t + 1) * C])) for t in range(T)]
        once = sectors(T * C)
        # where rows do not begin at a sector, neighbours share one
        slack = T * (C // 32 + 2) if C % 8 else 0
        yield case(name, {"k": k, "T": T, "C": C}, {"norm": norm}, within(1e-6, 1e-5), catches,
                   loads=once + slack, least=once)
