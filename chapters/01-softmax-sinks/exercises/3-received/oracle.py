"""The sink metric of tests/oracle, per head."""

from exact import Random
from cases import case, within
import sinkmetric


def right(heads, T, rows, eps):
    given = {"shape": [1, heads, T, T], "A": rows, "eps": [eps], "set": []}
    out = sinkmetric.oracle(given)
    return {"alpha": out["alpha"], "share": [100 * x for x in out["sink"]]}


def cases(seed):
    random = Random("01.3" + seed)
    for name, heads, T, likes, eps, catches in (
        ("one token", 1, 1, [{}], 1.0, "The threshold has to be exceeded, not reached."),
        ("no sink", 2, 12, [{}], 0.3, ""),
        ("the first key", 3, 9, [{0: 30}, {0: 4}, {0: 1}], 0.3, ""),
        ("a key in mid-sequence", 2, 31, [{14: 25}, {0: 8, 4: 12}], 0.2,
         "A late key is seen by few queries: the mean is over those."),
        ("64 tokens", 4, 64, [{0: 30}, {40: 20}, {}, {63: 9}], 0.25, ""),
    ):
        rows = sinkmetric.attention(random, 1, heads, T, likes)
        inputs = {"heads": heads, "T": T, "rows": rows, "eps": eps}
        yield case(name, inputs, right(heads, T, rows, eps), within(1e-6, 1e-6), catches)
