"""Bits that follow from the formula of chapter 4."""

from cases import case, within


def waiting(bits, group, tokens, rows):
    """Mean of rows that are coded and rows that wait in 16 bits."""
    return ((tokens - rows) * (bits + 32 / group) + 16 * rows) / tokens


def cases(seed):
    words = -(-3 * 16 // 32)
    for name, value in (
        ("plain", 4 + 32 / 32),
        ("threes", (32 * words + 32) / 16),
        ("kept", 20 / 1024 * (16 + 32 / (2 * 3 * 64))),
        ("single", ((32 + 16 + 16) + (2 + 32 / 64)) / 2),
        ("kivi", (waiting(2, 32, 300, 300 % 128) + waiting(2, 32, 300, 128)) / 2),
    ):
        yield case(name, {}, {name: value}, within(0, 0.005))
