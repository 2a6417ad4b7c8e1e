"""Where each token of a store is, by a list that is walked through once."""

from cases import case
from exact import Random

KEPT, CODED, WAITING = range(3)


def places(tokens, kept, quantized):
    state, index, rows = [], [], 0
    for t in range(tokens):
        if t in kept:
            state.append(KEPT)
            index.append(kept.index(t))
        elif t < quantized:
            state.append(CODED)
            index.append(0)
        else:
            state.append(WAITING)
            index.append(rows)
            rows += 1
    return state, index


def cases(seed):
    random = Random("04.2" + seed)
    some = sorted({random.below(97) for _ in range(9)})
    for name, tokens, kept, quantized, catches in (
        ("one token", 1, [], 0, "An empty list has no first position."),
        ("nothing kept", 33, [], 32, ""),
        ("the first is kept", 32, [0], 0, ""),
        ("kept ones on both sides", 31, [2, 9, 20, 30], 16,
         "Only kept tokens behind `quantized` are missing among the waiting rows."),
        ("all kept", 5, [0, 1, 2, 3, 4], 0, "Behind the last kept position there is nothing to look at."),
        ("a prime", 97, some, 64, "Only kept tokens behind `quantized` are missing among the waiting rows."),
    ):
        state, index = places(tokens, kept, quantized)
        before = [len([p for p in kept if p < t]) for t in range(tokens + 1)]
        yield case(name, {"T": tokens, "kept": kept, "quantized": quantized},
                   {"before": before, "state": state, "index": index}, catches=catches)
