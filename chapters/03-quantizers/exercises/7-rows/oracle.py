"""Per-token groups of four bits, with a budget of one read."""

import quantize
from cases import case, sectors
from exact import Random, f32, half_bits


def right(x, n):
    codes, scale, low = [], [], []
    for first in range(0, len(x), n):
        row = x[first:first + n]
        group = quantize.parameters_of_group(row, 4, 0)
        codes += [quantize.code_of(v, 4, 0, group) for v in row]
        scale.append(half_bits(group[0]))
        low.append(half_bits(group[1]))
    return {"codes": codes, "scale": scale, "min": low}


def cases(seed):
    random = Random("03.7" + seed)
    for name, rows, n, catches in (
        ("one row of 8", 1, 8, "A warp has more lanes than the row has numbers."),
        ("five rows of 32", 5, 32, "There are fewer rows than warps for them."),
        ("seven rows of 64", 7, 64,
         "Neighbouring lanes should read neighbouring numbers, and each only once."),
        ("three rows of 72", 3, 72, "A row need not end where a warp ends."),
        ("nine rows of 128", 9, 128,
         "The range is that of the whole row, and codes need the stored scale."),
    ):
        x = [f32(v + 3) for v in random.many(rows * n, random.noise, 1.5)]
        for r in range(rows):
            x[r * n + (5 * r + 3) % n] = 21.0 - 6 * r
        yield case(name, {"x": x, "rows": rows, "n": n}, right(x, n), catches=catches,
                   loads=sectors(rows * n), least=sectors(rows * n))
