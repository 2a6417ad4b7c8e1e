"""Keep sets: the KEEP grammar of CONTRACT 4, KVSink's selection (SPEC C.3) and the stages' layers.

    KEEP = RULE[/LAYERS][+decode]
    RULE = none | first:N | positions:a,b,.. | ids:a,b,.. | ids:learned
         | kvsink:K[@S] | kvsink:auto[@S]        S a stage's layer, `each`, `join`, `union`
         | kvsink:best                           an alias, BEST below
         | rotatekv | toph:K | attention:K[-sinks] | criterion[:M] | random:K:SEED
         | bigkeys:K | smallkeys:K | greedy:K    evidence.py; greedy needs a model and is only parsed

`+decode` is refused for the rules that cannot judge a single token (ALL_AT_ONCE); `criterion`
implies it.  M is a decimal from 0 to 100, 1 if absent; SEED has 64 bits.

The K largest |h| with ties: let v be the K-th largest.  Everything above 1.001 v is in; what lies
within a thousandth of v counts as equal to it, and among equals the lower positions win until K
are chosen.  `auto` takes what passes the stage's threshold, at most max(5, floor(T / 20)).

Layers: one stage at layer l gives `after` = l+1.., `all`, or a range a-b.  With `each`, a layer
takes the set of the latest stage below it; with `join`, the union of all below it; layers up to and
including the first stage take the first stage's set where the layer range asks for them.  With
`union`, all sets together hold in every layer of the range, `after` being those behind the first stage.
For the other rules the default is `all`, and `after` means the layers behind the profile's largest stage
(no stage: none); it needs a profile.
"""

import evidence
from exact import Random, Refused, f32
from suite import VectorFile, abs_rel

BEST = "kvsink:auto@union/all"
ALL_AT_ONCE = ("random", "bigkeys", "smallkeys", "attention", "greedy", "rotatekv", "toph")

MISTAKES = {
    "tie": (
        "Values equal within a thousandth are ordered by their last bits instead of by position."
    ),
    "ties-to-later": "Among equals the later positions win.",
    "sign": "The largest h is taken instead of the largest |h|.",
    "n-larger-than-prompt": "N or K larger than the prompt means all positions, not an error.",
    "stage-layer-included": "`after` starts at the stage's own layer instead of the next one.",
    "join-replaces": "`join` lets a later stage replace the earlier set instead of adding to it.",
    "union-waits": (
        "With `union` the sets of late stages hold in the layers before them too, as far as the range "
        "asks for these."
    ),
    "each-adds": "`each` adds a later stage's set to the earlier one instead of replacing it.",
    "first-stage": (
        "Without `@` the first stage of the profile is taken instead of the one with the largest "
        "ratio."
    ),
    "largest-magnitude": (
        "Without `@` the stage with the largest magnitude is taken instead of the largest ratio."
    ),
    "early-layers-empty": (
        "With `/all` or a range the layers up to the first stage must get the first stage's set (with "
        "`union` those of all stages)."
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
    "not-while-decoding": "The rule looks at all tokens at once, so it cannot judge a new one.",
}

NOTES = dict(MISTAKES, **DESCRIPTIONS)
NOTES.update(evidence.MISTAKES)
NOTES.update(evidence.DESCRIPTIONS)


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
    if rule == "kvsink:best":
        name, argument, stage, usual, _ = parse_keep(BEST)
        return name, argument, stage, span or usual, decode
    if name in ALL_AT_ONCE and decode:
        raise Refused("usage", "%s cannot judge a single token: no +decode" % name)
    if name == "rotatekv" or (name == "criterion" and not colon):
        if colon:
            raise Refused("usage", "rotatekv takes no argument")
        argument = "1"
    if name == "criterion":
        return name, multiplier(argument), None, span, True
    if name == "rotatekv":
        return name, None, None, span, decode
    if name == "random":
        count, seed_given, seed = argument.partition(":")
        seed = whole_number(seed if seed_given else "", "seed")
        if seed >= 1 << 64:
            raise Refused("usage", "random: the seed has at most 64 bits")
        return name, (whole_number(count, "random"), seed), None, span, decode
    if name == "attention":
        without = argument.endswith("-sinks")
        count = argument[: -len("-sinks")] if without else argument
        return name, (whole_number(count, name), without), None, span, decode
    if name in ("toph", "bigkeys", "smallkeys", "greedy"):
        return name, whole_number(argument, name), None, span, decode
    if name == "kvsink":
        argument, at, stage = argument.partition("@")
        if at and stage not in ("each", "join", "union"):
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


def multiplier(text):
    """criterion's M: digits, perhaps a point and more digits, 0 to 100."""
    whole, point, fraction = text.partition(".")
    whole_number(whole, "criterion")
    if point:
        whole_number(fraction, "criterion")
    if float(text) > 100:
        raise Refused("usage", "criterion: M is at most 100, found '%s'" % text)
    return float(text)


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
    if k == 0:
        return []
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
    elif selector in ("each", "join", "union"):
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
        elif not below and wrong == "early-layers-empty":
            out.append([])
        elif selector == "union" and wrong != "union-waits":
            out.append(sorted(set().union(*at.values())))
        elif not below:
            out.append(sorted(at[used[0]]))
        elif (selector in ("join", "union") and wrong != "join-replaces") or wrong == "each-adds":
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
        covered = covered_layers(span, layers, stages, wrong)
        sets = layer_sets(name, argument, inputs, wrong)
        return {
            "layers": [sets[layer] if layer in covered else [] for layer in range(layers)],
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


def covered_layers(span, layers, stages, wrong):
    """The layers of every rule but kvsink."""
    if isinstance(span, tuple):
        return range(span[0], span[1] + (wrong != "range-open"))
    if span != "after" or wrong == "after-means-all":
        return range(layers)
    if stages is None:
        raise Refused("usage", "/after needs a profile; make one with calibrate")
    if not stages:
        return range(0)
    first = stages[0] if wrong == "after-first-stage" else best_stage(stages, wrong)
    return range(first["layer"] + 1, layers)


def layer_sets(name, argument, inputs, wrong):
    """The set of every layer, covered or not."""
    layers, tokens = inputs["layers"], inputs["tokens"]
    if name in ("toph", "rotatekv"):
        width = inputs["width"]
        x = evidence.rows_of(inputs["X"], layers, tokens * width)
        if wrong == "layer-output":
            x = x[1:] + x[-1:]
        if name == "rotatekv":
            if wrong == "rotatekv-once":
                x = x[:1] * layers
            return [evidence.rotatekv_tokens(one, width, wrong) for one in x]
        peaks = [[evidence.row_peak(row, wrong) for row in evidence.rows_of(one, tokens, width)]
                 for one in x]
        return [top(one, argument, wrong) for one in peaks]
    if name in ("bigkeys", "smallkeys"):
        big = (name == "bigkeys") != (wrong == "keys-other-way-round")
        out = []
        for one in evidence.rows_of(inputs["keyRows"], layers, len(inputs["keyRows"]) // layers):
            rows = evidence.rows_of(one, tokens, len(one) // tokens)
            norms = [evidence.row_norm(row, wrong) for row in rows]
            out.append(top(norms, argument, wrong) if big
                       else evidence.smallest(norms, argument, wrong))
        return out
    if name == "random":
        count, seed = argument
        step = 1 if wrong == "random-per-layer" else 0
        return [evidence.random_positions(seed + step * layer, tokens, count, wrong)
                for layer in range(layers)]
    if name in ("attention", "criterion"):
        a = evidence.rows_of(inputs["A"], layers, inputs["heads"], tokens, tokens)
        scores = [evidence.attention_scores(heads, tokens, wrong) for heads in a]
        if name == "attention":
            return attention_sets(scores, argument, inputs, wrong)
        if wrong == "criterion-per-layer":
            return [evidence.five_best(one) for one in scores]
        return [evidence.five_best(evidence.criterion_scores(scores, argument, wrong))] * layers
    return [plain_set(name, argument, inputs, wrong)] * layers


def attention_sets(scores, argument, inputs, wrong):
    count, without = argument
    taken = set()
    if without:
        stages, tokens = inputs.get("stages"), inputs["tokens"]
        if stages is None:
            raise Refused("usage", "attention:K-sinks needs a profile; make one with calibrate")
        for i, stage in enumerate(stages):
            h = inputs["h"][i * tokens : (i + 1) * tokens]
            if wrong != "sinks-of-one-stage" or stage is best_stage(stages, ""):
                taken.update(select(h, "auto", stage["threshold"])[0])
    if wrong == "sinks-eligible":
        taken = set()
    if wrong == "kth-before-exclusion":
        return [[t for t in top(one, count) if t not in taken] for one in scores]
    eligible = [t for t in range(inputs["tokens"]) if t not in taken]
    return [[eligible[i] for i in top([one[t] for t in eligible], count, wrong)] for one in scores]


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
        ("union all", "kvsink:2@union/all", ["union-waits"]),
        ("union", "kvsink:2@union", ["union-waits", "stage-layer-included"]),
        ("union range", "kvsink:auto@union/0-4", ["union-waits", "range-open"]),
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
    "rotatekv:20",
    "rotatekv:",
    "rotatekv@1",
    "toph",
    "toph:",
    "toph:x",
    "toph:-1",
    "toph:5@1",
    "attention",
    "attention:",
    "attention:-5",
    "attention:-sinks",
    "attention:5-",
    "attention:5-sink",
    "attention:5-sinks-sinks",
    "attention:5@each",
    "criterion:",
    "criterion:x",
    "criterion:-1",
    "criterion:1.",
    "criterion:.5",
    "criterion:1e1",
    "criterion:100.5",
    "criterion:1:2",
    "criterion@2",
    "random",
    "random:5",
    "random:5:",
    "random::1",
    "random:5:-1",
    "random:5:0x1",
    "random:5:1:2",
    "random:5:18446744073709551616",
    "random:5:1@0",
    "bigkeys",
    "bigkeys:",
    "smallkeys:all",
    "greedy",
    "greedy:-1",
    "kvsink:best@1",
    "kvsink:best5",
    "kvsink:Best",
    "best",
)
NOT_WHILE_DECODING = (
    "rotatekv+decode",
    "toph:5+decode",
    "attention:5+decode",
    "attention:5-sinks/all+decode",
    "random:5:1+decode",
    "bigkeys:5+decode",
    "smallkeys:5+decode",
    "greedy:5+decode",
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
    "kvsink:3@union/all",
    "kvsink:5/after",
    "first:4/12-29",
    "first:4/0-0",
    "first:4/all",
    "first:4+decode",
    "kvsink:auto@12/3-7+decode",
    "none+decode",
    "first:4/after",
    "positions:3/after+decode",
    "kvsink:best",
    "kvsink:best/12-29",
    "kvsink:best/after+decode",
    "rotatekv",
    "rotatekv/0-3",
    "toph:5",
    "toph:20/after",
    "attention:5",
    "attention:5-sinks",
    "attention:5-sinks/2-3",
    "criterion",
    "criterion:0",
    "criterion:2.25",
    "criterion:100",
    "criterion:1+decode",
    "criterion/all",
    "random:5:0",
    "random:5:18446744073709551615/after",
    "bigkeys:5",
    "smallkeys:5/3-4",
    "greedy:5",
    "greedy:5/after",
)


def rule_cases(file, random):
    """The rules of evidence.py: sinks at 5 and 11, and other tokens that are merely attended to."""
    tokens, layers, heads, width = 24, 4, 2, 6
    stages = [stage(0, 1, 1, 60, 0.5, 10), stage(1, 3, -1, 900, 0.5, 20)]
    h = planted_h(random, tokens, {0: 50.0, 7: 40.0}) + planted_h(random, tokens, {5: -800.0,
                                                                                 11: -700.0})
    base = {
        "tokens": tokens,
        "layers": layers,
        "ids": list(range(tokens)),
        "stages": stages,
        "learned": [],
        "h": h,
    }
    bare = {name: base[name] for name in ("tokens", "layers", "ids")}
    outliers = {(0, 7, 1): 45.0, (1, 0, 1): -60.0, (1, 9, 2): 30.0, (2, 5, 3): -800.0,
                (2, 11, 3): -700.0, (2, 20, 0): 9.0, (3, 5, 3): -810.0, (3, 11, 3): -705.0,
                (3, 22, 4): 6.0}
    x = {"width": width, "X": evidence.hidden(random, layers, tokens, width, outliers)}
    wide = {"width": 24, "X": evidence.hidden(random, layers, tokens, 24, {
        (layer, t, c): (30.0 + t + c) * (-1) ** c
        for layer in range(layers) for t in (5, 11 - layer) for c in range(12)})}
    keys = [f32(random.uniform(-2, 2)) for _ in range(layers * tokens * 8)]
    for layer in range(layers):
        for t, factor in ((5, 0.05), (11, 0.1), (17, 3.0), (2, 2.5)):
            first = (layer * tokens + t) * 8
            keys[first : first + 8] = [f32(round(v * factor, 3)) for v in keys[first : first + 8]]
        flat_row, peaked_row = (layer * tokens + 13) * 8, (layer * tokens + 9) * 8
        keys[flat_row : flat_row + 8] = [f32(1.9 * (-1) ** c) for c in range(8)]
        keys[peaked_row : peaked_row + 8] = [f32(4.0 if c == 6 else 0.1) for c in range(8)]
    k = {"keyRows": keys}

    def case(name, keep, more, flags=(), must=(), profile=True):
        inputs = dict({"keep": keep}, **(base if profile else bare))
        inputs.update(more)
        file.case(name, inputs, flags, must)

    case("toph 2", "toph:2", x, ["outlier-channel", "sink-not-first"], ["layer-output",
                                                                       "toph-signed"])
    case("toph 5 after", "toph:5/after", x, [], ["after-means-all", "after-first-stage"])
    case("toph without a profile", "toph:3", x, [], ["layer-output"], False)
    case("toph more than the text", "toph:100", x, [], [], False)
    case("toph 0", "toph:0", x, [], [], False)
    flat = {"width": 2, "X": [f32(250 * (1 + (random.below(1000) - 500) * 1e-6))
                              for _ in range(layers * tokens * 2)]}
    case("toph of one repeated token", "toph:3", flat, ["repeated-token"], ["tie"], False)
    case("toph by norm", "toph:4/1-2", wide, [], ["range-open"], False)
    case("rotatekv", "rotatekv", wide, ["outlier-channel", "sink-not-first"],
         ["layer-output", "rotatekv-twenty-tokens", "rotatekv-once"], False)
    case("rotatekv, a few outliers", "rotatekv", x, ["outlier-channel"], ["layer-output"], False)
    case("rotatekv after", "rotatekv/after", wide, [], ["after-means-all"])
    case("rotatekv, equal entries", "rotatekv", {"width": 6, "X": [1.0] * (layers * tokens * 6)},
         ["repeated-token"], [], False)
    case("rotatekv, fewer than 20 entries", "rotatekv", {"width": 1, "X": [2.0, -1.0] * 2,
         "tokens": 1, "ids": [3]}, [], [], False)
    case("first after", "first:3/after", {}, [], ["after-means-all", "after-first-stage"])
    case("first after without a profile", "first:3/after", {}, [], ["after-means-all"], False)
    case("positions after, decode", "positions:3,9/after+decode", {}, [], ["after-means-all"])
    case("none after without a profile", "none/after", {}, [], ["after-means-all"], False)
    case("bigkeys 3", "bigkeys:3", k, ["sink-not-first"], ["keys-other-way-round",
                                                          "keys-largest-channel"], False)
    case("smallkeys 3", "smallkeys:3", k, ["sink-not-first"], ["keys-other-way-round",
                                                              "keys-largest-channel",
                                                              "keys-first-head"], False)
    case("smallkeys after", "smallkeys:2/after", k, [], ["after-means-all"])
    same = {"keyRows": [f32(v * (1 + (random.below(1000) - 500) * 1e-6)) for _ in
                        range(layers * tokens) for v in (3.0, -4.0)]}
    case("smallkeys of one repeated token", "smallkeys:4", same, ["repeated-token"],
         ["smallkeys-tie"], False)
    case("bigkeys of one repeated token", "bigkeys:4", same, ["repeated-token"], ["tie"], False)
    case("smallkeys more than the text", "smallkeys:25", k, [], [], False)
    case("random 5", "random:5:1", {}, [], ["random-seed-hashed", "random-scaled",
                                           "random-per-layer"], False)
    case("random 5 of another seed", "random:5:2", {}, [], ["random-per-layer"], False)
    case("random 20 of 24", "random:20:7", {}, [], ["random-with-repeats"], False)
    case("random all", "random:24:0", {}, [], [], False)
    case("random more than the text", "random:30:3", {}, [], [], False)
    case("random 0", "random:0:3", {}, [], [], False)
    case("random, largest seed", "random:5:18446744073709551615/after", {}, [],
         ["after-means-all"])
    case("kvsink:best", "kvsink:best", {}, ["several-sinks"])
    case("kvsink:best in some layers", "kvsink:best/2-3", {}, ["several-sinks"])
    case("kvsink:best without a profile", "kvsink:best", {}, [], [], False)


def attention_cases(file, random):
    """Sinks at 5 and 11, a token that every layer attends to at 8, others that some layers do."""
    tokens, layers, heads = 14, 3, 2
    stages = [stage(0, 1, 1, 60, 0.5, 10), stage(1, 3, -1, 900, 0.5, 20)]
    base = {
        "tokens": tokens,
        "layers": layers,
        "ids": list(range(tokens)),
        "stages": stages,
        "learned": [],
        "h": planted_h(random, tokens, {0: 50.0, 7: 40.0})
        + planted_h(random, tokens, {5: -800.0, 11: -700.0}),
    }
    bare = {name: base[name] for name in ("tokens", "layers", "ids")}
    shares = {(0, 7): 0.6, (1, 0): 0.8, (1, 7): 0.8, (1, 5): 1.2, (1, 11): 1.0, (2, 0): 0.5,
              (2, 5): 1.5, (2, 11): 0.7, (2, 12): 0.6, (1, 12): 0.6, (0, 5): 0.1, (1, 10): 0.9,
              (2, 7): 0.3, (0, 8): 0.5, (1, 8): 0.5, (2, 8): 0.5, (0, 2, 1): 0.9, (1, 3, 0): 1.2,
              (2, 1, 1): 1.0}
    a = {"heads": heads, "A": evidence.attention_rows(random, layers, heads, tokens, shares)}

    def case(name, keep, more, flags=(), must=(), profile=True):
        inputs = dict({"keep": keep}, **(base if profile else bare))
        inputs.update(more)
        file.case(name, inputs, flags, must)

    case("attention 3", "attention:3", a, ["sinks-elsewhere", "sink-not-first"],
         ["alpha-by-all-queries"], False)
    case("attention 4 in two layers", "attention:4/1-2", a, [], ["alpha-by-all-queries"], False)
    case("attention without its own query", "attention:6", a, [], ["alpha-without-itself"], False)
    case("attention without sinks", "attention:3-sinks", a, ["sinks-elsewhere"],
         ["sinks-eligible", "sinks-of-one-stage", "kth-before-exclusion"])
    case("attention without sinks needs a profile", "attention:3-sinks", a, [], [], False)
    case("attention without sinks, more than there are", "attention:12-sinks", a, ["fewer-than-k"],
         ["sinks-eligible"])
    case("attention without sinks, no stage", "attention:3-sinks", dict(a, stages=[], h=[]),
         ["no-stage"])
    case("first after, no stage", "first:3/after", {"stages": [], "h": []}, ["no-stage"],
         ["after-means-all"])
    case("criterion", "criterion", a, ["sinks-elsewhere"], ["criterion-per-layer"], False)
    case("criterion without deviation", "criterion:0", a, [], ["multiplier-ignored"], False)
    case("criterion 3", "criterion:3/1-2", a, [], ["multiplier-ignored", "variance"], False)
    case("criterion 0.5 and decode", "criterion:0.5+decode", a, [], ["variance"], False)
    case("criterion after", "criterion/after", a, [], ["after-means-all"])


def criterion_cases(file, random):
    compare = abs_rel(1e-9, 1e-9, "sums of at most 24 x 8 float32 numbers in double, and a "
                      "square root of a difference of such sums: 200 x 2**-53 / 1e-4")
    shares = {(0, 3): 0.6, (1, 3): 0.5, (2, 3): 0.6, (2, 9): 2.0, (1, 0): 0.4, (0, 0): 0.5,
              (2, 0): 0.3, (0, 12): 0.8, (1, 12): 0.7, (2, 12): 0.9, (1, 17): 1.5, (2, 17): 1.4,
              (0, 17): 1.4, (0, 4, 1): 0.9, (1, 5, 0): 0.9}
    for name, tokens, multiplier, appends, must in (
        ("prefill and single steps", 20, 1.0, [14, 1, 1, 1, 1, 1, 1], ["alpha-by-all-queries",
                                                                       "sample-deviation"]),
        ("from the first token", 7, 0.5, [1] * 7, ["variance", "alpha-without-itself"]),
        ("in parts", 20, 3.0, [5, 9, 6], ["multiplier-ignored", "sample-deviation"]),
        ("M = 0", 12, 0.0, [12], ["multiplier-ignored", "alpha-largest-head"]),
    ):
        file.case(name, {"layers": 3, "heads": 2, "tokens": tokens, "multiplier": multiplier,
                         "appends": appends,
                         "A": evidence.attention_rows(random, 3, 2, tokens, shares)},
                  ["sink-not-first"], must, compare)
    file.case("one layer", {"layers": 1, "heads": 1, "tokens": 6, "multiplier": 1.0,
                            "appends": [4, 2],
                            "A": evidence.attention_rows(random, 1, 1, 6, {(0, 2): 1.0})},
              ["sink-not-first"], [], compare)
    uniform = [f32(0.125) if j <= i else 0.0 for i in range(8) for j in range(8)]
    file.case("all equal", {"layers": 2, "heads": 1, "tokens": 8, "multiplier": 1.0,
                            "appends": [8], "A": uniform * 2}, ["repeated-token"], [], compare)


def files():
    file = VectorFile("keep", "keep", {"stages": "none or one"}, oracle, NOTES, list(MISTAKES))
    one_stage_cases(file, Random("keep"))
    yield file
    file = VectorFile("keep_stages", "keep", {"stages": "several"}, oracle, NOTES, list(MISTAKES))
    several_stage_cases(file, Random("keep stages"))
    yield file
    rules = list(MISTAKES) + list(evidence.MISTAKES)
    file = VectorFile("keep_rules", "keep", {"stages": "two or none"}, oracle, NOTES, rules)
    rule_cases(file, Random("keep rules"))
    attention_cases(file, Random("keep attention"))
    yield file
    file = VectorFile("criterion", "criterion", {}, evidence.criterion_oracle, NOTES,
                      list(evidence.MISTAKES))
    criterion_cases(file, Random("criterion"))
    yield file
    file = VectorFile("keep_grammar", "keep_grammar", {}, grammar_oracle, NOTES)
    for text in WELL_FORMED:
        file.case("accept '%s'" % text, {"keep": text})
    for text in MALFORMED:
        file.case("refuse '%s'" % text, {"keep": text}, ["malformed"])
        assert "error" in file.cases[-1], text
    for text in NOT_WHILE_DECODING:
        file.case("refuse '%s'" % text, {"keep": text}, ["not-while-decoding"])
        assert "error" in file.cases[-1], text
    yield file
