"""The FORMAT grammar of CONTRACT 2, as far as integers and the plain 16- and 32-bit rows go.

    BITS:AXIS:GROUP[:sym]        BITS 2 3 4 8, AXIS channel or token, GROUP a number or `all`
    f16 | bf16 | f32             nothing may follow

GROUP divides the head size for `token`.  `pre` (keys before RoPE) is an error on values.
"""

from exact import Refused
from suite import VectorFile

NOTES = {
    "malformed": "The string must be refused as a usage error.",
    "group-does-not-divide": "`token:G` needs a G that divides the head size.",
    "pre-on-values": "`pre` means keys before RoPE; values have no RoPE.",
}


def oracle(inputs, wrong=""):
    parts = inputs["format"].split(":")
    if parts[0] in ("f16", "bf16", "f32"):
        if len(parts) > 1:
            raise Refused("usage", "%s takes no further words" % parts[0])
        return {
            "kind": parts[0],
            "bits": int(parts[0].strip("bf")),
            "axis": "none",
            "group": 0,
            "symmetric": False,
        }
    if parts[0] not in ("2", "3", "4", "8"):
        raise Refused("usage", "unknown format '%s'" % parts[0])
    if len(parts) < 3 or parts[1] not in ("channel", "token"):
        raise Refused("usage", "an axis and a group are expected, as in 2:channel:32")
    if parts[2] != "all" and not (parts[2].isdigit() and int(parts[2]) > 0):
        raise Refused("usage", "group '%s': a positive number or 'all' is expected" % parts[2])
    group = 0 if parts[2] == "all" else int(parts[2])
    if group and parts[1] == "token" and inputs["headSize"] % group:
        raise Refused(
            "usage", "group %d does not divide the head size %d" % (group, inputs["headSize"])
        )
    if "pre" in parts[3:] and inputs["side"] == "values":
        raise Refused("usage", "'pre' means nothing on values")
    if parts[3:] not in ([], ["sym"]):
        raise Refused("usage", "unknown word in '%s'" % inputs["format"])
    return {
        "kind": "integer",
        "bits": int(parts[0]),
        "axis": parts[1],
        "group": group,
        "symmetric": parts[3:] == ["sym"],
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
    "f16:sym",
    "f16:channel:32",
    "fp16",
    "f64",
    "q4_0:token:32",
    " 2:channel:32",
    "2:channel:32 ",
    "2,channel,32",
    "2::32",
)


def files():
    file = VectorFile("format_grammar", "format_grammar", {}, oracle, NOTES)
    for text, size in ACCEPTED:
        file.case("accept '%s'" % text, {"format": text, "side": "keys", "headSize": size})
    for text in MALFORMED:
        file.case(
            "refuse '%s'" % text, {"format": text, "side": "keys", "headSize": 64}, ["malformed"]
        )
    for text, size in (("2:token:24", 64), ("2:token:128", 64), ("4:token:64", 32)):
        file.case(
            "refuse '%s' for heads of %d" % (text, size),
            {"format": text, "side": "keys", "headSize": size},
            ["group-does-not-divide"],
        )
    file.case(
        "refuse pre on values",
        {"format": "2:channel:32:pre", "side": "values", "headSize": 64},
        ["pre-on-values"],
    )
    assert all("error" in case for case in file.cases[len(ACCEPTED) :])
    yield file
