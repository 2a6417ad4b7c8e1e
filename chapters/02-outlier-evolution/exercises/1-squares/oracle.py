"""Numbers that follow from the formulas of SwiGLU and RMSNorm."""

import math

from cases import case, within


def silu(x):
    return x / (1 + math.exp(-x))


def cases(seed):
    rms = math.sqrt((23040.0 ** 2 + 575) / 576)
    for name, value in (
        ("largest", silu(48.0) * 48),
        ("half", silu(20.0) * 25 / (silu(40.0) * 50)),
        ("opposite", silu(-40.0) * -50),
        ("seen", 23040 / rms),
        ("rest", 1 / rms),
        ("mean", (7 * 400 + 24000) / 8),
    ):
        yield case(name, {}, {name: value}, within(1e-6, 0.01))
