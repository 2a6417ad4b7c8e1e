"""What an exercise's oracle.py is written with.

It defines one function, cases(seed), which yields the cases that an answer has to pass. seed is ""
for the cases everyone may know, and another text for fresh ones, which nobody can have copied:

    from cases import case, vectors, within
    from exact import Random
    import attention

    def cases(seed):
        yield from vectors("softmax", attention.softmax_file, seed)
        random = Random("01.2" + seed)
        for n in (1, 31, 32, 33):
            s = random.many(n, random.noise, 2.0)
            yield case("%d scores" % n, {"s": s}, {"p": right_answer(s)}, within(1e-6, 1e-6))

What is right comes from tests/oracle/, whose modules can be imported here, or is written down once
more in plain Python; never from ref/. Of a prediction, the expected numbers may be taken from a
results file (result).
"""

import json
import math
import pathlib
import sys

TOP = pathlib.Path(__file__).resolve().parents[2]
ORACLE = TOP / "tests" / "oracle"
if str(ORACLE) not in sys.path:
    sys.path.insert(0, str(ORACLE))

import exact  # noqa: E402
import suite  # noqa: E402

EXACT = {"kind": "exact"}


def within(absolute, relative=0.0):
    """A number passes if it is off by at most absolute + relative * |what is right|."""
    return {"kind": "abs_rel", "abs": absolute, "rel": relative}


def case(identity, inputs, out, compare=EXACT, catches="", loads=None, least=None, error=None):
    """One case.

    inputs   names to numbers, texts or lists of numbers: what the checker reads with in_...
    out      names to numbers or lists of numbers: what it ought to hand over with out_...
    compare  EXACT or within(...)
    catches  the mistake that this case is there for, as a sentence, to be told to whoever makes it
    loads    kernels: at most so many sectors of 32 bytes may be loaded from global memory
    least    kernels: and at least so many; fewer, and it was not the kernel that did the work
    error    "run" or "usage": the call is to be refused with that code; out is then not looked at
    """
    made = {"id": identity, "in": inputs, "out": out, "compare": compare, "catches": catches}
    if error:
        made["error"] = error
    if loads is not None:
        made["loads"] = loads
    if least is not None:
        made["least"] = least
    return made


def sectors(elements, bytes_each=4):
    """How many sectors of 32 bytes an array occupies that begins with one."""
    return (elements * bytes_each + 31) // 32


def explained(cases, notes):
    """Cases of a vector file, with the notes of their flags as what they catch."""
    for one in cases:
        made = dict(one)
        told = [notes[flag] for flag in one["flags"]]
        made["catches"] = " ".join(told[:2])
        yield made


def vectors(name, make, seed="", where=None, outputs=None, most=None):
    """The cases of tests/vectors/NAME.json, or with a seed, fresh ones of the same flags.

    make     the oracle's function that returns that VectorFile; it is called with other random
             numbers, so that the inputs are new and the flags are earned anew
    where    keep only the cases for which where(inputs) is true
    outputs  keep only these names of the outputs
    most     keep at most so many cases
    """
    if seed:
        whole = fresh(make, seed)
    else:
        whole = json.loads((TOP / "tests" / "vectors" / (name + ".json")).read_text())
    kept = 0
    for one in explained(whole["cases"], whole["notes"]):
        if where and not where(one["in"]) or most is not None and kept >= most:
            continue
        if outputs and "out" in one:
            one["out"] = {key: one["out"][key] for key in outputs}
        kept += 1
        yield one


def fresh(make, seed):
    """make() with another stream of random numbers. A case that demands flags may miss them with an
    unlucky draw; then the next stream is tried."""
    begin = exact.Random.__init__
    for attempt in range(50):
        salt = " %s %d" % (seed, attempt)
        exact.Random.__init__ = lambda self, name: begin(self, name + salt)
        try:
            file = make()
        except AssertionError:
            continue
        finally:
            exact.Random.__init__ = begin
        notes = {flag: file.notes[flag] for one in file.cases for flag in one["flags"]}
        return {"cases": file.cases, "notes": notes}
    raise AssertionError("no fresh cases with seed %s" % seed)


def table(path):
    """The rows of a results file, each a dictionary from the titles of its first line."""
    lines = [line for line in (TOP / path).read_text().splitlines()
             if line.strip() and not line.startswith("#")]
    tabs = "\t" in lines[0]
    cut = (lambda line: line.split("\t")) if tabs else str.split
    titles = [title.strip() for title in cut(lines[0])]
    return [dict(zip(titles, [cell.strip() for cell in cut(line)])) for line in lines[1:]]


def result(path, column, **wanted):
    """The number in that column of the one row in which the named columns hold the given texts."""
    rows = [row for row in table(path) if all(row.get(k) == v for k, v in wanted.items())]
    if len(rows) != 1 or column not in rows[0]:
        raise ValueError("%s: %d rows with %s, column %s" % (path, len(rows), wanted, column))
    return float(rows[0][column])


# ---- comparing -----------------------------------------------------------------------------------


def same(want, got, compare):
    """Numbers agree as a consumer of the vectors compares them; NaN agrees with NaN only."""
    if isinstance(want, str):  # "NaN", "Infinity" as the vectors write them
        want = float(want.replace("Infinity", "inf"))
    if math.isnan(want) or math.isnan(got):
        return math.isnan(want) and math.isnan(got)
    if want == got:
        return True
    if isinstance(want, int) and abs(want) >= 1 << 24:
        return False
    if suite.f32(float(want)) == suite.f32(got):
        return True
    allowed = 0.0
    if compare["kind"] != "exact":
        allowed = compare["abs"] + compare["rel"] * abs(want)
    return abs(want - got) <= allowed


def difference(want, got, compare):
    """"" or a sentence. want: names to lists or numbers; got: names to lists."""
    for name, values in want.items():
        if not isinstance(values, (list, tuple)):
            values = [values]
        if name not in got:
            return "%s is not answered" % name
        if len(values) != len(got[name]):
            return "%s has %d elements instead of %d" % (name, len(got[name]), len(values))
        for i, (right, answer) in enumerate(zip(values, got[name])):
            if not same(right, answer, compare):
                place = "%s[%d]" % (name, i) if len(values) > 1 else name
                return "%s is %.9g instead of %s" % (place, answer, told(right))
    return ""


def told(x):
    return x if isinstance(x, str) else "%.9g" % x


# ---- the text that a checker reads ---------------------------------------------------------------


def number(x):
    if isinstance(x, bool):
        return "1" if x else "0"
    if isinstance(x, str):
        return x.replace("Infinity", "inf")
    return repr(x)


def as_text(one):
    """One case as lines (see answer.c). Nested names are joined with a dot."""
    lines = ["case " + one["id"]]

    def add(name, value):
        if value is None:
            return
        if isinstance(value, dict):
            for key, item in value.items():
                add(name + "." + key if name else key, item)
        elif isinstance(value, str):
            lines.append("text %s %s" % (name, value))
        elif isinstance(value, (list, tuple)):
            flat = flatten(value)
            lines.append("list %s %d %s" % (name, len(flat), " ".join(map(number, flat))))
        else:
            lines.append("list %s 1 %s" % (name, number(value)))

    add("", one["in"])
    return "\n".join(lines + ["end", ""])


def flatten(value):
    out = []
    for item in value:
        if isinstance(item, (list, tuple)):
            out += flatten(item)
        else:
            out.append(item)
    return out
