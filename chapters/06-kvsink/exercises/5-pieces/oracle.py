"""The selection of tests/oracle from everything so far, and the room that candidates need."""

import keep
from cases import EXACT, case
from exact import Random, f32


def room_for(h, lengths, K):
    """Candidates before a piece, and the piece."""
    held, most, seen = [], 1, 0
    for length in lengths:
        most = max(most, len(held) + length)
        kth = sorted(held, reverse=True)[K - 1] if 0 < K <= len(held) else -1
        held += [abs(x) for x in h[seen:seen + length] if abs(x) > kth]
        seen += length
        if 0 < K <= len(held):
            kth = sorted(held, reverse=True)[K - 1]
            held = [x for x in held if x > 1.001 * kth or kth - x <= 0.001 * kth]
    return max(most, len(held))


def one(name, h, lengths, K, catches=""):
    h = [f32(x) for x in h]
    assert sum(lengths) == len(h)
    positions, seen = [], 0
    for length in lengths:
        seen += length
        positions += keep.top(h[:seen], K)
    inputs = {"h": h, "lengths": lengths, "K": K, "room": room_for(h, lengths, K),
              "answers": len(positions)}
    return case(name, inputs, {"positions": positions}, EXACT, catches)


def cases(seed):
    random = Random("06.5" + seed)
    yield one("token by token", random.many(9, random.noise, 1.0), [1] * 9, 3)
    h = random.many(300, random.noise, 1.0)
    for t in (17, 100, 101, 290):
        h[t] = 900 + random.uniform(0, 99)
    yield one("sinks here and there", h, [1, 31, 32, 33, 2, 100, 101], 5,
              "A later piece may hold a larger value than all before.")
    yield one("three that climb", [1000, 1000.5, 1001.2], [1, 1, 1], 1,
              "The second is chosen at last, although it was not among the largest one before.")
    climb = [100 * 1.0002 ** t for t in range(67)]
    yield one("a slow climb", climb, [7] * 9 + [4], 2,
              "Values below the k-th may count as equal to it, and come first.")
    same = [500 + 1e-3 * random.below(400) for _ in range(301)]
    yield one("one token repeated", same, [7] * 43, 4,
              "A value that is not larger than the k-th so far can never be chosen: forget it.")
    yield one("none wanted", random.many(8, random.noise, 1.0), [4, 4], 0)
    yield one("more wanted than there are", random.many(8, random.noise, 1.0), [5, 3], 20)
