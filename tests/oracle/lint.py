#!/usr/bin/env python3
"""Check every file of tests/vectors/ against schema.json and against what the README promises.

The few words of JSON Schema that schema.json uses are checked by hand, so nothing has to be
installed.  Also: counts, unique ids, sorted flags with a note each, notes without a flag, sizes
that the shapes promise, and that the README names every piece and field.
"""

import json
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
VECTORS = os.path.join(os.path.dirname(HERE), "vectors")
LIMIT = 2500000
KNOWN = {
    "$schema",
    "title",
    "type",
    "required",
    "properties",
    "additionalProperties",
    "items",
    "enum",
    "minimum",
    "maximum",
    "anyOf",
    "oneOf",
    "definitions",
    "$ref",
}
PYTHON = {"object": dict, "array": list, "string": str, "boolean": bool}


def has_type(value, name):
    if name in ("integer", "number"):
        return isinstance(value, int if name == "integer" else (int, float)) and not isinstance(
            value, bool
        )
    return isinstance(value, PYTHON[name])


def violations(value, schema, where, root):
    """Complaints of one value against one schema; `root` holds the definitions."""
    if "$ref" in schema:
        return violations(value, root["definitions"][schema["$ref"].split("/")[-1]], where, root)
    unknown = set(schema) - KNOWN
    assert not unknown, "schema.json uses %s, which this checker does not know" % unknown
    out = []
    if "type" in schema and not has_type(value, schema["type"]):
        return ["%s: %s expected" % (where, schema["type"])]
    if "enum" in schema and value not in schema["enum"]:
        out.append("%s: %r is none of %r" % (where, value, schema["enum"]))
    if (
        "minimum" in schema
        and value < schema["minimum"]
        or "maximum" in schema
        and value > schema["maximum"]
    ):
        out.append("%s: %r is out of range" % (where, value))
    if isinstance(value, dict):
        out += [
            "%s: field '%s' is missing" % (where, name)
            for name in schema.get("required", [])
            if name not in value
        ]
        properties, others = schema.get("properties", {}), schema.get("additionalProperties", True)
        for name, item in value.items():
            if name in properties:
                out += violations(item, properties[name], where + "." + name, root)
            elif others is False:
                out.append("%s: unknown field '%s'" % (where, name))
            elif isinstance(others, dict):
                out += violations(item, others, where + "." + name, root)
    if isinstance(value, list) and "items" in schema:
        for i, item in enumerate(value):
            out += violations(item, schema["items"], "%s[%d]" % (where, i), root)
    for word in ("anyOf", "oneOf"):
        if word in schema:
            passing = sum(
                1 for choice in schema[word] if not violations(value, choice, where, root)
            )
            if passing == 0 or (word == "oneOf" and passing > 1):
                out.append("%s: matches %d of the choices of %s" % (where, passing, word))
    return out


def product(shape):
    out = 1
    for n in shape:
        out *= n
    return out


def size_violations(piece, case, where):
    """Arrays as long as the shapes say."""
    given, out = case["in"], case.get("out", {})
    wanted = []
    if piece == "quantize":
        wanted = [(given["x"], product(given["shape"]), "x")]
        if out:
            size = product(out["scaleShape"])
            wanted += [
                (out["scale"], size, "scale"),
                (out["min"], size, "min"),
                (out["codes"], len(given["x"]), "codes"),
                (out["dequant"], len(given["x"]), "dequant"),
            ]
        if "lo" in given:
            wanted += [(given[name], product(given["shape"][1:]), name) for name in ("lo", "hi")]
        if "norms" in out:
            wanted.append((out["norms"], given["shape"][0], "norms"))
        if "outlierIndex" in out:
            wanted.append((out["outlierBits"], len(out["outlierIndex"]), "outlierBits"))
        if "blocks" in out:
            size = {"q4_0": 18, "q4_1": 20, "q5_0": 22, "q5_1": 24, "q8_0": 34}[
                given["format"].split(":")[0]]
            wanted.append((out["blocks"], product(out["scaleShape"]) * size, "blocks"))
    elif piece == "history":
        size = sum(given["appends"]) * product(given["shape"])
        wanted = [(given["K"], size, "K"), (given["V"], size, "V")]
        wanted.append((given["settles"], len(given["appends"]), "settles"))
        if out:
            wanted += [(out["keysRead"], size, "keysRead"), (out["valuesRead"], size, "valuesRead")]
    elif piece == "criterion":
        size = given["layers"] * given["heads"] * given["tokens"] ** 2
        wanted = [(given["A"], size, "A")]
        wanted += [(out[name], len(given["appends"]), name) for name in ("scores", "positions")]
    elif piece == "sink_metric":
        layers, heads, tokens, _ = given["shape"]
        wanted = [
            (given["A"], product(given["shape"]), "A"),
            (out["alpha"], layers * heads * tokens, "alpha"),
            (out["sink"], len(given["eps"]) * tokens, "sink"),
            (out["mass"], layers * heads, "mass"),
        ]
    elif piece == "keep":
        layers, tokens = given["layers"], given["tokens"]
        if "stages" in given:
            wanted.append((given["h"], len(given["stages"]) * tokens, "h"))
        if "X" in given:
            wanted.append((given["X"], layers * tokens * given["width"], "X"))
        if "A" in given:
            wanted.append((given["A"], layers * given["heads"] * tokens**2, "A"))
        wanted += [(out["layers"], layers, "layers")] if out else []
    elif piece == "cache":
        for one in given["sequences"]:
            size = one["tokens"] * product(given["shape"])
            wanted += [(one["K"], size, "K"), (one["V"], size, "V")]
    elif piece == "decode":
        size = given["tokens"] * product(given["shape"])
        wanted = [
            (given["K"], size, "K"),
            (given["V"], size, "V"),
            (out["out"], len(given["q"]), "out"),
        ]
    return [
        "%s: %s has %d elements, %d expected" % (where, name, len(array), n)
        for array, n, name in wanted
        if len(array) != n
    ]


def file_violations(name, data):
    out = []
    if data["numberOfCases"] != len(data["cases"]):
        out.append(
            "%s: numberOfCases is %d, there are %d"
            % (name, data["numberOfCases"], len(data["cases"]))
        )
    if not (
        name[:-5] == data["piece"]
        or name.startswith(data["piece"] + "_")
        or data["piece"] in ("decode_bits", "nan")
    ):
        out.append("%s: the name does not begin with its piece '%s'" % (name, data["piece"]))
    seen, used = set(), set()
    for case in data["cases"]:
        where = "%s '%s'" % (name, case["id"])
        if case["id"] in seen:
            out.append("%s: id used twice" % where)
        seen.add(case["id"])
        used.update(case["flags"])
        if case["flags"] != sorted(set(case["flags"])):
            out.append("%s: flags not sorted or not unique" % where)
        out += size_violations(data["piece"], case, where)
    for flag in sorted(used ^ set(data["notes"])):
        out.append("%s: flag '%s' and the notes do not match" % (name, flag))
    return out


def field_names(schema):
    for word, item in schema.items():
        if word == "properties":
            for name, inner in item.items():
                yield name
                yield from field_names(inner)
        elif word == "items":
            yield from field_names(item)


def readme_violations(schema):
    """Every piece has a section, and every field of it is named there in backquotes."""
    with open(os.path.join(VECTORS, "README.md")) as stream:
        sections = stream.read().split("\n### ")
    out = []
    for choice in schema["oneOf"]:
        piece = choice["properties"]["piece"]["enum"][0]
        found = [section for section in sections if section.split("\n")[0] == piece]
        if len(found) != 1:
            out.append("README.md: no section '### %s'" % piece)
            continue
        case = choice["properties"]["cases"]["items"]["properties"]
        for name in sorted(set(field_names(case["in"])) | set(field_names(case["out"]))):
            if "`%s`" % name not in found[0]:
                out.append("README.md: section %s does not name `%s`" % (piece, name))
    return out


def main():
    with open(os.path.join(VECTORS, "schema.json")) as stream:
        schema = json.load(stream)
    by_piece = {choice["properties"]["piece"]["enum"][0]: choice for choice in schema["oneOf"]}
    out, total, cases = readme_violations(schema), 0, 0
    for name in sorted(os.listdir(VECTORS)):
        if not name.endswith(".json") or name == "schema.json":
            continue
        path = os.path.join(VECTORS, name)
        total += os.path.getsize(path)
        with open(path) as stream:
            data = json.load(stream)
        if data.get("piece") not in by_piece:
            out.append("%s: unknown piece" % name)
            continue
        found = violations(data, {k: v for k, v in schema.items() if k != "oneOf"}, name, schema)
        found += violations(data, by_piece[data["piece"]], name, schema)
        out += found or file_violations(name, data)
        cases += len(data["cases"])
    if total > LIMIT:
        out.append("the files have %d bytes, more than %d" % (total, LIMIT))
    for complaint in out:
        print(complaint, file=sys.stderr)
    if not out:
        print("%d cases in %d bytes, nothing to complain about" % (cases, total))
    return 1 if out else 0


if __name__ == "__main__":
    sys.exit(main())
