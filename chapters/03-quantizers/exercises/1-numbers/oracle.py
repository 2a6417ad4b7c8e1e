"""Numbers that follow from the formulas of the chapter."""

import math

from cases import case, within


def cases(seed):
    for name, value in (
        ("step", (5 - -1) / 3),
        ("tie", 2 * 2.0 - 1),
        ("levels", 2),
        ("rms", 6 / 15 / math.sqrt(12)),
        ("bits", 2 + 32 / 32),
        ("bits_q5_1", 24 * 8 / 32),
        ("rotated", 2 * 32 / 8),
    ):
        yield case(name, {}, {name: value}, within(0, 0.01))
