"""The oracle's count of a cache's bytes."""

import cache
from cases import case
from exact import Random


def right(tokens, recent, sealed, kept, shape, keys, values):
    total, row = 0, shape[0] * shape[1]
    for text in ("%d:channel:%d" % keys, "%d:token:%d" % values):
        area = cache.area_of(text, tokens, recent, sealed)
        waiting = [t for t in range(area, tokens) if t not in kept]
        total += cache.packed_bytes(text, area, shape[0], shape[1], kept, "")
        total += 2 * row * (len(kept) + len(waiting))
    return total + 4 * len(kept)


def cases(seed):
    random = Random("04.4" + seed)
    any_kept = sorted({random.below(777) for _ in range(12)})
    short = "The last group is short, and its codes still fill whole words."
    twice = "A kept row lies in the table from its arrival on, and not among those that wait as well."
    hole = "A kept token leaves a hole: its codes, scales and minima are stored."
    for name, tokens, recent, sealed, kept, shape, keys, values, catches in (
        ("one token, sealed", 1, 0, 1, [], (3, 64), (2, 128), (2, 64), short),
        ("one token", 1, 0, 0, [], (3, 64), (2, 128), (2, 64), ""),
        ("whole groups", 256, 0, 1, [], (2, 64), (4, 32), (4, 32), ""),
        ("three bits", 130, 0, 1, [], (1, 32), (3, 16), (3, 16), short),
        ("one above the block", 129, 0, 0, [], (3, 64), (2, 128), (2, 64), ""),
        ("a window larger than the text", 31, 64, 0, [0, 5], (2, 32), (2, 32), (2, 32), twice),
        ("kept in every state", 100, 20, 0, [0, 17, 70, 85, 99], (2, 64), (3, 32), (2, 16), twice),
        ("all kept", 32, 0, 1, list(range(32)), (1, 64), (2, 32), (2, 64), hole),
        ("some of many", 777, 33, 0, any_kept, (3, 64), (3, 64), (3, 32), hole),
    ):
        given = {"T": tokens, "R": recent, "sealed": sealed, "kept": kept, "heads": shape[0], "size": shape[1],
                 "keys": {"bits": keys[0], "group": keys[1]}, "values": {"bits": values[0], "group": values[1]}}
        yield case(name, given, {"bytes": right(tokens, recent, sealed, kept, shape, keys, values)},
                   catches=catches)
