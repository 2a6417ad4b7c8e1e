"""ends:N:R, read with a regular expression."""

import re

from cases import case
from exact import Random


def right(rule, T):
    match = re.fullmatch(r"ends:([0-9]+):([0-9]+)", rule)
    if not match or any(int(x) > 100000000 for x in match.groups()):
        return {"n": -1, "position": []}
    first, last = (int(x) for x in match.groups())
    kept = [t for t in range(T) if t < first or t >= T - last]
    return {"n": len(kept), "position": kept}


def cases(seed):
    random = Random("05.5" + seed)
    first, last = 2 + random.below(5), 3 + random.below(9)
    for name, rule, T, catches in (
        ("both ends", "ends:%d:%d" % (first, last), 31 + random.below(9), ""),
        ("only the first", "ends:%d:0" % first, 20, ""),
        ("only the last", "ends:0:%d" % last, 20, ""),
        ("the ends meet", "ends:6:9", 11, "A token in both ends is kept once."),
        ("longer than the text", "ends:%d:%d" % (40 + first, last), 13, ""),
        ("largest number", "ends:1:100000000", 5, "first + last may be large, and T - last negative."),
        ("leading zeros", "ends:004:%d" % last, 33, ""),
        ("no second number", "ends:4:", 20, "A number has at least one digit."),
        ("no first number", "ends::4", 20, ""),
        ("something behind it", "ends:4:8x", 20, "The whole text has to be read."),
        ("another rule", "first:4", 20, ""),
        ("a sign", "ends:+4:8", 20, "strtol reads signs and blanks; the grammar has none."),
        ("a minus", "ends:4:-8", 20, "strtol reads signs and blanks; the grammar has none."),
        ("too large", "ends:4:99999999999999999999", 20, "A number that does not fit is none."),
    ):
        yield case(name, {"rule": rule, "T": T}, right(rule, T), catches=catches)
