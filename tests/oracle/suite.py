"""Cases, flags that cannot lie, and the way files are written.

A piece hands over an oracle: a function `oracle(inputs, wrong="")` that returns the outputs or
raises Refused.  `wrong` names a mistake that others are known to make; the oracle then makes it.
For every case each mistake of the piece is tried, and its flag is attached exactly when the
outcome differs, by more than four times the tolerance where there is one.  A case may demand
flags (`must`); generation stops when a demanded flag is not earned.  Flags that merely describe
an input ("no-sink") are given by hand and explained in the same notes.
"""

import math

from exact import Refused, f32

FORMAT = "kv-vectors 1"
EXACT = {"kind": "exact"}


def abs_rel(absolute, relative, reason):
    return {"kind": "abs_rel", "abs": absolute, "rel": relative, "reason": reason}


class VectorFile:
    """One JSON file: a piece, its parameters, its cases."""

    def __init__(self, name, piece, parameters, oracle, notes, mistakes=()):
        self.name = name
        self.piece = piece
        self.parameters = parameters
        self.oracle = oracle
        self.notes = notes
        self.mistakes = mistakes
        self.cases = []

    def case(self, identity, inputs, flags=(), must=(), compare=EXACT):
        """Add a case; `compare` may be a function of (inputs, outputs) that derives a tolerance."""
        right = self.outcome(inputs, "")
        if callable(compare):
            compare = compare(inputs, right.get("out"))
        earned = list(flags)
        for mistake in self.mistakes:
            if different(right, self.outcome(inputs, mistake), compare):
                earned.append(mistake)
        for flag in must:
            assert flag in earned, "%s %s does not catch %s" % (self.name, identity, flag)
        for flag in earned:
            assert flag in self.notes, "%s: flag %s has no note" % (self.name, flag)
        check_inputs(inputs, self.name + " " + identity)
        case = {"id": identity, "flags": sorted(set(earned)), "in": inputs}
        case.update(right)
        case["compare"] = compare
        self.cases.append(case)
        return right.get("out")

    def outcome(self, inputs, wrong):
        try:
            return {"out": self.oracle(inputs, wrong)}
        except Refused as refusal:
            return {"error": refusal.kind, "reason": refusal.reason}

    def text(self):
        used = sorted({flag for case in self.cases for flag in case["flags"]})
        identities = [case["id"] for case in self.cases]
        assert len(set(identities)) == len(identities), self.name
        whole = {
            "format": FORMAT,
            "piece": self.piece,
            "parameters": self.parameters,
            "notes": {flag: self.notes[flag] for flag in used},
            "numberOfCases": len(self.cases),
            "cases": self.cases,
        }
        return dump(whole, 0) + "\n"


def different(a, b, compare):
    """Does b fail the comparison that a consumer would make against a?"""
    if isinstance(a, dict):
        if not isinstance(b, dict) or set(a) != set(b):
            return True
        return any(different(a[key], b[key], compare) for key in a if key != "reason")
    if isinstance(a, (list, tuple)):
        if not isinstance(b, (list, tuple)) or len(a) != len(b):
            return True
        return any(different(x, y, compare) for x, y in zip(a, b))
    if isinstance(a, float) and isinstance(b, float):
        if math.isnan(a) or math.isnan(b) or math.isinf(a) or math.isinf(b):
            return not (a == b or (math.isnan(a) and math.isnan(b)))
        allowed = 0.0
        if compare["kind"] == "abs_rel":
            allowed = 4 * (compare["abs"] + compare["rel"] * abs(a))
        return not abs(a - b) <= allowed
    return a != b


def check_inputs(value, where):
    """Every input number survives the trip through a float32 reader."""
    if isinstance(value, dict):
        for item in value.values():
            check_inputs(item, where)
    elif isinstance(value, (list, tuple)):
        for item in value:
            check_inputs(item, where)
    elif isinstance(value, float) and not math.isnan(value):
        assert f32(value) == value, (where, value)


def number(x):
    """At most nine significant digits; the shortest that gives a float32 back."""
    if math.isnan(x):
        return '"NaN"'
    if math.isinf(x):
        return '"Infinity"' if x > 0 else '"-Infinity"'
    if x == 0 and math.copysign(1.0, x) < 0:
        return "-0.0"
    if f32(x) == x:
        for digits in range(1, 10):
            text = "%.*g" % (digits, x)
            if f32(float(text)) == x:
                return text
        raise AssertionError(x)
    return "%.9g" % x


def string(text):
    out = '"'
    for character in text:
        if character in '"\\':
            out += "\\" + character
        elif character == "\n":
            out += "\\n"
        else:
            assert 32 <= ord(character) < 127, text
            out += character
    return out + '"'


def flat(value):
    """One line of JSON."""
    if isinstance(value, dict):
        return "{" + ", ".join(string(k) + ": " + flat(v) for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(flat(item) for item in value) + "]"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return number(value)
    return string(value)


def has_big_parts(value):
    """A dictionary holding lists or dictionaries is broken over lines, one key a line."""
    return isinstance(value, dict) and any(
        isinstance(v, (dict, list, tuple)) for v in value.values()
    )


def dump(value, depth):
    pad, inner = " " * depth, " " * (depth + 1)
    if has_big_parts(value):
        body = [inner + string(k) + ": " + dump(v, depth + 1) for k, v in value.items()]
        return "{\n" + ",\n".join(body) + "\n" + pad + "}"
    if isinstance(value, dict) and depth == 1:
        body = [inner + string(k) + ": " + flat(v) for k, v in value.items()]
        return "{\n" + ",\n".join(body) + "\n" + pad + "}" if value else "{}"
    if isinstance(value, (list, tuple)) and any(has_big_parts(item) for item in value):
        return (
            "[\n" + ",\n".join(inner + dump(item, depth + 1) for item in value) + "\n" + pad + "]"
        )
    return flat(value)
