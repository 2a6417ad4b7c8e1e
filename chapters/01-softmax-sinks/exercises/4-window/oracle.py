"""Softmax of the oracle over the keys that may be seen."""

import attention
from cases import case, within
from exact import Random, big


def right(s, pinned, window):
    n = len(s)
    seen = [j for j in range(n) if j < pinned or j >= n - window]
    p = dict(zip(seen, attention.probabilities([big(s[j]) for j in seen])))
    return [float(p.get(j, 0)) for j in range(n)]


def cases(seed):
    random = Random("01.4" + seed)
    for name, n, pinned, window, catches in (
        ("one key", 1, 0, 1, ""),
        ("all within the window", 7, 2, 9, ""),
        ("nothing pinned", 20, 0, 4, "The window holds so many keys, the query's own among them."),
        ("four pinned", 33, 4, 8, "What the hidden keys would have got goes to the others."),
        ("pinned and window overlap", 10, 6, 6, "A key in both counts once."),
        ("a sink outside", 64, 1, 16, ""),
    ):
        s = random.many(n, random.noise, 2.0)
        if name == "a sink outside":
            s[n // 2] = 60.0
        if pinned and n > 9:
            s[0] = 9.0
        yield case(name, {"s": s, "pinned": pinned, "window": window},
                   {"p": right(s, pinned, window)}, within(1e-7, 1e-5), catches)
