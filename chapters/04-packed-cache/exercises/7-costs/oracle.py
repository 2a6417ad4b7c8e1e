"""What the results of chapter 4 say."""

from cases import TOP, case, result, within

RESULTS = "chapters/04-packed-cache/results/"


def sectors_of(array):
    """Sectors a request of one array in the simulator's table."""
    for line in (TOP / (RESULTS + "k01.txt")).read_text().splitlines():
        words = line.split()
        if words and words[0] == array:
            return float(words[6])
    raise ValueError(array)


def cases(seed):
    cost, traffic = RESULTS + "cost.tsv", RESULTS + "traffic.tsv"
    ratio = result(cost, "bytes", row="2048/f16") / result(cost, "bytes", row="2048/0")
    waste = result(traffic, "ratio", row="2-bit/k01")
    for name, value, compare in (
        ("times", ratio, within(0, 0.03)),
        ("short", result(cost, "bits", row="128/20"), within(0, 0.02)),
        ("waiting", result(cost, "waiting", row="2048/5") / 1e6, within(0, 0.02)),
        ("request", sectors_of("array3"), within(0)),
        ("waste", waste, within(waste * 0.75, 0)),
    ):
        yield case(name, {}, {name: value}, compare)
