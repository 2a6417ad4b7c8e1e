"""Packing codes into 32-bit words: CONTRACT 3.

Element j of a group sits at bits [b*j, b*j + b) of a little-endian bit stream, so with three bits
an element may straddle two words.  Every group, a short last one too, is padded with zero bits to
whole words.  Here the stream is one big integer, the most literal reading of that sentence.
The order of the groups in a store (`layout`) is [token group][head][channel] for groups along
tokens and [token][head][group] for groups along channels.
"""

from exact import Random
from quantize import groups_of, parse_format
from suite import VectorFile

NOTES = {
    "no-straddle": "Ten 3-bit codes a word and two unused bits, instead of an unbroken bit stream.",
    "first-element-high": (
        "The first element is put into the highest bits of a word instead of the lowest."
    ),
    "no-padding": "The next group starts in the middle of a word instead of at a new one.",
    "full-last-group": "A short last group takes the room of a full one.",
    "tail-group": "The last group is shorter than the others.",
    "token-major": "Groups along tokens are stored as if they ran along channels.",
    "head-last": "The head runs fastest instead of the channel or the group.",
}


def words_of(codes, bits, wrong=""):
    """The words of one group."""
    if wrong == "no-straddle":
        per_word = 32 // bits
        return [join(codes[i : i + per_word], bits) for i in range(0, len(codes), per_word)]
    if wrong == "first-element-high":
        count = -(-len(codes) * bits // 32)
        stream = 0
        for code in codes:
            stream = stream << bits | code
        stream <<= 32 * count - bits * len(codes)
        return [stream >> 32 * (count - 1 - i) & 0xFFFFFFFF for i in range(count)]
    stream = join(codes, bits)
    return [stream >> 32 * i & 0xFFFFFFFF for i in range(-(-len(codes) * bits // 32))]


def join(codes, bits):
    stream = 0
    for j, code in enumerate(codes):
        stream |= code << bits * j
    return stream


def oracle(inputs, wrong=""):
    codes, length, bits = inputs["codes"], inputs["groupLength"], inputs["bits"]
    groups = [codes[i : i + length] for i in range(0, len(codes), length)]
    if wrong == "no-padding":
        groups = [codes]
    if wrong == "full-last-group":
        groups[-1] = groups[-1] + [0] * (length - len(groups[-1]))
    return {"words": [word for group in groups for word in words_of(group, bits, wrong)]}


def stored_words(codes, shape, text, wrong=""):
    """All words of a store in their order; codes are [tokens, heads, size]."""
    bits, axis, group, _ = parse_format(text)
    tokens, heads, size = shape
    groups = groups_of(axis, group, shape)
    if wrong == "token-major" and axis == "channel":
        groups = groups_of("token", size, shape)
    if wrong == "head-last":
        block = group or tokens
        order = {
            "channel": lambda g: (g[0][0] // block, g[0][2], g[0][1]),
            "token": lambda g: (g[0][0], g[0][2], g[0][1]),
        }
        groups = sorted(groups, key=order[axis])
    words = []
    for elements in groups:
        words += words_of([codes[(t * heads + h) * size + c] for t, h, c in elements], bits)
    return words


def layout_oracle(inputs, wrong=""):
    return {"words": stored_words(inputs["codes"], inputs["shape"], inputs["format"], wrong)}


def files():
    for bits in (2, 3, 4, 8):
        name = "packing_%d" % bits
        file = VectorFile(
            name,
            "packing",
            {"bits": bits},
            oracle,
            NOTES,
            ["no-straddle", "first-element-high", "no-padding", "full-last-group"],
        )
        random = Random(name)
        for length in (1, 10, 11, 21, 22, 31, 32, 33, 43):
            codes = random.many(length, random.below, 2**bits)
            codes[0] = codes[-1] = 2**bits - 1
            must = ["no-straddle"] if bits == 3 and length > 10 else []
            file.case(
                "one group of %d" % length,
                {"bits": bits, "groupLength": length, "codes": codes},
                [],
                must,
            )
        for length, count in ((11, 33), (10, 25), (32, 65)):
            codes = random.many(count, random.below, 2**bits)
            codes[-1] = 2**bits - 1
            flags = ["tail-group"] if count % length else []
            must = ["no-padding"] if length * bits % 32 else []
            if count % length and length * bits > 32:
                must.append("full-last-group")
            file.case(
                "%d codes in groups of %d" % (count, length),
                {"bits": bits, "groupLength": length, "codes": codes},
                flags,
                must,
            )
        file.case("all ones", {"bits": bits, "groupLength": 32, "codes": [2**bits - 1] * 32})
        yield file
    file = VectorFile("layout", "layout", {}, layout_oracle, NOTES, ["token-major", "head-last"])
    random = Random("layout")
    for text, shape in (
        ("2:channel:16", [37, 2, 4]),
        ("3:channel:32", [33, 2, 3]),
        ("8:channel:all", [5, 2, 3]),
        ("2:token:8", [3, 2, 16]),
        ("3:token:16", [2, 2, 32]),
        ("4:token:all", [3, 2, 6]),
        ("4:channel:32:sym", [1, 1, 4]),
        ("8:token:4:sym", [2, 3, 8]),
    ):
        bits = int(text[0])
        codes = random.many(shape[0] * shape[1] * shape[2], random.below, 2**bits)
        must = ["token-major"] if "channel" in text and shape[0] > 1 else []
        if shape[1] > 1 and "token:all" not in text:
            must.append("head-last")
        file.case(
            text + " of %d x %d x %d" % tuple(shape),
            {"format": text, "shape": shape, "codes": codes},
            [],
            must,
        )
    yield file
