#!/usr/bin/env python3
"""What prediction reads and keeps, token by token, in a short text of our own (kept.txt):

    results/kept.tsv     position, token, H[t,c] after each stage's layer, and 1 where a rule keeps it
    results/profile.txt  the profile that was used

    kept.py KVSINK MODEL PROFILE     run it in the top folder; `make study` makes the profile
"""

import json
import re
import struct
import subprocess
import sys
import tempfile

HERE = "chapters/06-kvsink"
RULES = ["first:5", "kvsink:5@2", "kvsink:5@11", "kvsink:auto@2", "kvsink:auto@11", "kvsink:best"]


def run(*words):
    return subprocess.run(words, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout


def column(path, channel):
    """One channel of a [T][C] array of float32 in a .npy file."""
    with open(path, "rb") as f:
        data = f.read()
    start = 10 + struct.unpack("<H", data[8:10])[0]
    tokens, width = re.search(r"\((\d+), (\d+)\)", data[10:start].decode()).groups()
    numbers = struct.unpack("<%df" % (int(tokens) * int(width)), data[start:])
    return numbers[channel::int(width)]


def main():
    kvsink, model, profile = sys.argv[1:]
    text = [model, "--special", "--file", HERE + "/kept.txt"]
    pieces = json.loads(run(kvsink, "tokens", *text, "--json"))["pieces"]
    kept, stages = [], []
    for rule in RULES:
        got = json.loads(run(kvsink, "predict", *text, "--profile", profile, "--keep", rule, "--json"))
        kept.append(set(got["layers"][-1]))
        stages = got["stages"]
    h = []
    with tempfile.TemporaryDirectory() as folder:
        for stage in stages:
            path = "%s/%d.npy" % (folder, stage["layer"])
            run(kvsink, "dump", *text, "--tap", "h", "--layer", str(stage["layer"]), "-o", path)
            h.append(column(path, stage["channel"]))
    header = ["# model: SmolLM2-135M-Instruct Q4_1", "# long: yes", "# text: kept.txt"] + \
        ["# depends: " + name for name in ("ref/keep.c", "ref/kvsink.c", "ref/transformer.c", HERE + "/kept.py",
                                           HERE + "/kept.txt")]
    titles = ["position", "token"] + ["h%d" % stage["layer"] for stage in stages] + RULES
    lines = ["# command: chapters/06-kvsink/kept.py"] + header + ["\t".join(titles)]
    for t, piece in enumerate(pieces):
        lines.append("\t".join(["%d" % t, piece] + ["%.5g" % column[t] for column in h] +
                               ["%d" % (t in keep) for keep in kept]))
    with open(HERE + "/results/kept.tsv", "w") as f:
        f.write("\n".join(lines) + "\n")
    with open(profile) as f, open(HERE + "/results/profile.txt", "w") as out:
        out.write("# command: kvsink calibrate\n# model: SmolLM2-135M-Instruct Q4_1\n# long: yes\n" +
                  "".join("# depends: %s\n" % name for name in ("ref/kvsink.c", "ref/outliers.c", "ref/transformer.c")))
        out.write(f.read())
    run("sh", "book/build.sh", "stamp", HERE + "/results/kept.tsv", HERE + "/results/profile.txt")


if __name__ == "__main__":
    main()
