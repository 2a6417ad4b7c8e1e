"""What the simulator counted, as this chapter's results tell it."""

from cases import case, result, table, within

RESULTS = "chapters/07-fused-decode/results/"


def cases(seed):
    counts = RESULTS + "counts.tsv"
    last = [row["row"] for row in table(counts) if row["row"].startswith("2/128/1/")][-1]
    for name, value, compare in (
        ("plain", result(counts, "over", row="2/128/1/k01"), within(0, 0.2)),
        ("shared", result(counts, "over", row="2/128/4/k01"), within(0, 0.2)),
        ("four", result(counts, "over", row="4/128/1/k01"), within(0, 0.1)),
        ("ahead", result(counts, "over", row=last), within(0.02)),
        ("kept", result(RESULTS + "kept.tsv", "more", kept="5"), within(1.2)),
    ):
        yield case(name, {}, {name: value}, compare)
