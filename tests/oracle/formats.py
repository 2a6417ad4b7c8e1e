"""The FORMAT grammar of CONTRACT 2.

    KIND:AXIS:GROUP[:sym][:pre][:had][:norm][:static][:outP][:kivi]
        KIND 2 3 4 8, nf2 nf3 nf4, e4m3; AXIS channel or token; GROUP a number or `all`
    q4_0 q4_1 q5_0 q5_1 q8_0 [:pre][:had]
    f16 | bf16 | f32 [:pre]

Flags come in any order, each at most once.  P has at most three decimals and lies in 0..50; it is
kept as a whole number of thousandths of a percent, because floor(n * P / 200) has to be exact.
Whether a format fits is asked of a side (keys or values), a head size and a number of KV heads:

    pre     keys only                         had     the head size is a power of two
    token:G G divides the head size           q4_0 .. a row of all KV heads is a multiple of 32
    sym     integers only                     out     integers only
    norm, static, out, kivi                   never with q4_0 ..
    kivi    asymmetric integers, without had, norm, static, out
    static  without had, norm, out
"""

from exact import Refused
from suite import VectorFile

NOTES = {
    "malformed": "The string must be refused as a usage error.",
    "group-does-not-divide": "`token:G` needs a G that divides the head size.",
    "pre-on-values": "`pre` means keys before RoPE; values have no RoPE.",
    "flag-order": "Flags may come in any order.",
    "flag-twice": "A flag may be given once.",
    "flag-combination": "Each word is known, but they exclude each other.",
    "had-needs-power-of-two": "`had` needs a head size that is a power of two.",
    "block-of-32": (
        "llama.cpp's kinds cut the row of all KV heads into blocks of 32, so Hk * D must be a "
        "multiple of 32; the head size alone need not."
    ),
    "percent": "P is a decimal number from 0 to 50 with at most three decimals.",
}

PLAIN = {"f16": 16, "bf16": 16, "f32": 32}
BLOCKS = {"q4_0": 4, "q4_1": 4, "q5_0": 5, "q5_1": 5, "q8_0": 8}
GROUPED = {
    "2": ("integer", 2),
    "3": ("integer", 3),
    "4": ("integer", 4),
    "8": ("integer", 8),
    "nf2": ("nf", 2),
    "nf3": ("nf", 3),
    "nf4": ("nf", 4),
    "e4m3": ("e4m3", 8),
}
FLAGS = ("sym", "pre", "had", "norm", "static", "kivi")


class Format:
    """A parsed format; `group` 0 means all, `outliers` None means no outP."""

    def __init__(self, text):
        parts = text.split(":")
        self.text, self.kind, self.bits, self.axis, self.group = text, parts[0], 0, "none", 0
        self.flags, self.outliers = set(), None
        words = parts[1:]
        if self.kind in PLAIN:
            self.bits = PLAIN[self.kind]
        elif self.kind in BLOCKS:
            self.bits = BLOCKS[self.kind]
        elif self.kind in GROUPED:
            self.kind, self.bits = GROUPED[self.kind]
            if len(parts) < 3 or parts[1] not in ("channel", "token"):
                raise Refused("usage", "an axis and a group are expected, as in 2:channel:32")
            self.axis, self.group, words = parts[1], group_of(parts[2]), parts[3:]
        else:
            raise Refused("usage", "unknown format '%s'" % self.kind)
        for word in words:
            self.add(word)
        self.combine()

    def add(self, word):
        name = "out" if word.startswith("out") else word
        if name not in FLAGS and name != "out":
            raise Refused("usage", "unknown word '%s' in '%s'" % (word, self.text))
        if name in self.flags:
            raise Refused("usage", "'%s' is given twice" % name)
        self.flags.add(name)
        if name == "out":
            self.outliers = thousandths(word[3:])

    def combine(self):
        flags = self.flags
        allowed = set(FLAGS) | {"out"}
        if self.kind in PLAIN:
            allowed = {"pre"}
        elif self.kind in BLOCKS:
            allowed = {"pre", "had"}
        elif self.kind != "integer":
            allowed -= {"sym", "out", "kivi"}
        if "kivi" in flags:
            allowed -= {"had", "norm", "static", "out", "sym"}
        if "static" in flags:
            allowed -= {"had", "norm", "out"}
        if flags - allowed:
            raise Refused("usage", "'%s' cannot stand here" % sorted(flags - allowed)[0])

    def has(self, flag):
        return flag in self.flags

    def codes(self):
        """Whether the format has codes at all."""
        return self.kind not in PLAIN

    def check(self, side, heads, size):
        """Whether it fits a side of a model."""
        if self.has("pre") and side == "values":
            raise Refused("usage", "'pre' means nothing on values")
        if self.axis == "token" and self.group and size % self.group:
            raise Refused(
                "usage", "group %d does not divide the head size %d" % (self.group, size)
            )
        if self.has("had") and size & (size - 1):
            raise Refused("usage", "had: the head size %d is not a power of two" % size)
        if self.kind in BLOCKS and heads * size % 32:
            raise Refused("usage", "a row of %d is not a multiple of 32" % (heads * size))
        return self


def group_of(text):
    if text == "all":
        return 0
    if not (text.isdigit() and int(text) > 0):
        raise Refused("usage", "group '%s': a positive number or 'all' is expected" % text)
    return int(text)


def thousandths(text):
    """P in thousandths of a percent."""
    whole, point, fraction = text.partition(".")
    digits = whole + fraction
    if not whole or (point and not fraction) or not all("0" <= c <= "9" for c in digits):
        raise Refused("usage", "out: a percentage was expected, found '%s'" % text)
    if len(fraction) > 3:
        raise Refused("usage", "out: at most three decimals, found '%s'" % text)
    value = int(whole) * 1000 + int((fraction + "000")[:3])
    if value > 50000:
        raise Refused("usage", "out: at most 50 percent, found '%s'" % text)
    return value


def oracle(inputs, wrong=""):
    f = Format(inputs["format"])
    f.check(inputs["side"], inputs.get("kvHeads", 1), inputs["headSize"])
    return {
        "kind": f.kind,
        "bits": f.bits,
        "axis": f.axis,
        "group": f.group,
        "symmetric": f.has("sym"),
        "pre": f.has("pre"),
        "hadamard": f.has("had"),
        "norm": f.has("norm"),
        "static": f.has("static"),
        "kivi": f.has("kivi"),
        "outliers": f.outliers or 0,
    }


ACCEPTED = (
    ("2:channel:32", 64),
    ("3:channel:8:sym", 64),
    ("4:token:64", 64),
    ("8:token:16:sym", 64),
    ("2:channel:all", 64),
    ("4:token:all", 64),
    ("8:channel:128", 64),
    ("2:token:8", 8),
    ("f16", 64),
    ("bf16", 64),
    ("f32", 64),
    ("nf2:channel:32", 64),
    ("nf3:token:16", 64),
    ("nf4:token:all", 64),
    ("e4m3:channel:all", 64),
    ("e4m3:token:64", 64),
    ("q4_0", 64),
    ("q4_1", 64),
    ("q5_0", 64),
    ("q5_1", 64),
    ("q8_0", 64),
    ("f16:pre", 64),
    ("f32:pre", 64),
    ("2:channel:32:pre", 64),
    ("4:token:64:had", 64),
    ("2:channel:32:norm", 96),
    ("8:token:all:static", 64),
    ("4:channel:32:static:sym", 64),
    ("2:channel:32:kivi", 64),
    ("4:token:32:kivi", 64),
    ("2:channel:32:out1", 64),
    ("2:channel:32:out0", 64),
    ("2:token:64:out0.1", 64),
    ("2:token:64:out0.125", 64),
    ("4:token:32:out50", 64),
    ("4:token:32:out50.000", 64),
    ("4:token:32:out12.5:sym", 64),
    ("nf4:channel:32:had:norm", 128),
    ("e4m3:token:32:static", 64),
    ("e4m3:channel:32:pre:norm", 64),
    ("q4_0:had", 64),
    ("q8_0:pre:had", 128),
    ("2:channel:1048576", 64),
)
ANY_ORDER = (
    ("2:channel:32:out1:norm:had:pre:sym", 64),
    ("2:channel:32:had:sym:norm:pre:out1", 64),
    ("q4_0:had:pre", 64),
    ("4:channel:32:kivi:pre", 64),
)
TWICE = (
    "2:channel:32:sym:sym",
    "2:channel:32:had:norm:had",
    "2:channel:32:out1:out1",
    "2:channel:32:out1:out2",
    "q4_0:had:had",
    "f16:pre:pre",
)
COMBINATIONS = (
    "nf4:token:64:sym",
    "nf4:token:64:out1",
    "nf4:token:64:kivi",
    "e4m3:token:64:sym",
    "e4m3:channel:32:out0.5",
    "e4m3:channel:32:kivi",
    "q4_0:sym",
    "q4_0:norm",
    "q8_0:static",
    "q4_1:out1",
    "q5_0:kivi",
    "f16:had",
    "bf16:norm",
    "f32:static",
    "f16:out1",
    "f16:sym",
    "f16:kivi",
    "2:channel:32:sym:kivi",
    "2:channel:32:kivi:had",
    "2:channel:32:norm:kivi",
    "2:channel:32:kivi:static",
    "2:channel:32:out1:kivi",
    "2:channel:32:static:had",
    "2:channel:32:norm:static",
    "2:channel:32:static:out1",
)
PERCENTAGES = (
    "2:channel:32:out",
    "2:channel:32:outx",
    "2:channel:32:out-1",
    "2:channel:32:out+1",
    "2:channel:32:out 1",
    "2:channel:32:out1%",
    "2:channel:32:out51",
    "2:channel:32:out50.001",
    "2:channel:32:out0.1234",
    "2:channel:32:out1e1",
    "2:channel:32:out0,5",
    "2:channel:32:out1.0.0",
)
MALFORMED = (
    "",
    " ",
    "2",
    "2:",
    "2:channel",
    "2:channel:",
    "2:channel:0",
    "2:channel:-8",
    "2:channel:x",
    "2:channel:8x",
    "2:channel:3.5",
    "2:channel:ALL",
    "2:diagonal:32",
    "2:Token:32",
    "channel:2:32",
    "0:channel:32",
    "1:channel:32",
    "5:channel:32",
    "16:channel:32",
    "int2:channel:32",
    "2:channel:32:",
    "2:channel:32:symm",
    "2:channel:32:asym",
    "2:sym:channel:32",
    "2:channel:32:Had",
    "2:channel:32:hadamard",
    "2:channel:32::sym",
    "2:channel:32:normal",
    "2:channel:32:overwrite",
    "2:channel:32:kivi-2",
    "2:channel:32:1",
    "f16:channel:32",
    "fp16",
    "f64",
    "q4_0:token:32",
    "q4_0:32",
    "q8_0:channel:all",
    "q4",
    "q4_2",
    "q6_0",
    "q8_1",
    "Q4_0",
    "iq4_nl",
    "nf4",
    "nf4:all",
    "nf1:token:64",
    "nf5:token:64",
    "nf8:token:64",
    "nf:token:64",
    "NF4:token:64",
    "e4m3",
    "e4m3fn:token:64",
    "e5m2:token:64",
    "E4M3:token:64",
    "kivi",
    "kivi-2",
    " 2:channel:32",
    "2:channel:32 ",
    "2,channel,32",
    "2::32",
)
DIVIDES_NOT = (
    ("2:token:24", 64),
    ("2:token:128", 64),
    ("4:token:64", 32),
    ("nf4:token:48", 64),
    ("e4m3:token:7", 64),
    ("2:token:64:kivi", 32),
)
PRE_ON_VALUES = ("2:channel:32:pre", "f16:pre", "q4_0:pre", "nf4:token:64:pre", "f32:pre")
NO_POWER = (
    ("2:token:all:had", 96),
    ("q4_0:had", 96),
    ("nf4:channel:32:had:norm", 80),
    ("e4m3:channel:32:had", 192),
)


def files():
    file = VectorFile("format_grammar", "format_grammar", {}, oracle, NOTES)

    def case(text, flags=(), side="keys", size=64, heads=None, accept=False):
        inputs = {"format": text, "side": side, "headSize": size}
        if heads:
            inputs["kvHeads"] = heads
        name = "%s '%s'" % ("accept" if accept else "refuse", text)
        name += "" if side == "keys" else " on values"
        name += "" if size == 64 and not heads else " for %sheads of %d" % (
            "%d " % heads if heads else "", size,
        )
        file.case(name, inputs, flags)
        assert ("out" in file.cases[-1]) == accept, name

    for text, size in ACCEPTED:
        case(text, size=size, accept=True)
    for text, size in ANY_ORDER:
        case(text, ["flag-order"], size=size, accept=True)
    case("2:token:32:had:norm", side="values", accept=True)
    case("q4_0:had", side="values", accept=True)
    case("2:token:64:out1", side="values", accept=True)
    for size, heads in ((16, 2), (24, 4), (64, 1), (8, 4), (16, 6)):
        case("q4_0", ["block-of-32"], size=size, heads=heads, accept=True)
    for text in MALFORMED:
        case(text, ["malformed"])
    for text in TWICE:
        case(text, ["flag-twice"])
    for text in COMBINATIONS:
        case(text, ["flag-combination"])
    for text in PERCENTAGES:
        case(text, ["percent"])
    for text, size in DIVIDES_NOT:
        case(text, ["group-does-not-divide"], size=size)
    for text in PRE_ON_VALUES:
        case(text, ["pre-on-values"], side="values")
    for text, size in NO_POWER:
        case(text, ["had-needs-power-of-two"], size=size)
    for kind in sorted(BLOCKS):
        case(kind, ["block-of-32"], size=24, heads=1)
    case("q4_0", ["block-of-32"], size=16, heads=3)
    yield file
