"""Keep sets: the KEEP grammar of CONTRACT 4, KVSink's selection (SPEC C.3) and the stages' layers.

    KEEP = RULE[/LAYERS][+decode]
    RULE = none | first:N | positions:a,b,.. | ids:a,b,.. | ids:learned
         | kvsink:K[@S] | kvsink:auto[@S]        S a stage's layer, `each` or `join`

The K largest |h| with ties: let v be the K-th largest.  Everything above 1.001 v is in; what lies
within a thousandth of v counts as equal to it, and among equals the lower positions win until K
are chosen.  `auto` takes what passes the stage's threshold, at most max(5, floor(T / 20)).

Layers: one stage at layer l gives `after` = l+1.., `all`, or a range a-b.  With `each`, a layer
takes the set of the latest stage below it; with `join`, the union of all below it; layers up to and
including the first stage take the first stage's set where the layer range asks for them.
"""

from exact import Random, Refused, f32
from suite import VectorFile

MISTAKES = {
    "tie": (
        "Values equal within a thousandth are ordered by their last bits instead of by position."
    ),
    "ties-to-later": "Among equals the later positions win.",
    "sign": "The largest h is taken instead of the largest |h|.",
    "n-larger-than-prompt": "N or K larger than the prompt means all positions, not an error.",
    "stage-layer-included": "`after` starts at the stage's own layer instead of the next one.",
    "join-replaces": "`join` lets a later stage replace the earlier set instead of adding to it.",
    "each-adds": "`each` adds a later stage's set to the earlier one instead of replacing it.",
    "first-stage": (
        "Without `@` the first stage of the profile is taken instead of the one with the largest "
        "ratio."
    ),
    "largest-magnitude": (
        "Without `@` the stage with the largest magnitude is taken instead of the largest ratio."
    ),
    "early-layers-empty": (
        "With `/all` or a range the layers up to the first stage must get the first stage's set."
    ),
    "auto-cap": "`auto` is not limited to max(5, 5 % of the tokens).",
    "auto-takes-five": "`auto` takes five tokens, instead of only those that pass the threshold.",
    "first-off-by-one": "`first:N` keeps N + 1 positions.",
    "ids-without-zero": "`ids:` also keeps position 0.",
    "first-occurrence": "`ids:` keeps every occurrence of an id, not only the first.",
    "kvsink-all-layers": "The default of kvsink is the layers after the stage, not all layers.",
    "range-open": "A range a-b includes layer b.",
    "position-outside": "A position beyond the text is an error, not silently dropped.",
}

DESCRIPTIONS = {
    "no-sink": "A profile without stages: KVSink keeps nothing, which is legal.",
    "repeated-token": (
        "All tokens are the same, so all h are nearly equal; the lowest positions must be taken."
    ),
    "several-sinks": "More than one token passes the threshold.",
    "sink-not-first": "The largest |h| is not at position 0.",
    "malformed": "The string must be refused as a usage error.",
}

NOTES = dict(MISTAKES, **DESCRIPTIONS)


def whole_number(text, what):
    if not text or not all("0" <= c <= "9" for c in text):
        raise Refused("usage", "%s: a number was expected, found '%s'" % (what, text))
    return int(text)


def parse_keep(text):
    """rule name, rule argument, stage selector or None, layers or None, decode."""
    decode = text.endswith("+decode")
    body = text[: -len("+decode")] if decode else text
    rule, slash, layers = body.partition("/")
    span = parse_layers(layers) if slash else None
    name, colon, argument = rule.partition(":")
    stage = None
    if name == "kvsink":
        argument, at, stage = argument.partition("@")
        if at and stage not in ("each", "join"):
            stage = whole_number(stage, "stage")
        stage = stage if at else None
        argument = argument if argument == "auto" else whole_number(argument, "kvsink")
    elif name == "none":
        if colon:
            raise Refused("usage", "none takes no argument")
    elif name == "first":
        argument = whole_number(argument, "first")
    elif name in ("positions", "ids"):
        if not (name == "ids" and argument == "learned"):
            argument = [whole_number(part, name) for part in argument.split(",")]
    else:
        raise Refused("usage", "unknown rule '%s'" % rule)
    return name, argument, stage, span, decode


def parse_layers(text):
    if text in ("after", "all"):
        return text
    low, dash, high = text.partition("-")
    if not dash:
        raise Refused("usage", "layers: 'after', 'all' or a-b, found '%s'" % text)
    low, high = whole_number(low, "layers"), whole_number(high, "layers")
    if low > high:
        raise Refused("usage", "layers: range runs backwards")
    return low, high


def top(values, k, wrong=""):
    """Positions of the k largest of |values|, ties by position (see the head of this file)."""
    size = [v if wrong == "sign" else abs(v) for v in values]
    if k >= len(size):
        if wrong == "n-larger-than-prompt":
            raise Refused("usage", "K is larger than the prompt")
        return list(range(len(size)))
    if wrong == "tie":
        return sorted(sorted(range(len(size)), key=lambda t: (-size[t], t))[:k])
    pivot = sorted(size, reverse=True)[k - 1]
    chosen = [t for t, v in enumerate(size) if v > pivot * 1.001]
    equal = [t for t, v in enumerate(size) if abs(v - pivot) <= 0.001 * pivot]
    if wrong == "ties-to-later":
        equal.reverse()
    return sorted(chosen + equal[: k - len(chosen)])


def select(h, amount, threshold, wrong=""):
    """A stage's own set and whether the cap of `auto` bound."""
    if amount != "auto":
        return top(h, amount, wrong), False
    if wrong == "auto-takes-five":
        return top(h, 5), False
    passing = [t for t, v in enumerate(h) if (v if wrong == "sign" else abs(v)) >= threshold]
    cap = max(5, len(h) // 20)
    if len(passing) <= cap or wrong == "auto-cap":
        return passing, False
    return top(h, cap, wrong), True


def ratio(stage):
    return stage["medianAtSinks"] / max(stage["medianElsewhere"], 1e-6 * stage["medianAtSinks"])


def best_stage(stages, wrong):
    """The stage of the largest ratio to the median; the lower layer on ties."""
    if wrong == "first-stage":
        return stages[0]
    key = (lambda s: s["medianAtSinks"]) if wrong == "largest-magnitude" else ratio
    return sorted(stages, key=lambda s: (-key(s), s["layer"]))[0]


def kvsink_layers(stages, sets, selector, span, layers, wrong):
    """The positions that each layer keeps."""
    if not stages:
        return [[] for _ in range(layers)]
    if selector is None:
        used = [best_stage(stages, wrong)["layer"]]
    elif selector in ("each", "join"):
        used = sorted({stage["layer"] for stage in stages})
    else:
        used = [selector]
        if selector not in [stage["layer"] for stage in stages]:
            raise Refused("usage", "the profile has no stage at layer %d" % selector)
    at = {}
    for stage, chosen in zip(stages, sets):
        if selector is None and stage is not best_stage(stages, wrong):
            continue
        at.setdefault(stage["layer"], set()).update(chosen)
    out = []
    for layer in range(layers):
        below = [s for s in used if s < layer or (wrong == "stage-layer-included" and s == layer)]
        low, high = (0, layers - 1) if span in ("after", "all") else span
        if wrong == "range-open" and span not in ("after", "all"):
            high -= 1
        if not low <= layer <= high or (span == "after" and not below):
            out.append([])
        elif not below:
            out.append([] if wrong == "early-layers-empty" else sorted(at[used[0]]))
        elif (selector == "join" and wrong != "join-replaces") or wrong == "each-adds":
            out.append(sorted(set().union(*[at[s] for s in below])))
        else:
            out.append(sorted(at[below[-1]]))
    return out


def plain_set(name, argument, inputs, wrong):
    tokens, ids = inputs["tokens"], inputs["ids"]
    if name == "none":
        return []
    if name == "first":
        if argument > tokens and wrong == "n-larger-than-prompt":
            raise Refused("usage", "N is larger than the prompt")
        return list(range(min(argument + (wrong == "first-off-by-one"), tokens)))
    if name == "positions":
        outside = [p for p in argument if p >= tokens]
        if outside and wrong != "position-outside":
            raise Refused(
                "usage", "position %d is outside the text of %d tokens" % (outside[0], tokens)
            )
        return sorted({p for p in argument if p < tokens})
    if argument == "learned":
        if inputs.get("stages") is None:
            raise Refused("usage", "ids:learned needs a profile")
        argument = inputs["learned"]
    found = [t for t in range(tokens) if ids[t] in argument]
    if wrong == "first-occurrence":
        found = [t for t in found if ids[t] not in ids[:t]]
    return sorted(set(found + ([] if wrong == "ids-without-zero" else [0])))


def oracle(inputs, wrong=""):
    name, argument, selector, span, decode = parse_keep(inputs["keep"])
    layers, stages = inputs["layers"], inputs.get("stages")
    if isinstance(span, tuple) and span[1] >= layers:
        raise Refused("usage", "layer %d: the model has %d layers" % (span[1], layers))
    if name != "kvsink":
        chosen = plain_set(name, argument, inputs, wrong)
        low, high = span if isinstance(span, tuple) else (0, layers - 1)
        if wrong == "range-open" and isinstance(span, tuple):
            high -= 1
        return {
            "layers": [chosen if low <= layer <= high else [] for layer in range(layers)],
            "decode": decode,
        }
    if stages is None:
        raise Refused("usage", "kvsink needs a profile; make one with calibrate")
    default = "all" if wrong == "kvsink-all-layers" else "after"
    tokens = inputs["tokens"]
    rows = [inputs["h"][i * tokens : (i + 1) * tokens] for i in range(len(stages))]
    sets = [select(h, argument, stage["threshold"], wrong) for h, stage in zip(rows, stages)]
    own = [chosen for chosen, _ in sets]
    return {
        "layers": kvsink_layers(stages, own, selector, span or default, layers, wrong),
        "decode": decode,
        "stagePositions": own,
        "stageCapBound": [bound for _, bound in sets],
    }


def grammar_oracle(inputs, wrong=""):
    name, argument, selector, span, decode = parse_keep(inputs["keep"])
    return {"decode": decode}


def stage(layer, channel, sign, at_sinks, elsewhere, threshold):
    return {
        "layer": layer,
        "channel": channel,
        "sign": sign,
        "medianAtSinks": f32(at_sinks),
        "medianElsewhere": f32(elsewhere),
        "threshold": f32(threshold),
    }


def planted_h(random, tokens, sinks):
    """Small everywhere; at the sinks the given values."""
    h = random.many(tokens, random.uniform, -0.9, 0.9)
    for position, value in sinks.items():
        h[position] = f32(value)
    return h


def one_stage_cases(file, random):
    tokens, layers = 24, 6
    ids = [1] + [10 + random.below(6) for _ in range(tokens - 1)]
    one = [stage(2, 7, -1, 700, 0.5, 20)]
    h = planted_h(random, tokens, {0: -310.0, 9: -905.5, 17: 12.5, 3: -8.0, 20: 6.0})
    base = {
        "tokens": tokens,
        "layers": layers,
        "ids": ids,
        "stages": one,
        "learned": [12, 14],
        "h": h,
    }

    def case(identity, keep, flags=(), must=(), **changes):
        inputs = dict(base, keep=keep)
        inputs.update(changes)
        ordered = {
            k: inputs[k]
            for k in ("keep", "tokens", "layers", "ids", "stages", "learned", "h")
            if inputs[k] is not None
        }
        file.case(identity, ordered, flags, must)

    case("none", "none", ["no-sink"])
    case("first 4", "first:4", [], ["first-off-by-one"])
    case("first more than the prompt", "first:100", [], ["n-larger-than-prompt"])
    case("first with a range", "first:2/1-3", [], ["range-open"])
    case("first in one layer", "first:2/5-5", [], ["range-open"])
    case("first all and decode", "first:3/all+decode")
    case("positions unsorted", "positions:20,3,11", ["several-sinks"])
    case("positions twice", "positions:5,5,2")
    case("last position", "positions:23")
    case("position outside", "positions:3,24", [], ["position-outside"])
    case("ids", "ids:%d,%d" % (ids[5], 999), [], ["ids-without-zero", "first-occurrence"])
    case("ids learned", "ids:learned", [], ["ids-without-zero"])
    case("ids learned without a profile", "ids:learned", stages=None, learned=None, h=None)
    case("kvsink without a profile", "kvsink:5", stages=None, learned=None, h=None)
    case(
        "kvsink 5",
        "kvsink:5",
        ["several-sinks", "sink-not-first"],
        ["sign", "stage-layer-included", "kvsink-all-layers"],
    )
    case("kvsink 1", "kvsink:1", ["sink-not-first"], ["sign"])
    case("kvsink larger than prompt", "kvsink:25", [], ["n-larger-than-prompt"])
    case("kvsink as large as the prompt", "kvsink:24")
    case("kvsink all layers", "kvsink:2/all", [], ["early-layers-empty"])
    case("kvsink after", "kvsink:2/after", [], ["stage-layer-included"])
    case("kvsink range", "kvsink:2/1-4", [], ["early-layers-empty", "range-open"])
    case("kvsink with its layer", "kvsink:3@2+decode")
    case("kvsink unknown stage", "kvsink:3@3")
    case("kvsink each of one stage", "kvsink:3@each")
    case("auto", "kvsink:auto", ["several-sinks"], ["auto-takes-five", "sign"])
    case(
        "auto none passes",
        "kvsink:auto",
        ["no-sink"],
        ["auto-takes-five"],
        h=planted_h(random, tokens, {}),
    )
    case("auto all layers", "kvsink:auto/all")
    many = {t: -100.0 - t for t in range(1, 22, 2)}
    case(
        "auto cap binds",
        "kvsink:auto",
        ["several-sinks"],
        ["auto-cap"],
        h=planted_h(random, tokens, many),
    )
    case(
        "auto threshold met exactly",
        "kvsink:auto",
        [],
        [],
        h=planted_h(random, tokens, {4: 20.0, 8: -20.0, 9: 19.998}),
    )
    case("range beyond the model", "first:2/2-6")
    case("no stages", "kvsink:5", ["no-sink"], [], stages=[], learned=[], h=[])
    case(
        "no stages auto each", "kvsink:auto@each/all", ["no-sink"], [], stages=[], learned=[], h=[]
    )
    flat = [f32(-250.0 * (1 + (random.below(1000) - 500) * 1e-6)) for _ in range(tokens)]
    case(
        "repeated token",
        "kvsink:3",
        ["repeated-token"],
        ["tie", "ties-to-later"],
        h=flat,
        ids=[1] * tokens,
    )
    case(
        "repeated token auto",
        "kvsink:auto/all",
        ["repeated-token"],
        ["tie", "auto-cap", "ties-to-later"],
        h=flat,
        ids=[1] * tokens,
    )
    near = planted_h(random, tokens, {2: -500.0, 6: 400.0, 11: -400.2, 15: 400.3, 18: 401.2})
    case("equals within a thousandth", "kvsink:3", [], ["tie", "ties-to-later"], h=near)
    case("all zero", "kvsink:2", ["repeated-token"], ["ties-to-later"], h=[0.0] * tokens)
    case("one token", "kvsink:5", [], [], tokens=1, ids=[1], h=[-300.0])
    case("one token auto", "kvsink:auto", [], [], tokens=1, ids=[1], h=[-300.0])


def several_stage_cases(file, random):
    tokens, layers = 120, 8
    ids = [random.below(50) for _ in range(tokens)]
    stages = [
        stage(1, 3, 1, 120, 0.25, 10),
        stage(3, 5, -1, 900, 4, 60),
        stage(5, 0, 1, 300, 0.5, 15),
    ]
    h = (
        planted_h(random, tokens, {0: 130.0, 30: 110.0, 31: 50.0})
        + planted_h(random, tokens, {30: -1000.0, 60: -800.0})
        + planted_h(
            random,
            tokens,
            {90: 310.0, 0: 290.0, 91: -200.0, 92: 30.0, 93: 20.0, 94: 17.0, 95: 16.5},
        )
    )
    base = {"tokens": tokens, "layers": layers, "ids": ids, "stages": stages, "learned": [], "h": h}
    plans = [
        ("largest ratio", "kvsink:2", ["first-stage", "largest-magnitude"]),
        ("stage 1", "kvsink:2@1", []),
        ("stage 3 all", "kvsink:2@3/all", []),
        ("each", "kvsink:2@each", ["each-adds"]),
        ("each all", "kvsink:2@each/all", ["each-adds", "early-layers-empty"]),
        ("each range", "kvsink:3@each/1-4", ["early-layers-empty", "range-open"]),
        ("join", "kvsink:2@join", ["join-replaces"]),
        ("join all", "kvsink:2@join/all+decode", ["join-replaces"]),
        ("join after", "kvsink:1@join/after", ["join-replaces", "stage-layer-included"]),
        ("auto each", "kvsink:auto@each/all", ["auto-cap", "each-adds"]),
        ("auto join", "kvsink:auto@join", ["auto-cap"]),
        ("each range before all stages", "kvsink:1@each/0-1", ["early-layers-empty"]),
    ]
    for name, keep, must in plans:
        file.case(name, dict({"keep": keep}, **base), ["several-sinks", "sink-not-first"], must)
    twins = [
        stage(1, 3, 1, 120, 0.25, 10),
        stage(1, 5, -1, 900, 4, 60),
        stage(4, 0, 1, 50, 0.5, 15),
    ]
    small = {
        "tokens": 20,
        "layers": 6,
        "ids": list(range(20)),
        "stages": twins,
        "learned": [],
        "h": planted_h(random, 20, {0: 100.0})
        + planted_h(random, 20, {7: -900.0})
        + planted_h(random, 20, {9: 40.0}),
    }
    for name, keep in (
        ("two channels of one layer", "kvsink:1@1"),
        ("two channels each", "kvsink:1@each"),
        ("two channels join", "kvsink:1@join/all"),
    ):
        file.case(name, dict({"keep": keep}, **small), ["several-sinks"])
    tie = [stage(2, 3, 1, 100, 0.5, 10), stage(4, 5, 1, 200, 1, 10)]
    file.case(
        "equal ratios: lower layer",
        {
            "keep": "kvsink:1",
            "tokens": 4,
            "layers": 6,
            "ids": [1, 2, 3, 4],
            "stages": tie,
            "learned": [],
            "h": [90.0, 1.0, 0.5, 0.25, 1.0, 2.0, 300.0, 0.5],
        },
    )


MALFORMED = (
    "",
    " ",
    "frist:4",
    "first",
    "first:",
    "first:-1",
    "first:x",
    "first:4x",
    "first:4.5",
    "First:4",
    "first:4,5",
    "first: 4",
    "none:1",
    "positions",
    "positions:",
    "positions:3,,4",
    "positions:3,",
    "positions:,3",
    "positions:3;4",
    "positions:-1",
    "ids",
    "ids:",
    "ids:a",
    "ids:1,b",
    "ids:learn",
    "kvsink",
    "kvsink:",
    "kvsink:0.5",
    "kvsink:-2",
    "kvsink:five",
    "kvsink:5@",
    "kvsink:5@x",
    "kvsink:5@-1",
    "kvsink:@1",
    "kvsink:auto@",
    "kvsink:auto@all",
    "kvsink:auto5",
    "first:4/",
    "first:4/5-",
    "first:4/-5",
    "first:4/9-3",
    "first:4/some",
    "first:4/1-2-3",
    "first:4 /all",
    "first:4+dec",
    "first:4+",
    "first:4+decode/all",
    "kvsink:5/after@1",
    "/all",
    "+decode",
    ":4",
)
WELL_FORMED = (
    "none",
    "first:1",
    "positions:0",
    "positions:3,17,40",
    "ids:1,2",
    "ids:learned",
    "kvsink:5",
    "kvsink:5@0",
    "kvsink:auto",
    "kvsink:auto@each",
    "kvsink:3@join/all",
    "kvsink:5/after",
    "first:4/12-29",
    "first:4/0-0",
    "first:4/all",
    "first:4+decode",
    "kvsink:auto@12/3-7+decode",
    "none+decode",
)


def files():
    file = VectorFile("keep", "keep", {"stages": "none or one"}, oracle, NOTES, list(MISTAKES))
    one_stage_cases(file, Random("keep"))
    yield file
    file = VectorFile("keep_stages", "keep", {"stages": "several"}, oracle, NOTES, list(MISTAKES))
    several_stage_cases(file, Random("keep stages"))
    yield file
    file = VectorFile("keep_grammar", "keep_grammar", {}, grammar_oracle, NOTES)
    for text in WELL_FORMED:
        file.case("accept '%s'" % text, {"keep": text})
    for text in MALFORMED:
        file.case("refuse '%s'" % text, {"keep": text}, ["malformed"])
        assert "error" in file.cases[-1], text
    yield file
