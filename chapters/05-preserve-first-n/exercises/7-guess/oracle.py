"""Rows of chapter six's long table."""

from cases import case, result, within


def cases(seed):
    for name, row, tolerance in (
        ("plain", "published/plain/k2v2/first:20", 0.07),
        ("packed", "published/packed/k2v2/first:1", 0.03),
        ("ids", "published/packed/k2v2/ids:learned", 0.08),
        ("lot", "published/chat/k2v2/random:5:1", 0.1),
    ):
        found = result("chapters/06-kvsink/results/rules.tsv", "kl", row=row)
        yield case(name, {}, {name: found}, within(tolerance))
