"""Every format in the packed cache over its history: what waits, what is read, what it weighs.

Ageing of all formats but kivi is as in cache.py.  kivi ages as KIVI does (SPEC A.1), with R rows
waiting at most at the end of a step, kept rows among them counted:

    per channel   before a token is pushed, if R rows wait, all R are quantized (R is a multiple of
                  the group)
    per token     before a token is pushed, if R + 1 rows wait, the oldest is quantized
    settle        the same without a push: a block of R is quantized, and the oldest until R wait;
                  so after a prefill of T tokens T mod R keys and min(T, R) values wait

Bytes beside those of cache.py:

    nf, e4m3      packed words of their bits, 2 per scale, no minimum
    q4_0 ..       18, 20, 22, 24, 34 per block of 32, holes included
    norm          4 per token of the quantized area, holes included
    static        nothing per group: the constants belong to the model
    outP          4 per outlier

What a reader gets (`keysRead`, `valuesRead`) is on the format's side of RoPE: x^ in the quantized
area, the binary16 row of kept and waiting tokens, the rows themselves of f16, bf16, f32.  Outliers
of keys need the whole window: nothing is quantized before it is sealed, and in a stream outP with
P > 0 is refused for keys.
"""

import anyformat
import blocks
from cache import PLAIN
from exact import Random, Refused, bfloat16, half, stored_half
from formats import Format
from quantize import planted
from suite import VectorFile

MISTAKES = {
    "kivi-flushed-too-early": (
        "The block is quantized in the step that completes it, before the next token comes."
    ),
    "kivi-keys-in-groups": (
        "Keys age group by group behind the newest R tokens, as the other formats do, instead of "
        "in blocks of R."
    ),
    "kivi-values-in-blocks": "Values are flushed in blocks of R instead of one by one.",
    "kivi-kept-not-counted": "Kept tokens do not count among the R rows that wait.",
    "kivi-prefill-keeps-r": "A prefill leaves min(T, R) keys waiting instead of T mod R.",
    "kivi-off-by-one": "One row more waits: the block is flushed with R + 1, values with R + 2.",
    "kept-but-in-statistics": "The kept row still takes part in its group's minimum and maximum.",
    "rounded-on-arrival": "Rows are not rounded to binary16 when they arrive.",
    "waiting-rows-rotated": "Waiting rows are plain rows; here they are rotated and read so.",
    "kept-rows-normed": "Kept rows are stored divided by their norm.",
    "minimum-counted": "A kind without a minimum pays for one.",
    "norm-not-counted": "The 4 bytes of each token's norm are not counted.",
    "static-counted": "Scale and minimum of a static format are counted in every group.",
    "outliers-not-counted": "The 4 bytes of each outlier are not counted.",
    "blocks-as-groups": "llama.cpp's blocks are counted as codes alone, without d and m.",
    "holes-not-stored": "Bytes leave out the codes of kept positions; a hole costs its place.",
}
DESCRIPTIONS = {
    "append-one": "Every append brings one token.",
    "append-many": "One append brings all tokens.",
    "append-mixed": "Appends of different sizes.",
    "settled": "The cache is settled after the prefill, as the end of a prefill demands.",
    "sink-not-first": "A kept position that is not 0.",
    "no-sink": "No kept position.",
    "whole-window-only": "Outliers of keys need the whole window.",
    "zero-outliers": "P = 0 needs no window.",
}
NOTES = dict(MISTAKES, **DESCRIPTIONS)
SIDES = ("keys", "values")


class Side:
    """The keys or the values of one cache."""

    def __init__(self, inputs, side, wrong):
        self.name, self.wrong = side, wrong
        self.heads, self.size = inputs["shape"]
        self.width = self.heads * self.size
        self.f = Format(inputs[side]).check(side, self.heads, self.size)
        self.recent = inputs["recent"]
        self.lo, self.hi = inputs.get(side + "Lo"), inputs.get(side + "Hi")
        self.kept_ever = set(inputs["kept"])
        self.rows, self.tokens, self.area = [], 0, 0
        f, window = self.f, inputs["window"]
        if f.outliers and side == "keys" and not window:
            raise Refused("usage", "outliers of keys need the whole window")
        if f.axis == "channel" and not f.group and not window:
            raise Refused("usage", "channel:all needs a whole window")
        if f.has("kivi") and f.axis == "channel" and (not f.group or self.recent % f.group):
            raise Refused("usage", "kivi: R = %d is no multiple of the group" % self.recent)
        if f.has("static") and self.lo is None:
            raise Refused("usage", "static needs constants")

    def kept(self):
        return sorted(p for p in self.kept_ever if p < self.tokens)

    def waiting(self):
        """Rows that wait, as KIVI counts them."""
        count = self.tokens - self.area
        if self.wrong == "kivi-kept-not-counted":
            count -= len([p for p in self.kept() if p >= self.area])
        return count

    def arrive(self, x):
        if self.f.kind == "f32":
            return x
        if self.f.kind == "bf16":
            return bfloat16(x)
        rounded = stored_half(x, self.name)
        return x if self.wrong == "rounded-on-arrival" else rounded

    def block_flush(self):
        """Whether kivi's block rule holds for this side, and the R it goes by."""
        blocks_of_r = self.f.axis == "channel"
        if self.wrong == "kivi-values-in-blocks":
            blocks_of_r = True
        return blocks_of_r, self.recent + (self.wrong == "kivi-off-by-one")

    def push(self, row):
        if self.f.has("kivi") and self.wrong != "kivi-flushed-too-early":
            self.flush()
        self.rows += [self.arrive(v) for v in row]
        self.tokens += 1
        if self.f.has("kivi"):
            if self.wrong == "kivi-flushed-too-early":
                self.flush()
        else:
            self.age(False)

    def flush(self):
        in_blocks, r = self.block_flush()
        if self.wrong == "kivi-keys-in-groups" and self.f.axis == "channel":
            group = self.f.group
            aged = max(0, self.tokens - r) // group * group
            self.area = max(self.area, aged)
        elif in_blocks:
            if self.waiting() >= r > 0:
                self.area = self.tokens
        else:
            while self.waiting() > r:
                self.area += 1

    def settle(self):
        if self.f.has("kivi"):
            if self.wrong == "kivi-prefill-keeps-r" and self.f.axis == "channel":
                return
            self.flush()

    def age(self, sealed):
        """Formats without kivi: see cache.py."""
        f = self.f
        if not f.codes():
            return
        aged = self.tokens if sealed else max(0, self.tokens - self.recent)
        if f.outliers and self.name == "keys" and not sealed:
            aged = 0
        if f.axis == "channel" and not sealed:
            aged = aged // f.group * f.group if f.group else 0
        self.area = max(self.area, aged)

    def recent_positions(self):
        if not self.f.codes():
            return []
        return [p for p in range(self.area, self.tokens) if p not in self.kept_ever]

    def quantized(self):
        shape = [self.area, self.heads, self.size]
        kept = [p for p in self.kept() if p < self.area]
        x = self.rows[: self.area * self.width]
        return anyformat.quantize(
            x, shape, self.f, kept, self.name, "both", self.lo, self.hi, self.wrong
        )

    def read(self):
        out = list(self.rows)
        if not self.f.codes():
            return out
        if self.area:
            out[: self.area * self.width] = self.quantized().dequant
        for t in range(self.tokens):
            first = t * self.width
            if t < self.area and t not in self.kept_ever:
                continue
            row = [half(v) for v in self.rows[first : first + self.width]]
            if self.wrong == "waiting-rows-rotated" and self.f.has("had"):
                if t not in self.kept_ever:
                    row = anyformat.rotate(row, [1, self.heads, self.size])
            if self.wrong == "kept-rows-normed" and self.f.has("norm") and t in self.kept_ever:
                n = anyformat.token_norm(row)
                row = [half(half(v / n) * n) for v in row]
            out[first : first + self.width] = row
        return out

    def code_bytes(self):
        """Codes, scales, minima, norms and outliers of the quantized area."""
        f, holes = self.f, [p for p in self.kept() if p < self.area]
        if f.kind in blocks.BITS:
            each = blocks.BYTES[f.kind]
            if self.wrong == "blocks-as-groups":
                each = 4 * blocks.BITS[f.kind]
            total = each * self.width // 32 * self.area
            if self.wrong == "holes-not-stored":
                total -= each * self.width // 32 * len(holes)
            return total
        total, groups = 0, 0
        if self.area:
            for group in anyformat.grouped(f, [self.area, self.heads, self.size]):
                total += -(-len(group) * f.bits // 32) * 4
                groups += 1
        pair = 4 if f.kind == "integer" and not f.has("sym") else 2
        if self.wrong == "minimum-counted":
            pair = 4
        if not f.has("static") or self.wrong == "static-counted":
            total += pair * groups
        if f.has("norm") and self.wrong != "norm-not-counted":
            total += 4 * self.area
        if f.has("out") and self.area and self.wrong != "outliers-not-counted":
            total += 4 * len(self.quantized().outliers)
        if self.wrong == "holes-not-stored":
            total -= len(holes) * self.width * f.bits // 8
        return total

    def bytes(self):
        f = self.f
        if not f.codes():
            return PLAIN[f.kind] * self.tokens * self.width
        rows = len(self.kept()) + len(self.recent_positions())
        return self.code_bytes() + 2 * self.width * rows


def step_of(sides):
    keys, values = sides
    coded = any(side.f.codes() for side in sides)
    kept = keys.kept() if coded else []
    return {
        "tokens": keys.tokens,
        "keysQuantized": keys.area,
        "valuesQuantized": values.area,
        "keysRecent": keys.recent_positions(),
        "valuesRecent": values.recent_positions(),
        "kept": kept,
        "bytes": keys.bytes() + values.bytes() + 4 * len(kept),
    }


def oracle(inputs, wrong=""):
    sides = [Side(inputs, side, wrong) for side in SIDES]
    width, first, steps = sides[0].width, 0, []
    for count, settle in zip(inputs["appends"], inputs["settles"]):
        for t in range(first, first + count):
            for side, name in zip(sides, ("K", "V")):
                side.push(inputs[name][t * width : (t + 1) * width])
        for side in sides if settle else []:
            side.settle()
        first += count
        steps.append(step_of(sides))
    if inputs["window"]:
        for side in sides:
            side.age(True)
        steps.append(step_of(sides))
    return {"steps": steps, "keysRead": sides[0].read(), "valuesRead": sides[1].read()}


# ---- cases ----


def add(file, name, keys, values, recent, shape, kept, appends, settles=None, window=False,
        flags=(), must=(), offset=3.0, **more):
    tokens = sum(appends)
    full, outlier = [tokens] + shape, (shape[0] - 1, 1)
    settles = [1 if i in (settles or ()) else 0 for i in range(len(appends))]
    inputs = {
        "keys": keys,
        "values": values,
        "recent": recent,
        "shape": shape,
        "window": window,
        "kept": kept,
        "appends": appends,
        "settles": settles,
        "K": planted(Random("history K"), full, kept, outlier, offset),
        "V": planted(Random("history V"), full, kept, None, 1.0),
    }
    inputs.update(more)
    flags = list(flags) + (["sink-not-first"] if any(kept) else [] if kept else ["no-sink"])
    flags += ["settled"] if any(settles) else []
    if tokens:
        ones = all(n == 1 for n in appends)
        flags.append("append-one" if ones else "append-many" if len(appends) == 1
                     else "append-mixed")
    file.case(name, inputs, flags, must)


def kivi_cases(file):
    keys, values, r = "2:channel:4:kivi", "2:token:4:kivi", 8
    for tokens in (1, r - 1, r, r + 1, 2 * r + 3):
        kept = [5] if tokens > 5 else []
        must = ["kivi-prefill-keeps-r"] if tokens in (r, 2 * r + 3) else []
        must = [] if tokens < r else must
        add(file, "prefill of %d, then 3 tokens" % tokens, keys, values, r, [1, 4], kept,
            [tokens, 1, 1, 1], [0], must=must if tokens == r else [])
    add(file, "prefill of 0, then 10 tokens", keys, values, r, [1, 4], [6], [0] + [1] * 10, [0],
        must=["kivi-keys-in-groups"])
    sequence = [("one by one", [1] * 21), ("at once", [21]), ("mixed", [5, 1, 7, 1, 1, 6])]
    for name, appends in sequence:
        must = ["kivi-keys-in-groups", "kivi-values-in-blocks", "kivi-kept-not-counted",
                "kivi-off-by-one", "kept-but-in-statistics"]
        if len(appends) > 6:
            must.append("kivi-flushed-too-early")
        add(file, "21 tokens " + name, keys, values, r, [1, 4], [5, 10], appends, must=must)
    add(file, "settled after every step", keys, values, r, [1, 4], [5], [9, 1, 1, 1, 1, 1, 1, 1, 1],
        range(9), must=["kivi-off-by-one"])
    add(file, "4 bits, two heads, R twice the group", "4:channel:8:kivi", "4:token:8:kivi", 16,
        [2, 8], [3, 17], [18, 1, 15], [0], must=["kivi-keys-in-groups"])
    add(file, "R equal to the group", "2:channel:4:kivi", "2:token:2:kivi", 4, [1, 4], [2],
        [3, 1, 1, 4], [0])
    add(file, "a block all kept", "2:channel:4:kivi", "2:token:4:kivi", 4, [1, 4], [4, 5, 6, 7],
        [9, 1], [0])
    add(file, "kivi keys only", "2:channel:4:kivi", "4:token:4", 8, [1, 4], [3], [12, 1, 6], [0])
    add(file, "kivi values only", "f16", "2:token:4:kivi", 3, [1, 4], [2], [5, 1, 1], [0])
    add(file, "R is no multiple of the group", keys, values, 6, [1, 4], [], [8])
    add(file, "R of values alone need not be one", "f16", values, 5, [1, 4], [1], [7], [0])


def kind_cases(file):
    """A stream and a sealed window of every kind."""
    plans = [
        ("nf4", "nf4:channel:8", "nf4:token:4", ["minimum-counted"]),
        ("nf2, nf3", "nf2:channel:8", "nf3:token:2", ["minimum-counted"]),
        ("e4m3", "e4m3:channel:8", "e4m3:token:4", ["minimum-counted"]),
        ("e4m3 and nf4, token:all", "e4m3:token:all", "nf4:token:all", ["minimum-counted"]),
        ("had", "2:channel:8:had", "2:token:4:had", ["waiting-rows-rotated"]),
        ("had and norm, as OScaR", "2:channel:8:had:norm", "2:token:4:had", ["norm-not-counted"]),
        ("norm per token", "4:token:4:norm", "3:token:4:norm", ["norm-not-counted",
                                                                "kept-rows-normed"]),
        ("before RoPE", "2:token:4:pre:had", "2:token:4:had", []),
        ("outliers of values", "2:channel:8", "2:token:4:out30", ["outliers-not-counted"]),
        ("outliers of values, rotated", "2:channel:8:out0", "2:token:4:had:out30", []),
        ("symmetric", "4:channel:8:sym", "8:token:all:sym", ["minimum-counted"]),
        ("3 bits", "3:channel:8", "3:token:4", ["kept-but-in-statistics"]),
        ("f16 before RoPE", "f16:pre", "bf16", []),
        ("bf16 and f32", "bf16:pre", "f32", []),
    ]
    for name, keys, values, must in plans:
        must = must + (["holes-not-stored"] if "f16" not in keys and "bf16" not in keys else [])
        add(file, name, keys, values, 2, [2, 4], [5, 11], [7, 1, 1, 4], must=must,
            flags=["zero-outliers"] if "out0" in keys else [])
        if "channel" in keys:
            add(file, name + ", sealed", keys, values, 0, [2, 4], [5], [9], window=True)
    for kind in sorted(blocks.BITS):
        add(file, kind, kind, kind, 1, [2, 16], [1], [2, 1, 1], must=["blocks-as-groups",
                                                                   "holes-not-stored"])
    add(file, "q8_0 and q4_0 rotated, sealed", "q8_0:had", "q4_0:had", 0, [2, 16], [1], [3],
        window=True)
    add(file, "outliers of keys, sealed", "2:channel:8:out20", "2:token:8", 0, [1, 8], [4, 9], [13],
        window=True, must=["outliers-not-counted"])
    add(file, "outliers of keys with norms, sealed", "2:channel:all:had:norm:out25", "2:token:8", 0,
        [1, 8], [4], [11], window=True, must=["outliers-not-counted"])
    add(file, "outliers of keys in a stream", "2:channel:8:out1", "2:token:8", 0, [1, 8], [], [9],
        flags=["whole-window-only"])
    constants = {
        "keysLo": [float(-c - 1) for c in range(8)],
        "keysHi": [float(c + 6) for c in range(8)],
        "valuesLo": [-2.0] * 8,
        "valuesHi": [2.5 + 0.5 * c for c in range(8)],
    }
    add(file, "static", "2:channel:8:static", "4:token:4:static", 3, [1, 8], [5], [7, 1, 9],
        must=["static-counted"], **constants)
    add(file, "static, sealed", "4:token:8:static:sym", "2:channel:all:static", 0, [1, 8], [5], [9],
        window=True, must=["static-counted"], **constants)
    add(file, "static, other kinds", "nf4:channel:4:static", "e4m3:token:all:static", 2, [1, 8],
        [5], [6, 4], must=["static-counted"], **constants)
    add(file, "static without constants", "2:channel:8:static", "f16", 3, [1, 8], [], [9])


def files():
    for name, fill in (("history_kivi", kivi_cases), ("history_kinds", kind_cases)):
        file = VectorFile(name, "history", {}, oracle, NOTES, list(MISTAKES))
        fill(file)
        yield file
