"""Ageing as it is described, one step after the other."""

from cases import case
from exact import Random


def steps(tokens, recent, group, per_token, kivi):
    """The step of each token: simulate until all of them are codes."""
    run = 1 if per_token else group
    block = recent if kivi and not per_token and recent else run
    first, coded, there = [], 0, 0
    while len(first) < tokens:
        if kivi:  # what the step before left over
            old = there if block == recent and not per_token else there - recent
            while coded + block <= old:
                coded += block
        there += 1
        if not kivi:
            while coded + run <= there - recent:
                coded += run
        first += [there] * (coded - len(first))
    return first[:tokens]


def cases(seed):
    random = Random("04.5" + seed)
    group = 2 + random.below(9)
    window = "A key waits for the rest of its group, and the group for its newest token."
    flush = "KIVI's keys leave in blocks of all R, and only after the step has attended to them."
    for name, tokens, recent, group, kivi, catches in (
        ("no window", 33, 0, 8, 0, window),
        ("groups of one", 5, 3, 1, 0, ""),
        ("a window of half a group", 40, 4, 8, 0, window),
        ("a window that is no multiple", 31, 13, 5, 0, window),
        ("any group", 60, random.below(20), group, 0, window),
        ("KIVI without a window", 33, 0, 8, 1, flush),
        ("KIVI, a block of one group", 40, 8, 8, 1, flush),
        ("KIVI, a block of four groups", 100, 32, 8, 1, flush),
        ("KIVI, any group", 97, 3 * group, group, 1, flush),
    ):
        yield case(name, {"T": tokens, "R": recent, "G": group, "kivi": kivi},
                   {"keys": steps(tokens, recent, group, False, kivi),
                    "values": steps(tokens, recent, group, True, kivi)}, catches=catches)
