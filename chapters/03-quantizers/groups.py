#!/usr/bin/env python3
"""What one sink does to the range of a group: keys of the real model, one window, per channel.

    groups.py BUILD FOLDER     measure, and write the tables into FOLDER; a step of make study

Layer by layer it asks `kvsink dump` for the keys of a window and cuts them into groups as 2:channel:128
does. A group that holds a sink is *widened* if the sink is its smallest or largest number. Of the group
that is widened most, `kvsink quantize` then says what becomes of every number.

    groups.tsv   row (layer, or all), groups with a sink, percent of them widened, range with the sink over
                 range without: mean and largest
    ratios.tsv   row (number), how many groups are widened by a factor between `from` and `to`
    widest.tsv   one row: where the group is, its extremes, its steps and root mean square errors
    numbers.tsv  its numbers: row (token), key, 1 for a sink, what comes back with the sink in the
                 range and without
"""

import array
import json
import math
import os
import subprocess
import sys

if len(sys.argv) != 3:
    sys.exit("usage: groups.py BUILD FOLDER, in the top folder of the project")
BUILD, FOLDER = sys.argv[1:]
MODEL = os.path.join(BUILD, "llm", "SmolLM2-135M-Instruct.Q4_1.gguf")
PROFILE = os.path.join(BUILD, "study", "profile.txt")
TEXT = os.path.join(BUILD, "texts", "jargon.txt")
WINDOW = ["--file", TEXT, "--ctx", "512"]
LAYERS, T, ROW, HEAD, G = 30, 512, 192, 64, 128
EDGES = [1.0, 1.1, 1.2, 1.5, 2.0, 3.0, 4.0]
SOURCES = ["chapters/03-quantizers/groups.py", "ref/quantize.c", "ref/half.c", "ref/kvsink.c", "ref/keep.c",
           "ref/transformer.c"]


def kvsink(*words):
    return subprocess.run([os.path.join(BUILD, "kvsink"), *words], check=True, stdout=subprocess.PIPE).stdout


def load(path):
    with open(path, "rb") as f:
        data = f.read()
    numbers = array.array("f")
    numbers.frombytes(data[10 + int.from_bytes(data[8:10], "little"):])
    return numbers


def keys(layer):
    path = os.path.join(FOLDER, "k%d.npy" % layer)
    if not os.path.exists(path):
        kvsink("dump", MODEL, *WINDOW, "--tap", "k", "--layer", str(layer), "-o", path)
    return load(path)


def write(name, titles, rows):
    path = os.path.join(FOLDER, name)
    with open(path, "w") as f:
        f.write("# command: chapters/03-quantizers/groups.py build build/study/groups\n# model: SmolLM2-135M-Instruct Q4_1\n"
                "# text: jargon.txt, the first window of %d tokens\n# long: yes\n" % T)
        f.writelines("# depends: %s\n" % s for s in SOURCES)
        f.write("\t".join(titles) + "\n")
        f.writelines("\t".join(format(c, ".5g") if isinstance(c, float) else str(c) for c in r) + "\n" for r in rows)


def group(layer, first, channel):
    x = keys(layer)
    return [x[t * ROW + channel] for t in range(first, first + G)]


def ratios(layer, sinks):
    """Of each group with a sink: range with it over range without, and where it is."""
    x, out = keys(layer), []
    for first in range(0, T, G):
        if not any(first <= t < first + G for t in sinks):
            continue
        for c in range(ROW):
            all_ = [x[t * ROW + c] for t in range(first, first + G)]
            rest = [v for i, v in enumerate(all_) if first + i not in sinks]
            out.append(((max(all_) - min(all_)) / (max(rest) - min(rest)), layer, first, c))
    return out


def quantized(layer, first, channel, keep):
    folder = os.path.join(FOLDER, "with" if keep == "none" else "without")
    kvsink("quantize", os.path.join(FOLDER, "k%d.npy" % layer), "--format", "2:channel:128", "--keep", keep, "-o", folder)
    x = load(os.path.join(folder, "dequant.npy"))
    return [x[t * ROW + channel] for t in range(first, first + G)]


def root_mean_square(x, y, use):
    return math.sqrt(sum((a - b) ** 2 for a, b, u in zip(x, y, use) if u) / sum(use))


def write_widest(ratio, layer, first, c, sinks):
    x, is_sink = group(layer, first, c), [first + i in sinks for i in range(G)]
    rest, sink = [v for v, s in zip(x, is_sink) if not s], [v for v, s in zip(x, is_sink) if s]
    back_with = quantized(layer, first, c, "none")
    back_without = quantized(layer, first, c, "positions:" + ",".join(map(str, sinks)))
    use = [not s for s in is_sink]
    error_with, error_without = (root_mean_square(x, back, use) for back in (back_with, back_without))
    levels_with, levels_without = (len({v for v, u in zip(back, use) if u}) for back in (back_with, back_without))
    row = [("row", "widest"), ("layer", layer), ("head", c // HEAD), ("channel", c % HEAD), ("first", first),
           ("others", len(rest)), ("sinks", len(sink)), ("low", min(rest)), ("high", max(rest)), ("sink", sink[0]),
           ("ratio", ratio), ("step_with", (max(x) - min(x)) / 3), ("step_without", (max(rest) - min(rest)) / 3),
           ("error_with", error_with), ("error_without", error_without), ("error_ratio", error_with / error_without),
           ("levels_with", levels_with), ("levels_without", levels_without)]
    write("widest.tsv", [title for title, _ in row], [[cell for _, cell in row]])
    write("numbers.tsv", ["row", "key", "sink", "back_with", "back_without"],
          [(first + i, x[i], int(is_sink[i]), back_with[i], back_without[i]) for i in range(G)])


def summary(r):
    return len(r), 100 * sum(q[0] > 1 for q in r) / len(r), sum(q[0] for q in r) / len(r), max(q[0] for q in r)


def main():
    os.makedirs(FOLDER, exist_ok=True)
    found = json.loads(kvsink("predict", MODEL, *WINDOW, "--profile", PROFILE, "--keep", "kvsink:auto@each/all",
                              "--json"))
    layers = [ratios(layer, set(found["layers"][layer])) for layer in range(LAYERS)]
    every = [q for r in layers for q in r]
    write("groups.tsv", ["row", "groups", "widened", "mean", "most"],
          [(layer,) + summary(r) for layer, r in enumerate(layers)] + [("all",) + summary(every)])
    write("ratios.tsv", ["row", "from", "to", "groups"],
          [(i, lo, hi, sum(lo < q[0] <= hi for q in every)) for i, (lo, hi) in enumerate(zip(EDGES, EDGES[1:]))])
    ratio, layer, first, c = max(every)
    write_widest(ratio, layer, first, c, found["layers"][layer])


if __name__ == "__main__":
    main()
