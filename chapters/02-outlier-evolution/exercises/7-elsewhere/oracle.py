"""Numbers of the chapter's results."""

import math

from cases import case, result, within

RESULTS = "chapters/02-outlier-evolution/results/"


def at(file, row, column):
    return result(RESULTS + file, column, row=row)


def cases(seed):
    quotient = at("outliers.tsv", "technical/11/11", "down_out") / at("outliers.tsv", "technical/11/11", "down_in")
    left = at("outliers.tsv", "technical/11/28", "h") / at("outliers.tsv", "technical/11/27", "h")
    forbidden = at("forbid.tsv", "chat/11/sinks", "ppl") / at("forbid.tsv", "chat/11/undisturbed", "ppl")
    for name, value, tolerance in (
        ("quotient", quotient, within(0, 0.04)),
        ("left", left, within(0.05)),
        ("ruined", math.log10(at("cause.tsv", "chat/11/zero", "ppl")), within(0.5)),
        ("forbidden", forbidden, within(0.3)),
    ):
        yield case(name, {}, {name: value}, tolerance)
