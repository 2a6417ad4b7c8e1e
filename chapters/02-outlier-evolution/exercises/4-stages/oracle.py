"""The rule for stages once more, on planted peaks."""

from cases import case
from exact import Random, f32


def right(peak, median, L, C, most):
    def size(layer, c):
        return abs(peak[(layer + 1) * C + c])

    def doubles(layer, c):
        return size(layer, c) > 0 and size(layer, c) >= 2 * size(layer - 1, c)

    weak = all(size(layer, c) < 100 for layer in range(L) for c in range(C))
    found = []
    for layer in range(L):
        ends = [c for c in range(C)
                if doubles(layer, c) and not (layer + 1 < L and doubles(layer + 1, c))
                and (weak or size(layer, c) >= 100) and size(layer, c) >= 300 * median[layer + 1]]
        if ends:
            best = max(ends, key=lambda c: (size(layer, c), -c))
            found.append((layer, best, -1 if peak[(layer + 1) * C + best] < 0 else 1))
    found = found[:most]
    return {"found": len(found), "weak": int(weak), "layer": [s[0] for s in found],
            "channel": [s[1] for s in found], "sign": [s[2] for s in found]}


# channel: its peaks from the embedding on; the last goes on to the end
def planted(random, L, C, channels, scale=1.0):
    peak = [random.uniform(0.5, 0.9) for _ in range((L + 1) * C)]
    for c, values in channels.items():
        for layer in range(L + 1):
            peak[layer * C + c] = f32(values[min(layer, len(values) - 1)] * scale)
    return peak


def cases(seed):
    random = Random("02.4" + seed)
    a = float(400 + random.below(99))
    for name, L, C, channels, scale, medians, most, catches in (
        ("nothing", 4, 7, {}, 1.0, 0.2, 4, "No stage is an answer."),
        ("in one layer", 5, 33, {8: [1, 1, -a]}, 1.0, 0.5, 4, "A sign belongs to the stage."),
        ("over three layers", 8, 16, {5: [1, 30, 350, 800 + a, 820 + a]}, 1.0, 1.0, 4,
         "A rise may take several layers; its last one is the stage."),
        ("two stages in one channel", 9, 12, {3: [1, 2, 700, 700, 40, 40, 9000]}, 1.0, 1.0, 4, ""),
        ("a larger channel beside it", 6, 31, {2: [1, 1, 700], 20: [1, 1, -900], 30: [1, 1, 1, 1, 600]}, 1.0, 1.0, 4,
         "Of several channels at a layer the largest magnitude stands for it."),
        ("at the last layer", 3, 4, {1: [1, 1, 1, a]}, 1.0, 1.0, 2, ""),
        ("a weak model", 5, 16, {6: [1, 1, 1, a, a]}, 0.125, 0.0625, 4,
         "If nothing reaches 100, the ratio decides alone."),
        ("a large embedding", 5, 16, {6: [1, 1, 1, a, a], 9: [4000, 4, 4]}, 0.125, 0.0625, 4,
         "The embedding is no layer: what it holds does not make a model strong."),
        ("bars are reached", 3, 2, {0: [1, 150, 300]}, 1.0, 1.0, 2, "Twice, and 300 times, are to be reached, not passed."),
        ("no more than asked for", 9, 8, {3: [1, 1, 700], 4: [1, 1, 1, 1, 800], 5: [1, 1, 1, 1, 1, 1, 900]}, 1.0, 1.0, 2, ""),
        ("taken away", 6, 8, {3: [1, 1, 700, 700, 3, 3]}, 1.0, 1.0, 4, "What falls does not rise."),
    ):
        peak = planted(random, L, C, channels, scale)
        median = [f32(medians)] * (L + 1)
        yield case(name, {"L": L, "C": C, "max": most, "peak": peak, "median": median}, right(peak, median, L, C, most),
                   catches=catches)
