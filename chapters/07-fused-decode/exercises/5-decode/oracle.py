"""A cache of tests/oracle, read back, and plain attention over what it holds."""

import math

import attention
import cache
import transformer
from cases import case, within
from exact import Random, big
from quantize import planted, quantize_array


def held(x, text, tokens, shape, recent, kept):
    """What a reader gets back: codes where the area is, 16 bits elsewhere."""
    x = [cache.stored_half(v, "cache") for v in x]
    plain = text.replace(":pre", "")
    area, width = cache.area_of(plain, tokens, recent, False), shape[0] * shape[1]
    if not area:
        return x
    return quantize_array(x[:area * width], [area] + shape, plain, [p for p in kept if p < area])[3] + x[area * width:]


def right(K, V, q, sink, T, H, Hk, D):
    out, rows = [], []
    for h in range(H):
        g = h // (H // Hk)
        s = [sum(q[h * D + d] * K[(t * Hk + g) * D + d] for d in range(D)) / math.sqrt(D) for t in range(T)]
        kind = {"kind": "sink", "sink": big(sink[h])} if sink else {}
        p = [float(x) for x in attention.probabilities([big(x) for x in s], **kind)]
        rows += p
        out += [sum(p[t] * V[(t * Hk + g) * D + d] for t in range(T)) for d in range(D)]
    return {"out": out, "rows": rows}


def cases(seed):
    random = Random("07.5" + seed)
    turn = "Keys stored before RoPE are turned as they are read, token t to t + shift; others are not."
    share = "Query heads share a KV head with their neighbours."
    for name, T, shape, keys, values, recent, kept, shift, with_sink, rows, catches in (
        ("one token", 1, (1, 1, 8), "f16", "f16", 0, [], 0, 0, 1, ""),
        ("four heads share two", 33, (4, 2, 8), "2:channel:8", "2:token:8", 0, [4, 17], 5, 0, 1, share),
        ("codes and a window", 31, (2, 1, 16), "4:channel:8", "3:token:8", 10, [2], 0, 0, 0, "rows may be NULL."),
        ("keys before RoPE", 33, (2, 1, 8), "4:channel:16:pre", "4:token:8", 0, [0], 0, 0, 1, turn),
        ("keys before RoPE, moved", 29, (4, 2, 8), "2:channel:4:pre", "2:token:4", 3, [9], 7, 0, 1, turn),
        ("learned sinks", 32, (3, 3, 8), "8:channel:32", "8:token:8", 0, [], 0, 1, 1, "A sink logit belongs to a head."),
    ):
        H, Hk, D = shape
        full = [T, Hk, D]
        K, V = planted(random, full, kept, (Hk - 1, 1), 0.5), planted(random, full, kept, None, 0.5)
        q = random.many(H * D, random.noise, 0.25)
        sink = [0.5 * h for h in range(H)] if with_sink else None
        k = held(K, keys, T, [Hk, D], recent, kept)
        if ":pre" in keys:
            k = transformer.rope_oracle({"shape": full, "pairing": "half", "base": 100, "x": k,
                                         "positions": [t + shift for t in range(T)]})["y"]
        out = right(k, held(V, values, T, [Hk, D], recent, kept), q, sink, T, H, Hk, D)
        if not rows:
            del out["rows"]
        yield case(name, {"T": T, "heads": H, "kv_heads": Hk, "D": D, "keys": keys, "values": values, "kept": kept,
                          "recent": recent, "shift": shift, "interleaved": 0, "rows": rows, "q": q, "K": K, "V": V,
                          "sink": sink}, out, within(1e-4, 1e-4), catches)
    yield case("a query that is not finite", {
        "T": 1, "heads": 1, "kv_heads": 1, "D": 2, "keys": "f16", "values": "f16", "kept": [], "recent": 0, "shift": 0,
        "interleaved": 0, "rows": 0, "q": ["NaN", 1.0], "K": [1.0, 1.0], "V": [1.0, 1.0]}, {}, error="run",
        catches="A score that is not finite is refused.")
