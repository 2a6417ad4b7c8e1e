"""What the experiment of the chapter found."""

from cases import case, result, within


def cases(seed):
    for name, column, tolerance in (
        ("sinks", "sinks", 1.0),
        ("attention", "attention", 0.1),
        ("value", "first_v", 0.15),
        ("key", "first_k", 0.15),
    ):
        found = result("chapters/01-softmax-sinks/results/summary.tsv", column, row="plain")
        yield case(name, {}, {name: found}, within(tolerance))
