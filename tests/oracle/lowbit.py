"""Cases for every format beyond plain integers; the definitions are in anyformat, levels, blocks.

Every random input has an outlier channel and a kept token (a sink) that is not token 0, unless it
says otherwise.  Where a mistake needs a rare input, the input is searched for.
"""

import anyformat
import blocks
import levels
from exact import Random, f32, half
from formats import Format
from quantize import MISTAKES as INTEGER_MISTAKES
from quantize import lay, planted
from suite import VectorFile

SHARED = {
    name: INTEGER_MISTAKES[name]
    for name in (
        "kept-but-in-statistics",
        "kept-is-half",
        "kept-code-zero",
        "uses-stored-scale",
        "reciprocal",
        "not-finite",
        "half-overflow",
    )
}
NOTES = dict(INTEGER_MISTAKES, **blocks.MISTAKES)
NOTES.update(levels.NOTES)
NOTES.update(anyformat.MISTAKES)
NOTES.update(anyformat.DESCRIPTIONS)


def oracle(inputs, wrong=""):
    if wrong in ("not-finite", "half-overflow"):
        bad = [v for v in inputs["x"] if v != v or abs(v) == float("inf")]
        large = [v for v in inputs["x"] if 65520 <= abs(v) < float("inf")]
        if bad if wrong == "not-finite" else large:
            return {"codes": "accepted"}
    return anyformat.oracle(inputs, wrong)


class File(VectorFile):
    """A file of piece quantize that insists on earning each of its mistakes somewhere."""

    def __init__(self, name, parameters, mistakes):
        super().__init__("quantize_" + name, "quantize", parameters, oracle, NOTES, list(mistakes))

    def add(self, identity, text, shape, x, kept=(), flags=(), must=(), **more):
        inputs = dict({"format": text, "shape": shape, "x": x, "kept": list(kept)}, **more)
        flags = list(flags) + (["sink-not-first"] if any(kept) else [])
        return self.case(identity, inputs, flags, must)

    def text(self):
        earned = {flag for case in self.cases for flag in case["flags"]}
        missing = [m for m in self.mistakes if m not in earned]
        assert not missing, "%s: no case catches %s" % (self.name, missing)
        return super().text()


def search(draw, wanted, tries=4000):
    """The first draw that `wanted` likes, or None."""
    for _ in range(tries):
        values = draw()
        if wanted(values):
            return values
    return None


def both_halves(values):
    return [values, [f32(v / 2) for v in values]]


def refusals(file, text, size=4):
    for name, value, kept, must in (
        ("65519.996 fits", 65519.99609375, [], []),
        ("65520", 65520.0, [], ["half-overflow"]),
        ("-65520 in a kept row", -65520.0, [1], ["half-overflow"]),
        ("NaN", float("nan"), [], ["not-finite"]),
        ("infinity in a kept row", float("inf"), [1], ["not-finite"]),
    ):
        x = [f32((i * 7 % 11) - 5.0) for i in range(3 * size)]
        x[size + 1] = value
        file.add(name, text, [3, 1, size], x, kept, [], must)


def random_cases(file, random, kind, axis, sizes=(1, 31, 33)):
    """Sizes around a group's, an outlier channel, kept rows in mid-sequence."""
    kept_of = {1: [], 19: [8, 9, 10, 11, 12, 13, 14, 15, 17], 31: [30], 33: [0, 17, 32]}
    for tokens in sizes:
        shape = [tokens, 2, 4] if tokens == 1 else [tokens, 1, 4]
        group = {"channel": 8 if tokens == 19 else 32, "token": 4, "all": "all"}[axis]
        text = "%s:%s:%s" % (kind, "token" if axis == "all" else axis, group)
        kept = kept_of[tokens]
        x = planted(random, shape, kept, (shape[1] - 1, 1), 3.0, tokens in (1, 31))
        flags = ["outlier-channel"] + ([] if kept else ["no-sink"])
        flags += ["all-kept"] if tokens == 19 or (axis != "channel" and kept) else []
        file.add("%d tokens" % tokens, text, shape, x, kept, flags)


# ---- NormalFloat and E4M3 ----


def nf_groups(random, bits):
    table = levels.LEVELS[bits]
    zero = table.index(0.0)
    middles = [f32((a + b) / 2) for a, b in zip(table, table[1:])]
    ties = [1.0, -1.0, f32(table[zero - 1] / 2), f32(table[zero + 1] / 2)] + middles
    fine = lambda: [random.fine(-1, 1) for _ in range(8)]

    def hit(wrong):
        def differs(values):
            fit = levels.nf_fit(values)
            return any(
                levels.nf_code(v, bits, fit) != levels.nf_code(v, bits, fit, wrong) for v in values
            )

        return differs

    def near_a_middle():
        values = [random.fine(-1, 1) for _ in range(7)] + [random.fine(0.6, 1)]
        scale = levels.nf_fit(values)[0]
        for i in range(3):
            values[i] = f32(middles[random.below(len(middles))] * scale)
        return values

    yield "tie", (ties * 3)[:8], ["ties-to-higher-level"]
    yield "zeros", [0.0] * 8, ["nf-zero-is-code-0"]
    yield "scale rounds to zero", [f32(0.9 * 2.0**-25 * (k - 4) / 4) for k in range(8)], []
    yield "subnormal scale", [f32(1.4 * 2.0**-24 * (k - 4) / 4) for k in range(8)], []
    yield "negative extreme", [f32(-5.1 + 0.83 * k) for k in range(8)], ["signed-max"]
    yield "all negative", [f32(-5.1 - 0.37 * k) for k in range(8)], []
    yield "largest", [65504.0, -65504.0, 65519.0, -65519.0, 30000.0, 1.0, -2.0, 0.0], []
    for name, wrong, draw in (
        ("distance", "nf-distance-in-double", near_a_middle),
        ("reciprocal", "reciprocal", near_a_middle),
        ("scale not a half", "uses-stored-scale", fine),
    ):
        values = search(draw, hit(wrong))
        if values:
            yield name, values, [wrong]


def nf_files():
    for bits in (2, 3, 4):
        for axis in ("channel", "token"):
            random = Random("nf%d %s" % (bits, axis))
            groups = list(nf_groups(random, bits))
            mistakes = dict(levels.NF_MISTAKES, **SHARED)
            del mistakes["kept-but-in-statistics" if axis == "token" else "nf-uniform-levels"]
            if bits == 2:
                del mistakes["nf-mirrored-levels"]
            for name in ("nf-distance-in-double", "reciprocal"):
                if not any(name in must for _, _, must in groups):
                    del mistakes[name]
            file = File("nf%d_%s" % (bits, axis), {"kind": "nf", "bits": bits, "axis": axis},
                        mistakes)
            for name, values, must in groups:
                shape, x = lay(both_halves(values), axis, 8)
                flags = ["tie"] if name == "tie" else []
                file.add(name, "nf%d:%s:8" % (bits, axis), shape, x, [], flags, must)
            sizes = (1, 19, 33) if axis == "channel" else (1, 33)
            random_cases(file, random, "nf%d" % bits, axis, sizes)
            if axis == "token":
                random_cases_all(file, random, "nf%d" % bits)
            refusals(file, "nf%d:%s:4" % (bits, axis))
            yield file


def random_cases_all(file, random, kind):
    shape = [5, 2, 4]
    x = planted(random, shape, [3], (1, 1), 1.0)
    file.add("token:all", kind + ":token:all", shape, x, [3], ["outlier-channel", "all-kept"])


def e4m3_groups(random):
    fine = lambda: [random.fine(-1, 1) for _ in range(8)]

    def hit(wrong):
        def differs(values):
            fit = levels.e4m3_fit(values)
            return any(
                levels.e4m3_scaled_code(v, fit) != levels.e4m3_scaled_code(v, fit, wrong)
                for v in values
            )

        return differs

    def near_a_tie():
        values = [random.fine(-1, 1) for _ in range(7)] + [random.fine(0.6, 1)]
        scale = levels.e4m3_fit(values)[0]
        for i in range(3):
            code = 8 + random.below(110)
            middle = (levels.e4m3_value(code) + levels.e4m3_value(code + 1)) / 2
            values[i] = f32(middle * scale)
        return values

    yield "tie", [448.0, -448.0, 17.0, 19.0, -17.0, 2.0**-10, 3 * 2.0**-10, -5 * 2.0**-10], [
        "ties-away", "truncation"]
    yield "zeros", [0.0] * 8, []
    yield "subnormal codes", [448.0, f32(0.0031), f32(-0.0007), f32(0.00098), f32(-0.014), 0.015625,
                              f32(0.0137), 1.0], ["subnormal-flushed", "minus-zero-lost"]
    yield "scale rounds to zero", [f32(448 * 0.45 * 2.0**-24 * (k - 4) / 4) for k in range(8)], []
    yield "scale rounded down", [f32(448 * 1.49 * 2.0**-24 * (k - 4) / 4) for k in range(8)], [
        "e4m3-no-saturation"]
    yield "negative extreme", [f32(-5.1 + 0.83 * k) for k in range(8)], ["signed-max"]
    yield "largest", [65504.0, -65504.0, 65519.0, -65519.0, 30000.0, 1.0, -2.0, 0.0], []
    for name, wrong, draw in (
        ("reciprocal", "reciprocal", near_a_tie),
        ("scale not a half", "uses-stored-scale", fine),
    ):
        values = search(draw, hit(wrong))
        if values:
            yield name, values, [wrong]


def e4m3_files():
    for axis in ("channel", "token"):
        random = Random("e4m3 " + axis)
        mistakes = dict(levels.E4M3_MISTAKES, **SHARED)
        mistakes["signed-max"] = ""
        del mistakes["kept-code-zero"]
        if axis == "token":
            del mistakes["kept-but-in-statistics"]
        file = File("e4m3_" + axis, {"kind": "e4m3", "axis": axis}, mistakes)
        for name, values, must in e4m3_groups(random):
            shape, x = lay(both_halves(values), axis, 8)
            flags = ["tie"] if name == "tie" else []
            file.add(name, "e4m3:%s:8" % axis, shape, x, [], flags, must)
        random_cases(file, random, "e4m3", axis, (1, 19, 33) if axis == "channel" else (1, 33))
        if axis == "token":
            random_cases_all(file, random, "e4m3")
        refusals(file, "e4m3:%s:4" % axis)
        yield file


# ---- llama.cpp's blocks ----


def block_groups(random, kind):
    """Blocks of 32, each with one difficulty."""
    top = {"q4_0": 8.0, "q5_0": 16.0, "q4_1": 15.0, "q5_1": 31.0, "q8_0": 127.0}[kind]
    low = 0.0 if kind in ("q4_1", "q5_1") else -top
    signed = kind in ("q4_0", "q5_0")
    noise = lambda: [random.fine(-1, 1) for _ in range(32)]
    ties = [low, top if not signed else top - 1] + [
        (k % int(top)) * (-1 if low and k % 2 else 1) + 0.5 for k in range(30)
    ]

    def hit(wrong):
        def differs(values):
            fit = blocks.fit_of(values, kind)
            return any(
                blocks.code_of(v, kind, fit) != blocks.code_of(v, kind, fit, wrong)
                for v in values
            )

        return differs

    def near_ties():
        values = noise()
        d, _, least, _ = blocks.fit_of(values, kind)
        for i in range(2, 32):
            k = random.below(int(top)) + 0.5
            if signed or kind == "q8_0":
                k *= 1 if random.below(2) else -1
            v = f32(least + k * d)
            if abs(v) < 0.9 * max(abs(w) for w in values):
                values[i] = v
        return values

    yield "ties", ties, ["tie"], ["half-even"] if kind == "q8_0" else [
        "rounds-instead-of-truncating"]
    yield "zeros", [0.0] * 32, [], ["zero-block-is-plus-zero"] if signed else []
    yield "constant", [f32(1 / 3)] * 32, [], []
    yield "negative constant", [f32(-1 / 3)] * 32, [], []
    yield "positive extreme", [f32(0.1 * k) for k in range(32)], [], []
    yield "negative extreme", [f32(0.3 - 0.1 * k) for k in range(32)], [], (
        ["unsigned-max"] if signed else [])
    twins = [f32(0.01 * k) for k in range(32)]
    twins[5], twins[20] = 2.0, -2.0
    both = ["later-maximum", "no-minimum-15"] if signed else []
    yield "equal magnitudes, plus first", twins, ["tie"], both
    twins = list(twins)
    twins[5], twins[20] = -2.0, 2.0
    yield "equal magnitudes, minus first", twins, ["tie"], both
    yield "subnormal d", [f32(1.45 * 2.0**-24 * top * (k - 16) / 16) for k in range(32)], [], [
        "coded-with-half-d"]
    yield "d rounds to zero", [f32(0.4 * 2.0**-24 * top * (k - 10) / 32) for k in range(32)], [], []
    yield "largest", [65504.0, -65504.0, 65519.0, -30000.0] + [f32(k * 777.7) for k in range(28)], [
    ], []
    for name, wrong, draw in (
        ("reciprocal", "divides", near_ties),
        ("float32 d", "coded-with-half-d", near_ties),
    ):
        values = search(draw, hit(wrong))
        assert values, (kind, wrong)
        yield name, values, [], [wrong]


def block_files():
    for kind in sorted(blocks.BITS):
        random = Random(kind)
        signed = kind in ("q4_0", "q5_0")
        mistakes = dict(blocks.MISTAKES)
        for name in ("not-finite", "half-overflow", "kept-is-half", "kept-code-zero"):
            mistakes[name] = ""
        drop = ["rounds-instead-of-truncating", "no-minimum-15", "nibbles-interleaved",
                "nibbles-swapped"] if kind == "q8_0" else ["half-even", "signed-bytes"]
        if not signed:
            drop += ["unsigned-max", "later-maximum", "zero-block-is-plus-zero", "no-minimum-15"]
        if blocks.BITS[kind] != 5:
            drop.append("fifth-bits-interleaved")
        if kind in ("q4_1", "q5_1"):
            drop.append("kept-code-zero")
        for name in set(drop):
            del mistakes[name]
        file = File(kind, {"kind": kind}, mistakes)
        for name, values, flags, must in block_groups(random, kind):
            file.add(name, kind, [1, 1, 32], values, [], flags, must)
        for name, shape, kept, must in (
            ("one token", [1, 2, 32], [], []),
            ("three heads of 64", [2, 3, 64], [1], ["kept-is-half"]),
            ("four heads of 24", [3, 4, 24], [2], ["block-per-head"]),
            ("two heads of 16", [4, 2, 16], [1, 2], ["block-per-head"]),
            ("all kept", [2, 1, 32], [0, 1], []),
        ):
            x = planted(random, shape, kept, (shape[1] - 1, 1), 0.0, name == "one token")
            flags = ["outlier-channel"] + ([] if kept else ["no-sink"])
            flags += ["all-kept"] if kept else []
            file.add(name, kind, shape, x, kept, flags, must)
        file.add("a row of 48", kind, [1, 2, 24], [1.0] * 48)
        refusals(file, kind, 32)
        yield file


# ---- rotations, norms ----


def hadamard_oracle(inputs, wrong=""):
    size = inputs["headSize"]
    x = inputs["x"]
    return {"y": [v for i in range(0, len(x), size)
                  for v in anyformat.hadamard(x[i : i + size], wrong)]}


def hadamard_file():
    anyformat.self_test()
    names = ["had-unnormalised", "had-order", "had-factor-first", "had-in-double"]
    notes = dict(anyformat.MISTAKES, **anyformat.DESCRIPTIONS)
    file = VectorFile("hadamard", "hadamard", {}, hadamard_oracle, notes, names)
    random = Random("hadamard")
    for size in (1, 2, 4, 8, 64, 128):
        heads = {1: 3, 2: 3, 4: 2, 8: 3, 64: 2, 128: 1}[size]
        x = [random.fine(-1, 1) for _ in range(heads * size)]
        x[-1] = 40.0
        must = ["had-unnormalised"] if size > 1 else []
        must += ["had-order"] if size > 2 else []
        must += ["had-in-double"] if size >= 64 else []
        must += ["had-factor-first"] if size == 128 else []
        file.case("%d heads of %d" % (heads, size), {"headSize": size, "x": x},
                  ["outlier-channel"] if size > 1 else [], must)
    unit = [0.0] * 8
    unit[3] = 1.0
    file.case("one channel of 8", {"headSize": 8, "x": unit}, [], ["had-order"])
    file.case("equal channels", {"headSize": 16, "x": [0.75] * 16})
    file.case("cancellation", {"headSize": 4, "x": [f32(1e7), f32(1e7 + 1), f32(0.1), f32(-0.3)]})
    yield file


def rotation_files():
    had = ["had-unnormalised", "had-order", "had-not-undone", "had-over-the-row"]
    random = Random("had")
    file = File("had", {"flags": "had"}, had + ["kept-but-in-statistics", "kept-is-half"])
    for name, text, shape, kept in (
        ("2 bits, channel", "2:channel:8:had", [19, 2, 4], [6, 17]),
        ("2 bits, token", "2:token:8:had", [5, 2, 8], [3]),
        ("4 bits, the head, as QuaRot", "4:token:16:had", [4, 2, 16], [2]),
        ("3 bits symmetric", "3:channel:8:had:sym", [9, 2, 4], [4]),
        ("nf4", "nf4:token:8:had", [3, 2, 8], [1]),
        ("e4m3", "e4m3:channel:4:had", [6, 2, 4], [2]),
        ("q4_0", "q4_0:had", [3, 2, 16], [1]),
        ("q8_0", "q8_0:had", [2, 4, 8], [1]),
        ("8 bits, heads of 64", "8:token:64:had", [2, 1, 64], [1]),
        ("before RoPE", "2:token:8:pre:had", [3, 2, 8], [1]),
        ("heads of 2", "2:token:all:had", [3, 2, 2], [1]),
        ("one token", "2:channel:32:had", [1, 2, 8], []),
        ("all kept", "2:channel:4:had", [3, 1, 4], [0, 1, 2]),
    ):
        x = planted(random, shape, kept, (shape[1] - 1, 1), 1.0)
        flags = ["outlier-channel"] + ([] if kept else ["no-sink"])
        file.add(name, text, shape, x, kept, flags + (["all-kept"] if name == "all kept" else []))
    file.add("does not fit any more", "2:channel:4:had", [2, 1, 4], [60000.0] * 8, [],
             ["half-overflow"])
    file.add("heads of 12", "2:channel:4:had", [1, 1, 12], [1.0] * 12)
    yield file
    norm = ["norm-per-head", "norm-of-the-mean", "norm-before-had", "norm-as-half",
            "norm-not-multiplied", "norm-of-kept", "kept-but-in-statistics", "kept-is-half"]
    random = Random("norm")
    file = File("norm", {"flags": "norm"}, norm)
    for name, text, shape, kept in (
        ("2 bits, channel", "2:channel:8:norm", [19, 2, 4], [6, 17]),
        ("as OScaR", "2:channel:8:had:norm", [17, 2, 8], [5]),
        ("4 bits, token", "4:token:4:norm", [5, 2, 4], [3]),
        ("symmetric", "8:channel:8:norm:sym", [9, 2, 4], [4]),
        ("nf4", "nf4:channel:4:norm:had", [6, 2, 4], [2]),
        ("e4m3", "e4m3:token:all:norm", [4, 2, 4], [2]),
        ("one token", "2:channel:32:norm", [1, 2, 4], []),
        ("all kept", "2:channel:4:norm", [3, 1, 4], [0, 1, 2]),
    ):
        x = planted(random, shape, kept, (shape[1] - 1, 1), 1.0, name in ("as OScaR", "one token"))
        flags = ["outlier-channel"] + ([] if kept else ["no-sink"])
        file.add(name, text, shape, x, kept, flags + (["all-kept"] if name == "all kept" else []))
    x = planted(random, [5, 2, 4], [2], (1, 1), 1.0)
    x[8:16] = [0.0] * 8
    file.add("a token of zeros", "2:channel:4:norm", [5, 2, 4], x, [2], ["outlier-channel"])
    x = [f32(1e-6 * (k % 5 - 2)) for k in range(16)]
    file.add("below the floor of 1e-4", "2:channel:2:norm", [2, 2, 4], x)
    yield file


# ---- dense and sparse ----


def outlier_files():
    common = ["outlier-by-magnitude", "outlier-in-the-range", "outlier-later-tie",
              "outlier-rounds-up", "outlier-each-side-whole", "outlier-code",
              "outlier-other-axis", "kept-is-half", "outlier-kept-chosen"]
    keys = common + ["outlier-kept-counted", "outlier-per-group"]
    random = Random("outliers of keys")
    file = File("outliers_keys", {"flags": "outP", "side": "keys"}, keys)
    for name, text, shape, kept, must in (
        ("10 % of 40", "2:channel:8:out10", [41, 1, 4], [17], ["outlier-per-group"]),
        ("kept tokens are not counted", "2:channel:8:out10", [23, 1, 4], [4, 5, 11, 20],
         ["outlier-kept-counted"]),
        ("token groups", "3:token:4:out20", [21, 1, 4], [6], []),
        ("channel:all", "2:channel:all:out12.5", [17, 2, 4], [9], []),
        ("symmetric", "4:channel:8:out20:sym", [20, 1, 4], [3], []),
        ("rotated", "2:channel:8:had:out20", [21, 2, 4], [6], []),
        ("norms", "2:channel:8:had:norm:out20", [21, 2, 4], [6], []),
        ("before RoPE", "2:channel:8:pre:out20", [11, 1, 4], [6], []),
        ("out0", "2:channel:8:out0", [9, 1, 4], [4], []),
        ("too few for one", "2:channel:8:out1", [33, 1, 4], [17], ["outlier-rounds-up"]),
        ("just one", "2:channel:8:out6.25", [33, 1, 2], [17], []),
        ("just below one", "2:channel:8:out6.249", [33, 1, 2], [17], ["outlier-rounds-up"]),
        ("half of everything", "2:channel:4:out50", [9, 1, 4], [2], []),
        ("one token", "2:channel:8:out50", [1, 1, 4], [], []),
        ("all kept", "2:channel:4:out50", [4, 1, 4], [0, 1, 2, 3], []),
    ):
        x = planted(random, shape, kept, (shape[1] - 1, 1), 1.0, name == "norms")
        flags = ["outlier-channel"] + ([] if kept else ["no-sink"])
        flags += ["zero-outliers"] if name in ("out0", "too few for one", "just below one") else []
        flags += ["all-kept"] if name == "all kept" else []
        file.add(name, text, shape, x, kept, flags, must, side="keys")
    x = [f32(v) for v in (5, 1, 5, 2, 5, -3, -3, 0.5, -3, 1.5, 2.5, 0.25)]
    file.add("equal values", "2:channel:4:out20", [12, 1, 1], x, [], ["tie"],
             ["outlier-later-tie"], side="keys")
    file.add("all equal", "2:channel:4:out20", [12, 1, 1], [0.75] * 12, [], ["tie"],
             ["outlier-later-tie"], side="keys")
    yield file
    random = Random("outliers of values")
    values = common + ["outlier-per-group", "outlier-float-floor"]
    file = File("outliers_values", {"flags": "outP", "side": "values"}, values)
    for name, text, shape, kept, must in (
        ("over all heads", "2:token:8:out13", [4, 2, 8], [2], ["outlier-per-group"]),
        ("channel groups", "2:channel:4:out25", [9, 2, 4], [5], ["outlier-other-axis"]),
        ("token:all", "4:token:all:out20", [3, 2, 8], [1], []),
        ("symmetric", "4:token:8:out25:sym", [3, 2, 8], [1], []),
        ("rotated", "2:token:8:had:out25", [3, 2, 8], [1], []),
        ("out0", "2:token:8:out0", [3, 2, 8], [1], []),
        ("too few for one", "2:token:8:out10", [3, 2, 8], [1], ["outlier-rounds-up"]),
        ("one of 64", "2:token:64:out3.125", [2, 1, 64], [1], []),
        ("just below one of 64", "2:token:64:out3.124", [2, 1, 64], [1], ["outlier-rounds-up"]),
        ("all kept", "2:token:8:out50", [2, 1, 8], [0, 1], []),
    ):
        x = planted(random, shape, kept, (shape[1] - 1, 1), 1.0)
        flags = ["outlier-channel"]
        flags += ["zero-outliers"] if name in ("out0", "too few for one",
                                               "just below one of 64") else []
        flags += ["all-kept"] if name == "all kept" else []
        file.add(name, text, shape, x, kept, flags, must, side="values")
    x = planted(random, [1, 1, 125], [], (0, 40), 1.0)
    file.add("7 of 125, exactly", "2:token:25:out11.2", [1, 1, 125], x, [],
             ["outlier-channel", "no-sink"], ["outlier-float-floor"], side="values")
    file.add("equal values", "2:token:6:out34", [1, 2, 6],
             [f32(v) for v in (5, 1, 5, 2, 5, -3, -3, 0.5, -3, 1.5, 2.5, 0.25)], [], ["tie"],
             ["outlier-later-tie"], side="values")
    yield file


# ---- static constants, exclusion, KIVI ----


def static_file():
    mistakes = ["static-from-the-data", "static-first-channel", "static-wraps", "kept-is-half"]
    file = File("static", {"flags": "static"}, mistakes)
    random = Random("static")
    for name, text, shape, kept in (
        ("per channel", "2:channel:8:static", [19, 1, 4], [6, 17]),
        ("per channel, all", "4:channel:all:static", [9, 2, 4], [5]),
        ("per token", "2:token:4:static", [5, 2, 4], [3]),
        ("per token, two groups a head", "3:token:4:static", [4, 1, 8], [2]),
        ("per token, all", "8:token:all:static", [4, 2, 4], [2]),
        ("symmetric", "4:channel:8:static:sym", [9, 1, 4], [4]),
        ("symmetric per token", "4:token:4:static:sym", [5, 1, 8], [4]),
        ("before RoPE", "2:channel:8:pre:static", [5, 1, 4], [2]),
        ("nf4", "nf4:token:4:static", [4, 2, 4], [2]),
        ("e4m3", "e4m3:channel:8:static", [5, 1, 4], [2]),
        ("one token", "2:channel:32:static", [1, 2, 4], []),
        ("all kept", "2:channel:4:static", [3, 1, 4], [0, 1, 2]),
    ):
        width = shape[1] * shape[2]
        x = planted(random, shape, kept, (shape[1] - 1, 1), 1.0)
        lo = [min(x[i] for i in range(c, len(x), width)) for c in range(width)]
        hi = [max(x[i] for i in range(c, len(x), width)) for c in range(width)]
        lo = [f32(round(v + 0.3 + 0.1 * c, 3)) for c, v in enumerate(lo)]
        hi = [f32(round(max(v - 0.4, lo[c] + 0.5), 3)) for c, v in enumerate(hi)]
        flags = ["outlier-channel"] + ([] if kept else ["no-sink"])
        flags += ["all-kept"] if name == "all kept" else []
        file.add(name, text, shape, x, kept, flags, lo=lo, hi=hi)
    x = planted(random, [5, 1, 2], [2], (0, 1), 1.0)
    file.add("poisoned by a sink", "2:channel:8:static", [5, 1, 2], x, [2], ["outlier-channel"],
             ["static-from-the-data"], lo=[f32(-0.5), -90.0], hi=[3.0, 48.0])
    file.add("equal constants", "2:channel:8:static", [3, 1, 2], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [],
             [], [], lo=[2.0, 3.0], hi=[2.0, 3.0])
    file.add("without constants", "2:channel:8:static", [1, 1, 2], [1.0, 2.0])
    yield file


def exclusion_file():
    mistakes = ["exclusion-ignored", "exclude-only-in-range", "exclude-only-wraps"]
    file = File("exclusion", {"exclusion": "overwrite, exclude-only"}, mistakes)
    random = Random("exclusion")
    for name, text, shape, kept, exclusion, must in (
        ("overwrite, 2 bits", "2:channel:8", [19, 1, 4], [6, 17], "overwrite",
         ["exclusion-ignored"]),
        ("overwrite, channel:all", "4:channel:all", [9, 2, 4], [5], "overwrite",
         ["exclusion-ignored"]),
        ("overwrite, symmetric", "4:channel:8:sym", [9, 1, 4], [3], "overwrite",
         ["exclusion-ignored"]),
        ("overwrite, rotated with norms", "2:channel:8:had", [9, 1, 4], [3], "overwrite",
         ["exclusion-ignored"]),
        ("overwrite, nf4", "nf4:channel:8", [9, 1, 4], [3], "overwrite", ["exclusion-ignored"]),
        ("overwrite, e4m3", "e4m3:channel:8", [9, 1, 4], [3], "overwrite", ["exclusion-ignored"]),
        ("exclude only, 2 bits", "2:channel:8", [19, 1, 4], [6, 17], "exclude-only",
         ["exclude-only-in-range", "exclude-only-wraps"]),
        ("exclude only, channel:all", "4:channel:all", [9, 2, 4], [5], "exclude-only",
         ["exclude-only-in-range", "exclude-only-wraps"]),
        ("exclude only, symmetric", "4:channel:8:sym", [9, 1, 4], [3], "exclude-only",
         ["exclude-only-in-range"]),
        ("exclude only, rotated with norms", "2:channel:8:had:norm", [9, 1, 4], [3],
         "exclude-only", ["exclusion-ignored"]),
        ("exclude only, nf4", "nf4:channel:8", [9, 1, 4], [3], "exclude-only",
         ["exclude-only-in-range"]),
        ("exclude only, e4m3", "e4m3:channel:8", [9, 1, 4], [3], "exclude-only",
         ["exclude-only-in-range"]),
        ("exclude only, kivi", "2:channel:4:kivi", [8, 1, 4], [5], "exclude-only",
         ["exclude-only-in-range"]),
        ("exclude only, outliers", "2:channel:8:out20", [21, 1, 4], [6], "exclude-only",
         ["exclusion-ignored"]),
        ("exclude only, per token", "2:token:4", [5, 2, 4], [3], "exclude-only",
         ["exclusion-ignored"]),
        ("exclude only, token:all", "3:token:all", [3, 2, 4], [1], "exclude-only",
         ["exclusion-ignored"]),
        ("exclude only, q4_0", "q4_0", [2, 1, 32], [1], "exclude-only", ["exclusion-ignored"]),
        ("exclude only, all of a group", "2:channel:2", [6, 1, 4], [2, 3], "exclude-only", []),
    ):
        x = planted(random, shape, kept, (shape[1] - 1, 1), 3.0)
        file.add(name, text, shape, x, kept, ["outlier-channel"], must, exclusion=exclusion)
    yield file


def kivi_files():
    names = [n for n in anyformat.MISTAKES if n.startswith("kivi-")]
    for axis in ("channel", "token"):
        mistakes = names + ["kept-is-half"]
        mistakes += ["kept-but-in-statistics"] if axis == "channel" else []
        file = File("kivi_" + axis, {"flags": "kivi", "axis": axis}, mistakes)
        random = Random("kivi " + axis)
        for bits in (2, 4):
            text = "%d:%s:8:kivi" % (bits, axis)
            f = Format(text)

            for wrong in names:
                values = kivi_group(random, f, wrong)
                if values:
                    shape, x = lay(both_halves(values), axis, 8)
                    file.add("%d bits, %s" % (bits, wrong[5:].replace("-", " ")), text, shape, x,
                             [], [], [wrong])
            shape, x = lay([[f32(1 / 3)] * 8, [0.0] * 8], axis, 8)
            file.add("%d bits, constant" % bits, text, shape, x, [], ["no-sink"])
            tiny = 2.0**-24
            shape, x = lay([[tiny * (k % 2) for k in range(8)],
                            [1 + 2.0**-10 * (k % 3) for k in range(8)]], axis, 8)
            file.add("%d bits, nearly constant" % bits, text, shape, x)
            shape = [19, 1, 4] if axis == "channel" else [5, 2, 8]
            x = planted(random, shape, [3], (shape[1] - 1, 1), 1.0, True)
            file.add("%d bits, a sink" % bits, text, shape, x, [3], ["outlier-channel"])
        wide = [60000.0, -60000.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
        shape, x = lay([wide, wide], axis, 8)
        file.add("range beyond half", "2:%s:8:kivi" % axis, shape, x, [], ["half-overflow"])
        wide = [32752.0, -32752.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
        shape, x = lay([wide, wide], axis, 8)
        file.add("largest code beyond half", "2:%s:8:kivi" % axis, shape, x, [], ["half-overflow"])
        wide = [32000.0, -32000.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
        shape, x = lay([wide, wide], axis, 8)
        file.add("range within half", "2:%s:8:kivi" % axis, shape, x)
        yield file


def kivi_group(random, f, wrong):
    """Eight values for which the mistake shows."""

    def result(values, mistake):
        if mistake != "kivi-row-not-half":
            values = [half(v) for v in values]
        fit = anyformat.kivi_fit(values, f.bits, mistake)
        codes = [anyformat.kivi_code(v, f.bits, fit, mistake) for v in values]
        back = [anyformat.kivi_value(c, fit, mistake) for c in codes]
        return codes if wrong == "kivi-quotient-not-half" else (half(fit[0]), codes, back)

    low = 0.0 if wrong == "kivi-quotient-not-half" else -1.0
    return search(
        lambda: [random.fine(low, 1.0) for _ in range(8)],
        lambda values: result(values, "") != result(values, wrong),
    )


def files():
    yield from nf_files()
    yield from e4m3_files()
    yield from block_files()
    yield from hadamard_file()
    yield from rotation_files()
    yield from outlier_files()
    yield from static_file()
    yield from exclusion_file()
    yield from kivi_files()
