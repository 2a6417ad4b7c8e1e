"""The K keys of most attention among those that enough queries can see."""

from cases import case
from exact import Random


def right(sum_, K, seen):
    T = len(sum_)
    able = [t for t in range(T) if T - t >= seen]
    able.sort(key=lambda t: (-sum_[t] / (T - t), t))
    return sorted(able[:K])


def sums(random, H, T, sinks):
    """0.2 H from itself, a little from each later query, much where there is a sink."""
    out = []
    for t in range(T):
        share = 0.3 if t in sinks else 0.01 * (1 + abs(random.noise(1.0)))
        out.append(float(H * (0.2 + (T - t - 1) * share)))
    return out


def cases(seed):
    random = Random("05.3" + seed)
    for name, H, T, K, seen, sinks, catches in (
        ("one token", 2, 1, 1, 1, [0], ""),
        ("all may be chosen", 3, 40, 5, 1, [0], ""),
        ("the newest are left out", 3, 40, 5, 16, [0, 7], "A mean over few queries wins too easily."),
        ("a sink at the edge", 4, 33, 3, 8, [0, 25], "A key that just so many queries can see counts."),
        ("a late sink", 4, 64, 2, 16, [40], "The sum favours old keys; the mean does not."),
        ("nobody was seen enough", 2, 12, 5, 16, [0], ""),
    ):
        s = sums(random, H, T, sinks)
        yield case(name, {"sum": s, "H": H, "K": K, "seen": seen}, {"position": right(s, K, seen)},
                   catches=catches)
