"""Blocks of tests/oracle/blocks.py."""

import blocks
from cases import case
from exact import Random


def right(x):
    fit = blocks.fit_of(x, "q4_0")
    return {"block": list(blocks.bytes_of([blocks.code_of(v, "q4_0", fit) for v in x], "q4_0", fit))}


def cases(seed):
    random = Random("03.6" + seed)
    noise = [random.many(32, random.noise, 2.0) for _ in range(4)]
    noise[1][19] = 30.0
    noise[2][3], noise[2][20] = -9.0, 9.0
    whole = [float(k % 17 - 8) / 2 for k in range(32)]
    whole[5] = 8.0
    for name, x, catches in (
        ("zeros", [0.0] * 32, "d is 0 / -8, which is minus zero, and all codes are 8."),
        ("ordinary numbers", noise[0], ""),
        ("a large positive one", noise[1],
         "d has the opposite sign of the largest number, so that this one is level -8."),
        ("two of equal size", noise[2], "Of two equally large numbers the first decides the sign."),
        ("numbers in order", [float(j) for j in range(32)], "Byte j holds elements j and j + 16."),
        ("ties", whole, "One half is added and the fraction cut off: half-way cases go up."),
        ("small ones", [v * 1e-3 for v in noise[3]],
         "Codes are decided with the float32 d, not with the stored one."),
    ):
        x = [blocks.f32(v) for v in x]
        yield case(name, {"x": x}, right(x), catches=catches)
