"""The packed cache over its history: CONTRACT 6 (ageing, whole window) and 2 (groups by position).

A token is recent while fewer than R newer ones exist.  Per-token formats quantize it when it stops
being recent; per-channel formats quantize a group of G positions when its last token has.  So after
T tokens `area` positions are quantized: T - R for per-token, the whole groups of those for
per-channel, never less than zero.  One append of n equals n appends of one; this oracle appends
token by token and looks at no call's size.  Whole-window: R = 0, and `seal` quantizes the short
last group, which nothing may follow.

Rows are rounded to binary16 when they arrive (a bf16 side to bfloat16), before anything is computed
from them, so codes do not depend on how long a token waited.

Kept rows are stored once, as 16-bit rows, from the moment they are appended, never also as recent
rows; inside the quantized area they leave holes.  Bytes at a moment:

    4 per packed word, holes and padding included      2 per scale and minimum (none if symmetric)
    2 per element of every kept row, K and V           4 per kept position
    2 per element of every recent row, K and V         f16, bf16: 2 per element of every row; f32: 4

The 4 bytes are counted if a side is quantized.  Keys and values may have different areas.
"""

from exact import Random, Refused, bfloat16, half, half_bits, stored_half
from packing import stored_words
from quantize import parse_format, planted, quantize_array
from suite import VectorFile

MISTAKES = {
    "kept-but-in-statistics": "The kept row still takes part in its group's minimum and maximum.",
    "overwrite": (
        "Kept rows are overwritten by zeros before the statistics instead of being left out of "
        "them."
    ),
    "per-call-window": (
        "What is old is decided from the size of the current call: with appends of one nothing "
        "ever ages, with one big append the window is cut out of that append alone."
    ),
    "recent-off-by-one": "R counts the newest token wrongly: R + 1 rows stay recent.",
    "group-not-aged": (
        "A per-channel group is quantized as soon as it is full, although some of its tokens are "
        "still recent."
    ),
    "kept-counted-as-recent": "A kept row is stored a second time as a recent row.",
    "kept-do-not-age": (
        "Kept rows do not count as newer tokens, so the window reaches further back."
    ),
    "kept-rows-shift-groups": (
        "Kept rows are removed before groups are cut, instead of leaving holes."
    ),
    "holes-not-stored": "Bytes leave out the words of kept positions; a hole costs its code.",
    "one-index-per-side": "The 4 bytes of a kept position are counted for K and again for V.",
    "symmetric-minimum": "A symmetric format pays for a minimum that it does not store.",
    "padding-not-counted": "Bytes are counted from bits, without padding groups to words.",
    "group-across-sequences": "A group begun by the first sequence is filled up by the second one.",
    "rounded-on-arrival": (
        "Codes are computed from the float32 rows; a cache rounds rows to binary16 when they "
        "arrive, so that codes do not depend on how long a token waited."
    ),
    "seal-drops-tail": "The short last group stays recent when the window is sealed.",
}

DESCRIPTIONS = {
    "append-one": "Every append brings one token.",
    "append-many": "One append brings all tokens.",
    "append-mixed": "Appends of different sizes, some larger than a group, some smaller than R.",
    "two-sequences": "Two caches that share nothing.",
    "sink-not-first": "A kept position that is not 0.",
    "several-sinks": "More than one kept position.",
    "no-sink": "No kept position.",
    "all-kept": "A whole group is kept.",
    "n-larger-than-prompt": "Every position is kept.",
    "tail-group": "Sealing quantizes a short last group.",
    "not-quantized": "A side in f16, bf16 or f32: keep set and R mean nothing there.",
    "whole-window-only": "`channel:all` has one group, so only a sealed window can quantize it.",
}

NOTES = dict(MISTAKES, **DESCRIPTIONS)
PLAIN = {"f16": 2, "bf16": 2, "f32": 4}


def area_of(text, tokens, recent, sealed):
    """How many positions are quantized (kept ones among them included)."""
    if text in PLAIN:
        return 0
    aged = tokens if sealed else max(0, tokens - recent)
    _, axis, group, _ = parse_format(text)
    if axis == "token" or sealed:
        return aged
    return aged // group * group if group else 0


def packed_bytes(text, area, heads, size, kept, wrong):
    """Words, scales and minima of the quantized area."""
    if text in PLAIN or area == 0:
        return 0
    bits, axis, group, symmetric = parse_format(text)
    if axis == "token":
        lengths = [group or heads * size] * (area * (heads * size // (group or heads * size)))
    else:
        group = group or area
        lengths = [min(group, area - first) for first in range(0, area, group)] * (heads * size)
    words = sum(-(-n * bits // 32) for n in lengths) * 4
    if wrong == "padding-not-counted":
        words = -(-sum(lengths) * bits // 8)
    if wrong == "holes-not-stored":
        words -= len([p for p in kept if p < area]) * heads * size * bits // 8
    pair = 4 if not symmetric or wrong == "symmetric-minimum" else 2
    return words + pair * len(lengths)


class Sequence:
    """One cache: arrays so far, and how much of each side is quantized."""

    def __init__(self, inputs, kept, wrong):
        self.formats = {"keys": inputs["keys"], "values": inputs["values"]}
        self.heads, self.size = inputs["shape"]
        self.recent, self.wrong = inputs["recent"], wrong
        self.all_kept, self.tokens, self.sealed = set(kept), 0, False
        self.rows = {"keys": [], "values": []}
        self.area = {"keys": 0, "values": 0}

    def kept(self):
        return [p for p in sorted(self.all_kept) if p < self.tokens]

    def arrive(self, side, x):
        """Rows are rounded to the side's 16 bits before anything else looks at them."""
        text = self.formats[side]
        if text == "f32":
            return x
        if text == "bf16":
            return bfloat16(x)
        rounded = stored_half(x, side)
        return x if self.wrong == "rounded-on-arrival" else rounded

    def append(self, keys, values):
        """Any number of tokens, one by one."""
        width = self.heads * self.size
        keys = [self.arrive("keys", v) for v in keys]
        values = [self.arrive("values", v) for v in values]
        count = len(keys) // width
        for t in range(count):
            self.rows["keys"] += keys[t * width : (t + 1) * width]
            self.rows["values"] += values[t * width : (t + 1) * width]
            self.tokens += 1
            if self.wrong != "per-call-window":
                self.age(self.tokens)
        if self.wrong == "per-call-window":
            self.age(count)

    def age(self, tokens):
        for side, text in self.formats.items():
            recent = self.recent + (1 if self.wrong == "recent-off-by-one" else 0)
            if self.wrong == "kept-do-not-age":
                recent += len([p for p in self.kept() if p >= tokens - recent])
            if (
                self.wrong == "group-not-aged"
                and text not in PLAIN
                and parse_format(text)[1] == "channel"
            ):
                recent = 0
            self.area[side] = max(self.area[side], area_of(text, tokens, recent, self.sealed))

    def seal(self):
        self.sealed = self.wrong != "seal-drops-tail"
        self.age(self.tokens)

    def recent_positions(self, side):
        if self.formats[side] in PLAIN:
            return []
        kept = [] if self.wrong == "kept-counted-as-recent" else self.kept()
        return [p for p in range(self.area[side], self.tokens) if p not in kept]

    def bytes(self):
        total, quantized = 0, False
        for side, text in self.formats.items():
            if text in PLAIN:
                total += PLAIN[text] * self.tokens * self.heads * self.size
                continue
            if not quantized or self.wrong == "one-index-per-side":
                total += 4 * len(self.kept())
            quantized = True
            total += packed_bytes(
                text, self.area[side], self.heads, self.size, self.kept(), self.wrong
            )
            total += (
                2 * self.heads * self.size * (len(self.kept()) + len(self.recent_positions(side)))
            )
        return total

    def step(self):
        return {
            "tokens": self.tokens,
            "keysQuantized": self.area["keys"],
            "valuesQuantized": self.area["values"],
            "keysRecent": self.recent_positions("keys"),
            "valuesRecent": self.recent_positions("values"),
            "kept": self.kept() if self.quantizes() else [],
            "bytes": self.bytes(),
        }

    def quantizes(self):
        return any(text not in PLAIN for text in self.formats.values())

    def half_rows(self, side, positions):
        width = self.heads * self.size
        return [
            half_bits(half(v))
            for p in positions
            for v in self.rows[side][p * width : (p + 1) * width]
        ]

    def final(self, side):
        """Codes, words, scales, minima of the area; binary16 patterns of kept and recent rows."""
        text = self.formats[side]
        if text in PLAIN:
            return {}
        area, width = self.area[side], self.heads * self.size
        shape = [area, self.heads, self.size]
        kept = [p for p in self.kept() if p < area]
        codes, scales, minima, _ = [], [], [], None
        if area:
            codes, scales, minima, _ = quantize_array(
                self.rows[side][: area * width], shape, text, kept, self.wrong
            )
        return {
            side + "Codes": codes,
            side + "Words": stored_words(codes, shape, text) if area else [],
            side + "Scale": [half_bits(s) for s in scales],
            side + "Min": [half_bits(m) for m in minima],
            side + "KeptRows": self.half_rows(side, self.kept()),
            side + "RecentRows": self.half_rows(side, self.recent_positions(side)),
        }


def oracle(inputs, wrong=""):
    for side in ("keys", "values"):
        text = inputs[side]
        if text not in PLAIN and parse_format(text)[1:3] == ("channel", 0) and not inputs["seal"]:
            raise Refused(
                "usage", "channel:all needs a whole window, it cannot be appended to step by step"
            )
    if inputs["seal"] and inputs["recent"]:
        raise Refused("usage", "a whole window has no recent tokens")
    width, out, leftover = inputs["shape"][0] * inputs["shape"][1], [], ([], [])
    for one in inputs["sequences"]:
        cache = Sequence(inputs, one["kept"], wrong)
        keys, values, steps, first = one["K"], one["V"], [], 0
        if wrong == "group-across-sequences":
            keys, values = (leftover[0] + keys)[: len(keys)], (leftover[1] + values)[: len(values)]
            leftover = (one["K"][-3 * width :], one["V"][-3 * width :])
        for count in one["appends"]:
            last = first + count * width
            cache.append(keys[first:last], values[first:last])
            steps.append(cache.step())
            first = last
        if inputs["seal"]:
            cache.seal()
            steps.append(cache.step())
        result = {"steps": steps}
        result.update(cache.final("keys"))
        result.update(cache.final("values"))
        out.append(result)
    return {"sequences": out}


def sequence(name, tokens, shape, kept, appends):
    assert sum(appends) == tokens, name
    full = [tokens] + shape
    outlier = (shape[0] - 1, 1)
    return {
        "tokens": tokens,
        "kept": kept,
        "appends": appends,
        "K": planted(Random(name + " K"), full, kept, outlier, 6.0),
        "V": planted(Random(name + " V"), full, kept, None, 3.0),
    }


def history_cases(file):
    """One stream, three ways to append it; then other formats and windows."""
    ways = [
        ("one by one", [1] * 43, "append-one"),
        ("at once", [43], "append-many"),
        ("mixed", [5, 1, 1, 17, 1, 2, 16], "append-mixed"),
    ]
    for way, appends, flag in ways:
        must = [
            "kept-but-in-statistics",
            "overwrite",
            "recent-off-by-one",
            "group-not-aged",
            "kept-counted-as-recent",
            "kept-do-not-age",
            "holes-not-stored",
            "kept-rows-shift-groups",
        ]
        if flag != "append-many":
            must.append("per-call-window")
        add(
            file,
            "2 bits " + way,
            "2:channel:8",
            "2:token:4",
            10,
            [1, 4],
            43,
            [5, 6, 20, 39],
            appends,
            [flag, "sink-not-first", "several-sinks"],
            must,
        )
    plans = [
        ("3 bits, two heads", "3:channel:8", "3:token:8", 4, [2, 8], 21, [0, 11], [9, 1, 1, 1, 9],
         ["append-mixed"], ["padding-not-counted"]),
        ("8 bits", "8:channel:8", "8:token:4", 3, [1, 4], 19, [6], [2, 1, 16], ["append-mixed",
         "sink-not-first"], ["rounded-on-arrival"]),
        ("R = 0", "4:channel:8", "4:token:2", 0, [1, 4], 18, [9], [7, 1, 1, 9], ["append-mixed",
         "sink-not-first"], []),
        ("R longer than the text", "2:channel:8", "2:token:4", 64, [1, 4], 12, [3], [4, 8],
         ["append-mixed"], []),
        ("symmetric", "4:channel:8:sym", "8:token:4:sym", 3, [1, 4], 20, [7], [1, 1, 18],
         ["append-mixed"], ["symmetric-minimum"]),
        ("keys per token, values per channel", "2:token:4", "2:channel:4", 5, [2, 4], 17, [2, 8],
         [6, 6, 5], ["append-mixed"], ["group-not-aged"]),
        ("whole token groups", "8:token:all", "3:token:all", 2, [2, 4], 9, [4], [3, 1, 5],
         ["append-mixed"], []),
        ("no kept rows", "2:channel:8", "2:token:4", 4, [1, 4], 21, [], [8, 8, 5], ["append-many",
         "no-sink"], []),
        ("a group all kept", "2:channel:4", "2:token:4", 2, [1, 4], 14, [4, 5, 6, 7], [3, 11],
         ["append-mixed", "all-kept", "several-sinks", "sink-not-first"], []),
        ("everything kept", "2:channel:4", "2:token:4", 2, [1, 4], 6, [0, 1, 2, 3, 4, 5], [2, 4],
         ["append-mixed", "all-kept", "n-larger-than-prompt"], []),
        ("f16 keys", "f16", "2:token:4", 3, [1, 4], 9, [2], [4, 5], ["not-quantized",
         "append-mixed"], []),
        ("f16 values", "4:channel:4", "f16", 3, [1, 4], 9, [2], [4, 5], ["not-quantized",
         "append-mixed"], []),
        ("bf16 and f32", "bf16", "f32", 3, [1, 4], 5, [2], [4, 1], ["not-quantized",
         "append-mixed"], []),
        ("f16 both", "f16", "f16", 0, [2, 4], 5, [2], [5], ["not-quantized", "append-many"], []),
        ("one token", "2:channel:32", "2:token:4", 0, [1, 4], 1, [], [1], ["append-one",
         "no-sink"], []),
        ("window boundary", "2:channel:4", "2:token:4", 4, [1, 4], 9, [], [4, 1, 3, 1],
         ["append-mixed", "no-sink"], ["recent-off-by-one"]),
        ("channel:all in a stream", "2:channel:all", "2:token:4", 0, [1, 4], 2, [], [2],
         ["whole-window-only"], []),
    ]
    for plan in plans:
        add(file, *plan)


def add(file, name, keys, values, recent, shape, tokens, kept, appends, flags, must, seal=False):
    inputs = {
        "keys": keys,
        "values": values,
        "recent": recent,
        "shape": shape,
        "seal": seal,
        "sequences": [sequence("stream", tokens, shape, kept, appends)],
    }
    file.case(name, inputs, flags, must)


def window_cases(file):
    plans = [
        ("33 tokens in groups of 32", "2:channel:32", "2:token:4", [1, 4], 33, [0, 17], [33],
         ["append-many", "several-sinks", "sink-not-first", "tail-group"], ["seal-drops-tail",
         "kept-but-in-statistics"]),
        ("the same in parts", "2:channel:32", "2:token:4", [1, 4], 33, [0, 17], [20, 1, 12],
         ["append-mixed", "several-sinks", "sink-not-first", "tail-group"], ["seal-drops-tail"]),
        ("shorter than a group", "3:channel:32", "3:token:all", [2, 4], 5, [2], [5],
         ["append-many", "tail-group"], ["seal-drops-tail"]),
        ("channel:all", "4:channel:all", "4:token:all", [2, 4], 11, [3, 10], [11], ["append-many",
         "whole-window-only"], ["seal-drops-tail", "kept-but-in-statistics"]),
        ("values per channel too", "8:channel:8:sym", "2:channel:8", [1, 4], 19, [9], [19],
         ["append-many", "tail-group"], []),
        ("no tail", "2:channel:8", "2:token:2", [1, 4], 16, [], [16], ["append-many", "no-sink"],
         []),
    ]
    for name, keys, values, shape, tokens, kept, appends, flags, must in plans:
        add(file, name, keys, values, 0, shape, tokens, kept, appends, flags, must, True)


def batch_cases(file):
    for name, first, second, must in (
        ("groups of one stay apart", [7, 1, 5], [9, 1], ["group-across-sequences"]),
        ("kept differ", [13], [10], ["group-across-sequences"]),
    ):
        shape = [1, 4]
        inputs = {
            "keys": "2:channel:4",
            "values": "2:token:4",
            "recent": 2,
            "shape": shape,
            "seal": False,
            "sequences": [
                sequence(name + " 1", 13, shape, [0, 6], first),
                sequence(name + " 2", 10, shape, [1], second),
            ],
        }
        file.case(
            name,
            inputs,
            ["two-sequences", "append-mixed" if len(first) > 1 else "append-many"],
            must,
        )


def files():
    for name, fill, parameters in (
        ("cache_stream", history_cases, {"window": "stream"}),
        ("cache_window", window_cases, {"window": "whole"}),
        ("cache_batch", batch_cases, {"window": "stream", "sequences": 2}),
    ):
        file = VectorFile(name, "cache", parameters, oracle, NOTES, list(MISTAKES))
        fill(file)
        yield file
