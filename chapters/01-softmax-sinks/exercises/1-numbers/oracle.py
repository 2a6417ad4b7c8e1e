"""Numbers that follow from the formula of softmax."""

import math

from cases import case, within


def cases(seed):
    small = 100 * math.exp(-8)
    for name, value in (
        ("each", 1 / 100),
        ("rise", math.log(9 * 99)),
        ("rise_4000", math.log(9 * 3999)),
        ("together", small / (1 + small)),
    ):
        yield case(name, {}, {name: value}, within(0, 0.01))
