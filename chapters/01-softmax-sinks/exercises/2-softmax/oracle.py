"""The cases of tests/vectors/softmax.json, with the sink's share added, and a few more."""

import attention
from cases import case, vectors, within


def cases(seed):
    for one in vectors("softmax", attention.softmax_file, seed):
        if one["in"]["kind"] == "sink":
            one["out"] = dict(one["out"], rest=1 - sum(map(float, one["out"]["p"])))
            one["compare"] = dict(one["compare"], abs=1e-6)
        yield one
    yield case("far below a learned sink", {"kind": "sink", "logits": [-900.0, -950.0], "sink": 0.0},
               {"p": [0.0, 0.0], "rest": 1.0}, within(1e-6),
               "The extra logit takes part in the maximum like any other score.")
    for bad in ("NaN", "Infinity"):
        yield case("a score is " + bad, {"kind": "softmax", "logits": [0.5, bad, 1.0]}, {},
                   error="run", catches="A score that is not finite is refused, not passed on.")
