"""What the experiment of the chapter found."""

from cases import case, result, within

ERRORS = "chapters/03-quantizers/results/errors.tsv"


def cases(seed):
    for name, path, row, column, tolerance in (
        ("channel", ERRORS, "plain/keys/2/dynamic/channel:128", "rest_with", 0.06),
        ("four", ERRORS, "plain/keys/4/dynamic/channel:128", "rest_with", 0.015),
        ("values", ERRORS, "plain/values/2/dynamic/token:64", "rest_with", 0.06),
        ("widened", "chapters/03-quantizers/results/groups.tsv", "all", "widened", 4.0),
        ("sinks", ERRORS, "plain/keys/2/dynamic/channel:128", "sinks_without", 0.4),
    ):
        yield case(name, {}, {name: result(path, column, row=row)}, within(tolerance))
