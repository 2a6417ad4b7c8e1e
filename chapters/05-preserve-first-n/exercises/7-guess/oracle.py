"""Rows of chapter six's tables that chapter five does not show."""

from cases import case, result, within

RESULTS = "chapters/06-kvsink/results/"


def cases(seed):
    for name, file, column, row, tolerance in (
        ("longest", "rules.tsv", "kl", "detectors/chat/k2v2/bigkeys:5", 0.1),
        ("shortest", "rules.tsv", "kl", "detectors/chat/k2v2/smallkeys:5", 0.07),
        ("others", "rules.tsv", "kl", "detectors/packed/k2v2/attention:5-sinks", 0.08),
        ("rows", "packed.tsv", "kept", "packed/two/k2v2/kvsink:auto@11/all", 0.5),
    ):
        found = result(RESULTS + file, column, row=row)
        yield case(name, {}, {name: found}, within(tolerance))
