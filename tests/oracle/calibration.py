"""Calibration and prediction: CONTRACT 5, SPEC C.3 and C.7.

For channel c let m_l(c) be the largest |H^l[t, c]| over the tokens, the token embedding being
layer -1.  A rise is a run of layers that each at least double m; its last layer is a candidate if
m reaches 100 and 300 times the median of |H^l|.  A model in which nothing reaches 100 is `weak`:
then the ratio decides alone.  A layer with candidates is a stage, its channel the one of largest
m.  A stage counts when more than half of the prompts show it.  A fall by a write of the opposite
sign (dissipation) doubles nothing and is no stage.

Threshold of a stage: in each prompt that shows it, sort |h| in descending order, floor at a
millionth of the largest, cut at the largest ratio between neighbours in the upper half; the
prompt's threshold is the geometric mean of the two sides of the cut, the stage's the median over
the prompts (of an even number: the geometric mean of the two middle ones).  Learned ids: tokens
that were sinks at any stage in at least half of their occurrences, position 0 not counted.
"""

import math

from exact import Random, f32
from keep import oracle as keep_oracle
from suite import VectorFile, abs_rel

MISTAKES = {
    "embedding-is-a-layer": (
        "The embedding counts as the layer before the first, so an outlier that is already in the "
        "embedding does not rise at layer 0."
    ),
    "end-of-rise": (
        "The stage is the last layer of the run of doublings, not the first one that passes."
    ),
    "dissipation": "A large write of opposite sign that cancels the outlier is taken for a stage.",
    "bars-passed": "Twice the layer before and 100 must be passed instead of reached.",
    "embedding-in-weak": (
        "A large value of the embedding, which no layer keeps, makes the model not weak."
    ),
    "thousand-times": "1000 times the median is demanded instead of 300 times.",
    "majority": "One prompt is enough instead of more than half of them.",
    "geometric-mean": "The threshold is the arithmetic mean of the two sides of the gap.",
    "sign": "The largest H is taken instead of the largest |H|.",
    "gap-in-upper-half": (
        "The largest ratio is searched among all values; a value near zero then makes the gap."
    ),
    "pooled-gap": (
        "One gap is searched among the tokens of all prompts together, instead of one in each "
        "prompt."
    ),
    "ids-first": (
        "Position 0 counts as an occurrence, so a word that happens to come first is learned."
    ),
    "ids-half": (
        "An id that was a sink only once is learned, although most of its occurrences were not."
    ),
    "weak": "A model that never reaches 100 has no stages, instead of letting the ratio decide.",
    "largest-channel": (
        "With several candidate channels in a layer the first is taken, not the largest."
    ),
    "channel": "Prediction reads another channel than the stage's.",
    "layer": "Prediction reads the layer after the stage's.",
}

DESCRIPTIONS = {
    "no-sink": "No emergence stage: a legal answer.",
    "several-sinks": "Sinks at more than one position.",
    "sink-not-first": "A sink that is not at position 0.",
    "several-stages": "More than one emergence stage.",
}

NOTES = dict(MISTAKES, **DESCRIPTIONS)
TOLERANCE = abs_rel(
    0.0,
    1e-6,
    "medians, means and square roots in double; room for one float32 rounding of the result",
)


def median(values):
    ordered = sorted(values)
    n = len(ordered)
    return ordered[n // 2] if n % 2 else (ordered[n // 2 - 1] + ordered[n // 2]) / 2


def hidden(prompt, width):
    """H[layer + 1][token][channel] of one prompt."""
    tokens = len(prompt["ids"])
    flat, step = prompt["H"], tokens * width
    return [
        [flat[i + t * width : i + (t + 1) * width] for t in range(tokens)]
        for i in range(0, len(flat), step)
    ]


def stages_of_prompt(h, width, wrong=""):
    """[(layer, channel, sign)] and whether the prompt is weak."""
    size = (lambda v: v) if wrong == "sign" else abs
    peak = [[max(size(row[c]) for row in layer) for c in range(width)] for layer in h]
    if wrong == "embedding-is-a-layer":
        peak[0] = [0.0] * width
    strict = wrong == "bars-passed"
    seen = h if wrong == "embedding-in-weak" else h[1:]
    weak = not any(abs(v) >= 100 for layer in seen for row in layer for v in row)
    if wrong == "weak":
        weak = False
    out = []
    layers = len(h) - 1
    for layer in range(layers):
        middle = median([abs(v) for row in h[layer + 1] for v in row])
        candidates = []
        for c in range(width):
            m = peak[layer + 1][c]
            doubles = m > 0 and m >= 2 * peak[layer][c]
            goes_on = layer + 1 < layers and peak[layer + 2][c] > 0 and peak[layer + 2][c] >= 2 * m
            if wrong == "dissipation":
                m = max(abs(a[c] - b[c]) for a, b in zip(h[layer + 1], h[layer]))
                doubles, goes_on = True, False
            if wrong == "end-of-rise":
                goes_on = False
            if strict:
                doubles = doubles and m > 2 * peak[layer][c]
                goes_on = goes_on and peak[layer + 2][c] > 2 * m
            large = (weak or m > 100 or (m == 100 and not strict)) and m >= (
                1000 if wrong == "thousand-times" else 300
            ) * middle
            if doubles and not goes_on and large:
                candidates.append(c)
        if candidates:
            best = (
                candidates[0]
                if wrong == "largest-channel"
                else max(candidates, key=lambda c: (peak[layer + 1][c], -c))
            )
            value = [row[best] for row in h[layer + 1] if size(row[best]) == peak[layer + 1][best]]
            out.append((layer, best, 1 if value[0] > 0 else -1))
    return out, weak


def median_or_zero(values):
    return median(values) if values else 0.0


def middle_threshold(thresholds):
    ordered = sorted(thresholds)
    n = len(ordered)
    return ordered[n // 2] if n % 2 else math.sqrt(ordered[n // 2 - 1] * ordered[n // 2])


def cut(values, wrong=""):
    """The threshold that separates the sinks among the descending values of a prompt."""
    if len(values) == 1:
        return values[0] / 2
    floored = [max(v, 1e-6 * values[0]) for v in values]
    last = len(values) - 1 if wrong == "gap-in-upper-half" else len(values) // 2
    best = max(range(1, last + 1), key=lambda i: (floored[i - 1] / floored[i], -i))
    low, high = floored[best], floored[best - 1]
    return (low + high) / 2 if wrong == "geometric-mean" else math.sqrt(low * high)


def oracle(inputs, wrong=""):
    width, prompts = inputs["width"], inputs["prompts"]
    arrays = [hidden(prompt, width) for prompt in prompts]
    found = [stages_of_prompt(h, width, wrong) for h in arrays]
    votes = {}
    for stages, _ in found:
        for layer, channel, sign in stages:
            votes.setdefault((layer, channel), []).append(sign)
    out, sinks = [], [set() for _ in prompts]
    for (layer, channel), signs in sorted(votes.items()):
        if 2 * len(signs) <= len(prompts) and wrong != "majority":
            continue
        showing = [
            h
            for h, (stages, _) in zip(arrays, found)
            if (layer, channel) in [stage[:2] for stage in stages]
        ]
        rows = [sorted((abs(row[channel]) for row in h[layer + 1]), reverse=True) for h in showing]
        pooled = sorted((v for row in rows for v in row), reverse=True)
        threshold = middle_threshold(
            [cut(row, wrong) for row in ([pooled] if wrong == "pooled-gap" else rows)]
        )
        for chosen, h in zip(sinks, arrays):
            chosen.update(t for t, row in enumerate(h[layer + 1]) if abs(row[channel]) >= threshold)
        out.append(
            {
                "layer": layer,
                "channel": channel,
                "sign": 1 if sum(signs) > 0 else -1,
                "medianAtSinks": median_or_zero([v for v in pooled if v >= threshold]),
                "medianElsewhere": median_or_zero([v for v in pooled if v < threshold]),
                "threshold": threshold,
                "prompts": len(signs),
            }
        )
    return {
        "weak": all(weak for _, weak in found),
        "stages": out,
        "learned": learned(prompts, sinks, wrong),
    }


def learned(prompts, sinks, wrong):
    seen, sunk = {}, {}
    for prompt, chosen in zip(prompts, sinks):
        for t, token in enumerate(prompt["ids"]):
            if t == 0 and wrong != "ids-first":
                continue
            seen[token] = seen.get(token, 0) + 1
            sunk[token] = sunk.get(token, 0) + (t in chosen)
    return sorted(
        t
        for t in seen
        if (sunk[t] > 0 if wrong == "ids-half" else sunk[t] > 0 and 2 * sunk[t] >= seen[t])
    )


def prompt_with(random, tokens, layers, width, writes, ids, noise=0.2):
    """A residual stream: noise that drifts from layer to layer, plus planted writes
    {(layer, channel): {token: value}} that stay from their layer on (layer -1 is the embedding)."""
    base = [[random.noise(noise) for _ in range(width)] for _ in range(tokens)]
    planted = {}
    h = []
    for layer in range(-1, layers):
        for (at, channel), values in writes.items():
            if at == layer:
                for t, value in values.items():
                    planted[(t, channel)] = planted.get((t, channel), 0.0) + value
        for t in range(tokens):
            for c in range(width):
                drift = random.noise(noise / 8)
                h.append(f32(round(base[t][c] + drift + planted.get((t, c), 0.0), 3)))
    return {"ids": ids, "H": h}


def calibration_cases():
    """name, layers, width, list of (writes, ids), flags, demanded flags."""
    ids = [
        [1, 20, 21, 5, 22, 23, 5, 24],
        [1, 25, 26, 27, 5, 20, 28],
        [1, 29, 5, 30, 31, 32, 33, 34, 5],
    ]
    rare = ids[:2] + [[1, 29, 5, 30, 5, 5, 33, 34, 5]]
    delimiters = [[3, 6], [4], [2, 8]]

    def sinks(value_first, value_other):
        return [
            dict([(0, value_first - k)] + [(t, value_other + 3 * k) for t in where])
            for k, where in enumerate(delimiters)
        ]

    one = [{(1, 4): s} for s in sinks(-320.0, -900.0)]
    two = [{(0, 2): {0: 150.0}, (2, 5): s} for s in sinks(-300.0, -700.0)]
    run = [{(0, 4): {0: -120.0, 3: -110.0}, (1, 4): {0: -200.0, 3: -300.0}} for _ in range(3)]
    fades = [{(1, 4): s, (3, 4): {t: -v for t, v in s.items()}} for s in sinks(400.0, 1200.0)]
    weak = [{(1, 1): s} for s in sinks(40.0, 36.0)]
    embedding = [{(-1, 3): {0: 280.0}, (2, 3): s} for s in sinks(-900.0, 450.0)]
    twins = [{(1, 6): s, (1, 2): {t: -v / 2 for t, v in s.items()}} for s in sinks(-420.0, -820.0)]
    bars = [{(-1, 4): {2: 25.0}, (0, 4): {2: 25.0}, (1, 4): {2: 50.0}} for _ in range(3)]
    hidden_weak = [dict(w) for w in weak]
    for w in hidden_weak:
        w.update({(-1, 3): {0: 280.0}, (0, 3): {0: -280.0}})
    middling = [{(1, 4): {0: 130.0}} for _ in range(3)]
    split = [dict(one[0]), dict(one[1]), {(3, 0): {0: 500.0}}]
    return [
        ("one stage", 4, 8, one, ids, ["several-sinks", "sink-not-first"], ["sign",
         "geometric-mean", "pooled-gap", "ids-first"], 0.2),
        ("two stages", 4, 8, two, ids, ["several-stages", "several-sinks"], ["sign"], 0.2),
        ("a rise over two layers", 4, 8, run, ids, [], ["end-of-rise"], 0.1),
        ("dissipation", 5, 8, fades, ids, ["several-sinks"], ["dissipation"], 0.2),
        ("weak model", 4, 8, weak, ids, ["several-sinks"], ["weak"], 0.1),
        ("weak behind a large embedding", 4, 8, hidden_weak, ids, ["several-sinks"],
         ["embedding-in-weak"], 0.1),
        ("exactly at the bars", 4, 8, bars, ids, ["sink-not-first"], ["bars-passed"], 0.0),
        ("no stage", 4, 8, [{}, {}, {}], ids, ["no-sink"], [], 0.2),
        ("outlier in the embedding", 4, 8, embedding, ids, ["several-sinks"], [], 0.2),
        ("constant outlier from the embedding", 3, 8, [{(-1, 3): {0: 280.0}}] * 3, ids,
         ["no-sink"], ["embedding-is-a-layer"], 0.2),
        ("two channels in one layer", 4, 8, twins, ids, ["several-sinks"], ["largest-channel"],
         0.2),
        ("between 300 and 1000 times", 4, 8, middling, ids, [], ["thousand-times"], 0.3),
        ("one prompt of three disagrees", 4, 8, split, rare, ["several-sinks"], ["majority",
         "ids-half"], 0.2),
    ]


def calibration_file():
    file = VectorFile(
        "calibration",
        "calibration",
        {},
        oracle,
        NOTES,
        [
            "embedding-is-a-layer",
            "end-of-rise",
            "dissipation",
            "bars-passed",
            "embedding-in-weak",
            "thousand-times",
            "majority",
            "geometric-mean",
            "sign",
            "gap-in-upper-half",
            "pooled-gap",
            "ids-first",
            "ids-half",
            "weak",
            "largest-channel",
        ],
    )
    for name, layers, width, writes, ids, flags, must, noise in calibration_cases():
        random = Random("calibration " + name)
        prompts = [
            prompt_with(random, len(i), layers, width, w, i, noise) for w, i in zip(writes, ids)
        ]
        file.case(
            name, {"layers": layers, "width": width, "prompts": prompts}, flags, must, TOLERANCE
        )
    near_zero(file)
    values = [0.1, 0.2, 0.3, 0.2, 0.1, 0.1, 0.2, 250.0, 0.3, 0.1]
    file.case(
        "one prompt of one token",
        {"layers": 1, "width": 5, "prompts": [{"ids": [7], "H": [f32(v) for v in values]}]},
        [],
        [],
        TOLERANCE,
    )
    return file


def near_zero(file):
    """Many sinks and one value near zero: the lower half must not make the gap."""
    random = Random("near zero")
    prompt = prompt_with(
        random,
        10,
        2,
        8,
        {(0, 4): {0: 300.0, 1: 310.0, 2: 305.0}},
        [1, 1, 1, 2, 3, 4, 5, 6, 7, 8],
        0.3,
    )
    for t in (3, 4, 5, 6, 7, 8):
        prompt["H"][1 * 80 + t * 8 + 4] = f32(0.4 + 0.01 * t)
    prompt["H"][1 * 80 + 9 * 8 + 4] = f32(1e-6)
    file.case(
        "a value near zero",
        {"layers": 2, "width": 8, "prompts": [prompt]},
        ["several-sinks"],
        ["gap-in-upper-half"],
        TOLERANCE,
    )


def parse_profile(text):
    """The stages, learned ids and shape of a `kvsink-profile 1` file."""
    lines = [line.split("#")[0].split() for line in text.split("\n")]
    lines = [words for words in lines if words]
    assert lines[0] == ["kvsink-profile", "1"] and lines[1][0] == "model"
    stages, ids = [], []
    for words in lines[2:]:
        if words[0] == "stage":
            stages.append(
                {
                    "layer": int(words[1]),
                    "channel": int(words[2]),
                    "sign": 1 if words[3] in ("+", "+1", "1") else -1,
                    "medianAtSinks": float(words[4]),
                    "medianElsewhere": float(words[5]),
                    "threshold": float(words[6]),
                }
            )
        elif words[0] == "ids":
            ids = [int(word) for word in words[1:]]
    return stages, ids


def predict_oracle(inputs, wrong=""):
    """Read each stage's channel after its layer, then choose as the keep rule says."""
    stages, ids = parse_profile(inputs["profile"])
    tokens, width, layers = len(inputs["ids"]), inputs["width"], inputs["layers"]
    rows = []
    for one in stages:
        layer = one["layer"] + (1 if wrong == "layer" and one["layer"] + 1 < layers else 0)
        channel = (one["channel"] + 1) % width if wrong == "channel" else one["channel"]
        rows.append([inputs["H"][(layer * tokens + t) * width + channel] for t in range(tokens)])
    kept = keep_oracle(
        {
            "keep": inputs["keep"],
            "tokens": tokens,
            "layers": layers,
            "ids": inputs["ids"],
            "stages": stages,
            "learned": ids,
            "h": [v for row in rows for v in row],
        }
    )
    listed = [
        {
            "layer": one["layer"],
            "channel": one["channel"],
            "positions": chosen,
            "h": [row[t] for t in chosen],
        }
        for one, chosen, row in zip(stages, kept.get("stagePositions", []), rows)
    ]
    return {"stages": listed, "layers": kept["layers"]}


PROFILE = """kvsink-profile 1
model llama 5 8 64 0123456789abcdef
# found by hand
stage 0 2 1 150 0.25 6.5 3
stage 2 5 -1 700 0.5 18.7 3
ids 1 5
"""


def prediction_file():
    file = VectorFile("predict", "predict", {}, predict_oracle, NOTES, ["channel", "layer"])
    random = Random("predict")
    ids = [1, 40, 41, 42, 5, 43, 44, 45, 46, 5, 47, 48]
    writes = {
        (0, 2): {0: 148.0},
        (1, 2): {7: 90.0},
        (2, 5): {4: -910.0, 9: -640.0, 0: -333.0},
        (3, 6): {6: 100.0},
    }
    h = prompt_with(random, 12, 5, 8, writes, ids)["H"][12 * 8 :]
    base = {"profile": PROFILE, "layers": 5, "width": 8, "ids": ids, "H": h}
    for keep in (
        "kvsink:5",
        "kvsink:1@0",
        "kvsink:auto",
        "kvsink:auto@each/all",
        "kvsink:2@join",
        "kvsink:auto@0/1-3",
    ):
        file.case(
            keep, dict({"keep": keep}, **base), ["several-sinks", "sink-not-first"], ["channel"]
        )
    empty = PROFILE.split("stage")[0]
    file.case("profile without stages", dict(base, keep="kvsink:5", profile=empty), ["no-sink"])
    return file


def files():
    yield calibration_file()
    yield prediction_file()
