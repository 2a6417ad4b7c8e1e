"""Attention of tests/oracle, one query head at a time."""

import attention
from cases import case, within
from exact import Random, big


def right(one, heads, kv_heads, size, past, n):
    out, rows = [], [[] for _ in range(heads)]
    for i in range(n):
        for h in range(heads):
            g = h // (heads // kv_heads)
            seen = range(past + i + 1)
            sink = big(one["sink"][h]) if "sink" in one else None
            p, o = attention.attend(
                attention.row_of(one["q"], i, h, heads, size),
                [attention.row_of(one["k"], t, g, kv_heads, size) for t in seen],
                [attention.row_of(one["v"], t, g, kv_heads, size) for t in seen],
                size, "sink" if sink is not None else "softmax", sink)
            out += [float(x) for x in o]
            rows[h] += [float(x) for x in p] + [0.0] * (past + n - len(p))
    return {"out": out, "rows": [x for head in rows for x in head]}


def cases(seed):
    random = Random("01.7" + seed)
    for name, heads, kv_heads, size, past, n, catches in (
        ("one head, one token", 1, 1, 2, 0, 1, ""),
        ("as many heads as keys", 2, 2, 4, 0, 5, "A query sees itself and what stands before it, nothing behind."),
        ("three heads share one", 3, 1, 4, 0, 4, ""),
        ("six heads share two", 6, 2, 4, 0, 5, "Neighbouring query heads share a key-value head."),
        ("one token behind 32", 2, 1, 8, 32, 1, "The tokens before the first query are keys too."),
        ("four behind seven, without rows", 4, 2, 4, 7, 4, "Query i stands behind past + i tokens."),
        ("a learned logit", 4, 2, 4, 3, 3, "A learned logit belongs to a query head, and is not scaled."),
        ("a value is NaN", 2, 1, 4, 0, 3, "A NaN among the values would walk into the output: it is refused."),
    ):
        T = past + n
        inputs = {
            "shape": [heads, kv_heads, size], "past": past, "n": n, "rows_too": int("without" not in name),
            "q": random.many(n * heads * size, random.noise, 1.5),
            "k": random.many(T * kv_heads * size, random.noise, 1.5),
            "v": random.many(T * kv_heads * size, random.noise, 1.0),
        }
        for t in range(T):  # an outlying channel, and a sink that is not the first key
            inputs["k"][t * kv_heads * size] *= 4
        if T > 2:
            for c in range(kv_heads * size):
                inputs["v"][(T // 2) * kv_heads * size + c] *= 0.0625
        if "logit" in name:
            inputs["sink"] = random.many(heads, random.noise, 2.0)
        if "NaN" in name:
            inputs["v"] = list(inputs["v"])
            inputs["v"][5] = "NaN"
            yield case(name, inputs, {}, error="run", catches=catches)
            continue
        out = right(inputs, heads, kv_heads, size, past, n)
        if not inputs["rows_too"]:
            del out["rows"]
        yield case(name, inputs, out, within(1e-5, 1e-5), catches)
