"""The sink metric of tests/oracle, with a budget: whole sectors, of the rows from the first diagonal of a
warp on."""

from cases import case, sectors, within
from exact import Random
import sinkmetric


def cases(seed):
    random = Random("01.9" + seed)
    for name, T, likes, catches in (
        ("one token", 1, {}, ""),
        ("8 tokens", 8, {2: 9}, "The mean is over the queries that can see a key."),
        ("40 tokens", 40, {0: 20}, "The last warp has fewer keys than lanes."),
        ("96 tokens", 96, {33: 20}, "Lanes that are in one row share its sectors."),
        ("128 tokens", 128, {0: 30, 70: 9}, "Rows in which nobody of the warp can see need not be read."),
    ):
        rows = sinkmetric.attention(random, 1, 1, T, [likes])
        out = sinkmetric.oracle({"shape": [1, 1, T, T], "A": rows, "eps": [0.3], "set": []})
        budget = sum((T - first) * sectors(min(32, T - first)) for first in range(0, T, 32))
        yield case(name, {"rows": rows, "T": T}, {"alpha": out["alpha"]}, within(1e-9, 1e-9), catches,
                   loads=budget, least=sectors(T * (T + 1) // 2))
