"""Which fields each piece has: one table, from which schema.json is written.

A type is a word below; a trailing "?" on a field's name makes it optional.  `half` and `word` are
bit patterns as unsigned integers; `floats` may hold the strings NaN, Infinity and -Infinity.
"""

from suite import FORMAT, flat

NUMBER = {"anyOf": [{"type": "number"}, {"enum": ["NaN", "Infinity", "-Infinity"]}]}


def whole(low=None, high=None):
    out = {"type": "integer"}
    if low is not None:
        out["minimum"] = low
    if high is not None:
        out["maximum"] = high
    return out


def listed(item):
    return {"type": "array", "items": item}


TYPES = {
    "string": {"type": "string"},
    "bool": {"type": "boolean"},
    "int": whole(),
    "count": whole(0),
    "counts": listed(whole(0)),
    "bools": listed({"type": "boolean"}),
    "number": NUMBER,
    "floats": listed(NUMBER),
    "halves": listed(whole(0, 0xFFFF)),
    "words": listed(whole(0, 0xFFFFFFFF)),
    "codes": listed(whole(0, 255)),
    "positions": listed(listed(whole(0))),
}

STAGE = {
    "layer": "count",
    "channel": "count",
    "sign": "int",
    "medianAtSinks": "number",
    "medianElsewhere": "number",
    "threshold": "number",
}
STEP = {
    "tokens": "count",
    "keysQuantized": "count",
    "valuesQuantized": "count",
    "keysRecent": "counts",
    "valuesRecent": "counts",
    "kept": "counts",
    "bytes": "count",
}
SIDE = {
    "Codes?": "codes",
    "Words?": "words",
    "Scale?": "halves",
    "Min?": "halves",
    "KeptRows?": "halves",
    "RecentRows?": "halves",
}
RESULT = dict(
    {"steps": [STEP]},
    **{side + name: kind for side in ("keys", "values") for name, kind in SIDE.items()},
)

FIELDS = {
    "half": ({"x": "floats"}, {"bits": "halves", "back": "floats"}),
    "bfloat16": ({"x": "floats"}, {"bits": "halves", "back": "floats"}),
    "decode_bits": ({"kind": "string", "bits": "halves"}, {"x": "floats"}),
    "nan": ({"kind": "string", "floatBits": "words"}, {"isNan": "counts"}),
    "packing": ({"bits": "count", "groupLength": "count", "codes": "codes"}, {"words": "words"}),
    "layout": ({"format": "string", "shape": "counts", "codes": "codes"}, {"words": "words"}),
    "format_grammar": (
        {"format": "string", "side": "string", "headSize": "count", "kvHeads?": "count"},
        {
            "kind": "string",
            "bits": "count",
            "axis": "string",
            "group": "count",
            "symmetric": "bool",
            "pre": "bool",
            "hadamard": "bool",
            "norm": "bool",
            "static": "bool",
            "kivi": "bool",
            "outliers": "count",
        },
    ),
    "quantize": (
        {
            "format": "string",
            "shape": "counts",
            "x": "floats",
            "kept": "counts",
            "side?": "string",
            "exclusion?": "string",
            "lo?": "floats",
            "hi?": "floats",
        },
        {
            "codes": "codes",
            "scaleShape": "counts",
            "scale": "halves",
            "min": "halves",
            "dequant": "floats",
            "norms?": "floats",
            "outlierIndex?": "counts",
            "outlierBits?": "halves",
            "blocks?": "codes",
        },
    ),
    "e4m3": ({"x": "floats"}, {"codes": "codes", "back": "floats"}),
    "e4m3_decode": ({"codes": "codes"}, {"x": "floats"}),
    "hadamard": ({"headSize": "count", "x": "floats"}, {"y": "floats"}),
    "keep_grammar": ({"keep": "string"}, {"decode": "bool"}),
    "keep": (
        {
            "keep": "string",
            "tokens": "count",
            "layers": "count",
            "ids": "counts",
            "stages?": [STAGE],
            "learned?": "counts",
            "h?": "floats",
            "width?": "count",
            "X?": "floats",
            "heads?": "count",
            "A?": "floats",
            "keyRows?": "floats",
        },
        {
            "layers": "positions",
            "decode": "bool",
            "stagePositions?": "positions",
            "stageCapBound?": "bools",
        },
    ),
    "criterion": (
        {
            "layers": "count",
            "heads": "count",
            "tokens": "count",
            "multiplier": "number",
            "appends": "counts",
            "A": "floats",
        },
        {"scores": ["floats"], "positions": "positions"},
    ),
    "calibration": (
        {"layers": "count", "width": "count", "prompts": [{"ids": "counts", "H": "floats"}]},
        {"weak": "bool", "stages": [dict(STAGE, prompts="count")], "learned": "counts"},
    ),
    "predict": (
        {
            "profile": "string",
            "layers": "count",
            "width": "count",
            "ids": "counts",
            "H": "floats",
            "keep": "string",
        },
        {
            "stages": [
                {"layer": "count", "channel": "count", "positions": "counts", "h": "floats"}
            ],
            "layers": "positions",
        },
    ),
    "sink_metric": (
        {"shape": "counts", "A": "floats", "eps": "floats", "set": "counts"},
        {"alpha": "floats", "sink": "floats", "mass": "floats"},
    ),
    "cache": (
        {
            "keys": "string",
            "values": "string",
            "recent": "count",
            "shape": "counts",
            "seal": "bool",
            "sequences": [
                {
                    "tokens": "count",
                    "kept": "counts",
                    "appends": "counts",
                    "K": "floats",
                    "V": "floats",
                }
            ],
        },
        {"sequences": [RESULT]},
    ),
    "history": (
        {
            "keys": "string",
            "values": "string",
            "recent": "count",
            "shape": "counts",
            "window": "bool",
            "kept": "counts",
            "appends": "counts",
            "settles": "counts",
            "K": "floats",
            "V": "floats",
            "keysLo?": "floats",
            "keysHi?": "floats",
            "valuesLo?": "floats",
            "valuesHi?": "floats",
        },
        {"steps": [STEP], "keysRead": "floats", "valuesRead": "floats"},
    ),
    "softmax": ({"kind": "string", "logits": "floats", "sink?": "number"}, {"p": "floats"}),
    "attention": (
        {
            "kind": "string",
            "shape": "counts",
            "q": "floats",
            "k": "floats",
            "v": "floats",
            "sink?": "floats",
        },
        {"rows": "floats", "out": "floats"},
    ),
    "decode": (
        {
            "keys": "string",
            "values": "string",
            "recent": "count",
            "shape": "counts",
            "heads": "count",
            "tokens": "count",
            "kept": "counts",
            "K": "floats",
            "V": "floats",
            "q": "floats",
        },
        {"out": "floats"},
    ),
    "rmsnorm": ({"x": "floats", "weight": "floats", "eps": "number"}, {"y": "floats"}),
    "rope": (
        {
            "pairing": "string",
            "base": "number",
            "shape": "counts",
            "positions": "counts",
            "x": "floats",
        },
        {"y": "floats"},
    ),
    "swiglu": ({"gate": "floats", "up": "floats"}, {"y": "floats"}),
}


def schema_of(kind):
    if isinstance(kind, str):
        return {"$ref": "#/definitions/" + kind}
    if isinstance(kind, list):
        return listed(schema_of(kind[0]))
    return {
        "type": "object",
        "required": [name for name in kind if not name.endswith("?")],
        "additionalProperties": False,
        "properties": {name.rstrip("?"): schema_of(inner) for name, inner in kind.items()},
    }


COMPARE = {
    "anyOf": [
        {
            "type": "object",
            "required": ["kind"],
            "additionalProperties": False,
            "properties": {"kind": {"enum": ["exact"]}},
        },
        {
            "type": "object",
            "required": ["kind", "abs", "rel", "reason"],
            "additionalProperties": False,
            "properties": {
                "kind": {"enum": ["abs_rel"]},
                "abs": {"type": "number", "minimum": 0},
                "rel": {"type": "number", "minimum": 0},
                "reason": {"type": "string"},
            },
        },
    ]
}

TOP = {
    "type": "object",
    "required": ["format", "piece", "parameters", "notes", "numberOfCases", "cases"],
    "additionalProperties": False,
    "properties": {
        "format": {"enum": [FORMAT]},
        "piece": {"enum": list(FIELDS)},
        "parameters": {"type": "object"},
        "notes": {"type": "object", "additionalProperties": {"type": "string"}},
        "numberOfCases": {"type": "integer", "minimum": 1},
        "cases": listed(
            {
                "type": "object",
                "required": ["id", "flags", "in", "compare"],
                "additionalProperties": False,
                "properties": {
                    "id": {"type": "string"},
                    "flags": listed({"type": "string"}),
                    "in": {"type": "object"},
                    "out": {"type": "object"},
                    "error": {"enum": ["run", "usage"]},
                    "reason": {"type": "string"},
                    "compare": {"$ref": "#/definitions/compare"},
                },
                "oneOf": [{"required": ["out"]}, {"required": ["error", "reason"]}],
            }
        ),
    },
}


def piece_schema(piece):
    """What a file of this piece has in its cases."""
    inputs, outputs = FIELDS[piece]
    case = {"properties": {"in": schema_of(inputs), "out": schema_of(outputs)}}
    return {"properties": {"piece": {"enum": [piece]}, "cases": listed(case)}}


def schema_text():
    """One piece a line: long, but a change of one piece is a change of one line."""
    head = ['"$schema": "http://json-schema.org/draft-07/schema#"', '"title": ' + flat(FORMAT)]
    types = ",\n".join(
        flat(name) + ": " + flat(kind) for name, kind in dict(TYPES, compare=COMPARE).items()
    )
    head += [flat(word) + ": " + flat(value) for word, value in TOP.items()]
    pieces = ",\n".join(flat(piece_schema(piece)) for piece in FIELDS)
    return (
        "{\n"
        + ",\n".join(head)
        + ',\n"definitions": {\n'
        + types
        + '\n},\n"oneOf": [\n'
        + pieces
        + "\n]\n}\n"
    )
