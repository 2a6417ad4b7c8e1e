"""The K smallest, where nearly equal numbers count as equal."""

from cases import case
from exact import Random, f32


def right(x, K):
    if K <= 0:
        return []
    kth = sorted(x)[min(K, len(x)) - 1]
    smaller = [t for t, a in enumerate(x) if kth - a > 0.001 * kth]
    equal = [t for t, a in enumerate(x) if abs(a - kth) <= 0.001 * kth]
    return sorted(smaller + equal[:min(K, len(x)) - len(smaller)])


def cases(seed):
    random = Random("05.2" + seed)
    for name, T, K, catches in (
        ("one", 1, 1, ""),
        ("none wanted", 5, 0, ""),
        ("more than there are", 4, 9, "If there are fewer than K, all are taken."),
        ("different numbers", 31, 5, ""),
        ("all nearly equal", 33, 5, "Equals are taken in the order of their positions."),
        ("smaller ones behind equals", 32, 6,
         "What is clearly smaller is taken in any case; only what is left of K goes to the equals."),
        ("zeros", 13, 3, ""),
    ):
        x = [f32(abs(a) + 0.5) for a in random.many(T, random.noise, 4.0)]
        if name == "all nearly equal":
            x = [f32(7 * (1 + 0.0004 * random.uniform(-1, 1))) for _ in x]
        if name == "smaller ones behind equals":
            x = [f32(3 * (1 + 0.0002 * random.uniform(-1, 1))) for _ in x]
            x[20 + random.below(10)] = 1.0
            x[31] = 2.0
        if name == "zeros":
            for t in (2, 5, 6, 11):
                x[t] = 0.0
        yield case(name, {"x": x, "K": K}, {"position": right(x, K)}, catches=catches)
