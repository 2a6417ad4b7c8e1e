"""Numbers that follow from formulas of the chapter."""

from cases import case, within


def cases(seed):
    for name, value in (
        ("bits", 2.375 + 20 / 2048 * (16 + 32 / (2 * 192))),
        ("free", 8 / 255),
        ("kept", 5 * sum(1 / m for m in range(1, 9))),
        ("received", 0.01 + (0.2 - 0.01) / 20),
    ):
        yield case(name, {}, {name: value}, within(0, 0.002))
