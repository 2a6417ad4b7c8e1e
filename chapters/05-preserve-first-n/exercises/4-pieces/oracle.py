"""What is kept when a prompt arrives in pieces."""

from cases import case
from exact import Random


def right(h, K, piece):
    kept = set()
    for begin in range(0, len(h), piece):
        end = min(begin + piece, len(h))
        largest = sorted(range(end), key=lambda t: (-abs(h[t]), t))[:K]
        kept |= {t for t in largest if t >= begin}
    return sorted(kept)


def cases(seed):
    random = Random("05.4" + seed)
    for name, T, K, piece, catches in (
        ("one token", 1, 5, 4, ""),
        ("the whole prompt at once", 33, 5, 33, "Magnitudes count, whatever their sign."),
        ("pieces of 8", 40, 5, 8, "What was kept once stays, though larger values follow."),
        ("the last piece is short", 37, 3, 16, ""),
        ("growing", 24, 2, 6, "With every piece the largest so far are new ones."),
        ("the first are the largest", 31, 4, 5,
         "Later pieces keep nothing if none of theirs is among the largest so far."),
        ("token by token", 17, 2, 1, ""),
    ):
        h = random.many(T, random.noise, 20.0)
        if name == "growing":
            h = [float(t + 1) * (-1) ** t for t in range(T)]
        if name == "the first are the largest":
            h[:5] = [-900.0, 800.0, 700.0, -650.0, 640.0]
        yield case(name, {"h": h, "K": K, "piece": piece}, {"position": right(h, K, piece)},
                   catches=catches)
