"""KVSink's selection of tests/oracle on texts with sinks, without any, and of one token."""

import keep
from cases import EXACT, case
from exact import Random, f32


def one(name, h, K, catches=""):
    h = [f32(x) for x in h]
    chosen = keep.top(h, K)
    return case(name, {"h": h, "K": K}, {"positions": chosen, "count": len(chosen)}, EXACT, catches)


def cases(seed):
    random = Random("06.2" + seed)
    yield one("one token", [random.noise()], 1)
    yield one("more wanted than there are", random.many(4, random.noise, 1.0), 9,
              "K larger than the prompt: all positions.")
    yield one("none wanted", random.many(7, random.noise, 1.0), 0)
    sinks = random.many(33, random.noise, 1.0)
    sinks[5], sinks[19], sinks[32] = -900 - random.uniform(0, 9), 700, -300
    yield one("a negative sink", sinks, 3, "Magnitude counts: most of these sinks are negative.")
    yield one("two passengers", sinks, 5, "Someone has to be fourth and fifth: count on.")
    same = [500 + 1e-3 * random.below(7) for _ in range(31)]
    same[20] = same[25] = 500.007
    yield one("one token repeated", same, 4,
              "Values within a thousandth count as equal, and among equals the lower positions win.")
    near = random.many(67, random.noise, 1.0)
    near[3], near[11], near[40], near[60] = 999.5, 1000.0, 2000.0, -1000.5
    yield one("equals beside a larger one", near, 2,
              "One place is left for three equals; the first of them in the text takes it.")
    yield one("all zero", [0.0] * 32, 3, "Equal is equal: the first ones.")
