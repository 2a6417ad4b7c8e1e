"""The budget of a roofline."""

from cases import case, within


def cases(seed):
    bits = 3 + 32 / 32
    byte = 108 * 4 * 32 * 1.41e9 / 2.0e12
    number = byte * bits / 8
    for name, value in (("bits", bits), ("byte", byte), ("number", number), ("left", number - 4),
                        ("occupied", 100 * 9 / (108 * 64))):
        yield case(name, {}, {name: value}, within(0.005, 0.02))
