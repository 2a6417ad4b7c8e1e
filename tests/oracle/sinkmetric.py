"""The sink metric: SPEC B.3 with 0-based positions.

    alpha_k = mean over the queries i = k .. T-1 of A[i, k]      per layer and head
    Sink_k^eps = share of (layer, head) pairs with alpha_k > eps
    mass of a set = mean over all queries i of the sum of A[i, k] over k in the set, k <= i
Sums are math.fsum, exact up to one rounding: the plain sum of later Pythons rounds differently.
"""

import math

from exact import Random, f32
from suite import VectorFile, abs_rel

NOTES = {
    "column-mean": (
        "alpha divides by T instead of by the number of queries that can see the key (T - k)."
    ),
    "strictly-above": "A head whose alpha equals eps counts as a sink head.",
    "layers-only": (
        "The share is taken over layers (heads averaged first) instead of over (layer, head) "
        "pairs."
    ),
    "mass-of-visible": "The mass is averaged only over queries that can see the whole set.",
    "sink-not-first": "The key that receives the attention is not the first one.",
    "several-sinks": "Several keys receive large attention.",
    "no-sink": "Attention is spread evenly.",
}
EPS = [f32(0.05), f32(0.1), f32(0.2), f32(0.3)]
TOLERANCE = abs_rel(1e-7, 1e-6, "sums in double; room for one float32 rounding of the result")


def oracle(inputs, wrong=""):
    layers, heads, tokens, _ = inputs["shape"]
    a = inputs["A"]
    alpha, mass = [], []
    for pair in range(layers * heads):
        rows = [
            a[(pair * tokens + i) * tokens : (pair * tokens + i + 1) * tokens]
            for i in range(tokens)
        ]
        for k in range(tokens):
            total = math.fsum(rows[i][k] for i in range(k, tokens))
            alpha.append(total / (tokens if wrong == "column-mean" else tokens - k))
        first = max(inputs["set"]) if wrong == "mass-of-visible" and inputs["set"] else 0
        seen = [
            math.fsum(rows[i][k] for k in inputs["set"] if k <= i) for i in range(first, tokens)
        ]
        mass.append(math.fsum(seen) / len(seen))
    sink = []
    for eps in inputs["eps"]:
        for k in range(tokens):
            column = [alpha[pair * tokens + k] for pair in range(layers * heads)]
            if wrong == "layers-only":
                column = [
                    math.fsum(column[layer * heads : (layer + 1) * heads]) / heads
                    for layer in range(layers)
                ]
            hits = sum(1 for v in column if (v >= eps if wrong == "strictly-above" else v > eps))
            sink.append(hits / len(column))
    return {"alpha": alpha, "sink": sink, "mass": mass}


def attention(random, layers, heads, tokens, favourites):
    """Causal rows that sum to one up to rounding; favourites[pair % len] = {key: weight}."""
    out = []
    for pair in range(layers * heads):
        likes = favourites[pair % len(favourites)]
        for i in range(tokens):
            weight = [
                (1 + random.below(64)) / 64 * likes.get(k, 1) if k <= i else 0
                for k in range(tokens)
            ]
            total = math.fsum(weight)
            out += [f32(round(w / total, 4)) for w in weight]
    return out


def files():
    file = VectorFile(
        "sink_metric",
        "sink_metric",
        {},
        oracle,
        NOTES,
        ["column-mean", "strictly-above", "layers-only", "mass-of-visible"],
    )
    random = Random("sink metric")
    plans = [
        ("first key", 2, 3, 9, [{0: 30}, {0: 4}, {0: 1}], [0], [], []),
        ("a key in mid-sequence", 2, 2, 11, [{4: 25}, {0: 8, 4: 12}], [0, 4], ["sink-not-first",
         "several-sinks"], ["column-mean", "mass-of-visible", "layers-only"]),
        ("no sink", 1, 2, 12, [{}], [], ["no-sink"], ["column-mean"]),
        ("one token", 1, 1, 1, [{}], [0], [], ["strictly-above"]),
        ("set of all keys", 1, 2, 5, [{0: 3}], [0, 1, 2, 3, 4], [], []),
    ]
    for name, layers, heads, tokens, likes, chosen, flags, must in plans:
        eps = EPS + [1.0] if name == "one token" else EPS
        a = attention(random, layers, heads, tokens, likes)
        inputs = {"shape": [layers, heads, tokens, tokens], "A": a, "eps": eps, "set": chosen}
        out = file.case(name, inputs, flags, must, TOLERANCE)
        assert all(abs(v - e) > 1e-5 for v in out["alpha"] for e in EPS), name
    yield file
