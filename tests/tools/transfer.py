#!/usr/bin/env python3
"""Does a profile made on one text serve another? chapters/06-kvsink/results/transfer.tsv.

    transfer.py BUILD FOLDER      measure, and write FOLDER/transfer.tsv

One profile for each of some texts, each by itself, and the one of the study, which is made of the
first four. Then each finds sinks in the same prompts and keeps them in the same 2-bit cache. `stages`
are LAYER:CHANNEL; `kept` counts positions a layer (mean over windows); `same` is the share of tokens
on which it agrees with the profile that was made on this very text (`own`), of all tokens that
either of them keeps.
"""

import json
import os
import subprocess
import sys

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MODEL = "llm/SmolLM2-135M-Instruct.Q4_1.gguf"
# name, file, with special tokens
MADE_ON = [("gpl3", "gpl3.txt", False), ("kjv", "kjv.txt", False), ("faq", "faq.txt", False),
           ("faq-eot", "faq-eot.txt", True)]
TEXTS = {"plain": ("jargon.txt", "jargon.txt", []),
         "packed": ("packed-5.txt", "packed-5-eot.txt", ["--join", "eot:101"])}
WINDOWS, CTX, PROMPT = 8, 512, 2048
SOURCES = ["ref/keep.c", "ref/kvsink.c", "ref/outliers.c", "ref/quantize.c", "tinymodels/profile.c",
           "tests/tools/transfer.py"]


def run(words):
    return subprocess.run(words, cwd=TOP, check=True, stdout=subprocess.PIPE, text=True).stdout


def with_ends(build, name, joined):
    """The passages of a text with the end-of-text token in front of each, as eval --join puts it."""
    with open(os.path.join(TOP, build, "texts", name)) as f:
        passages = [p.strip() for p in f.read().split("\n\n") if p.strip()]
    path = os.path.join(build, "texts", joined)
    with open(os.path.join(TOP, path + ".new"), "w") as f:
        f.write("<|endoftext|>".join(" ".join(p.split()[:101]) for p in passages) + "\n")
    os.replace(os.path.join(TOP, path + ".new"), os.path.join(TOP, path))


def calibrate(build, folder, name, file, special):
    path = os.path.join(folder, "profile-%s.txt" % name)
    if not os.path.exists(os.path.join(TOP, path)):
        run([os.path.join(build, "kvsink"), "calibrate", os.path.join(build, MODEL), "--file",
             os.path.join(build, "texts", file), "-o", path] + (["--special"] if special else []))
    return path


def stages(path):
    """[(layer, channel, threshold)] of a profile."""
    with open(os.path.join(TOP, path)) as f:
        rows = [line.split() for line in f if line.startswith("stage ")]
    return [(row[1], row[2], float(row[6])) for row in rows]


def kept_by(build, profile, file):
    """What kvsink:best keeps of a long prompt: a set."""
    words = [os.path.join(build, "kvsink"), "predict", os.path.join(build, MODEL), "--file",
             os.path.join(build, "texts", file), "--special", "--ctx", str(PROMPT), "--profile", profile,
             "--keep", "kvsink:best", "--json"]
    return set(json.loads(run(words))["layers"][-1])


def measured(build, profile, file, options):
    words = [os.path.join(build, "kvsink"), "eval", os.path.join(build, MODEL), "--file",
             os.path.join(build, "texts", file), "--ctx", str(CTX), "--windows", str(WINDOWS), "--keys",
             "2:channel:128", "--values", "2:token:64", "--profile", profile, "--keep", "kvsink:best", "--json"]
    return json.loads(run(words + options))


def row(build, name, profile, text, own):
    file, whole, options = TEXTS[text]
    found = stages(profile)
    kept = kept_by(build, profile, whole)
    result = measured(build, profile, file, options)
    either = kept | own
    cells = ["%s/%s" % (text, name), " ".join("%s:%s" % (layer, channel) for layer, channel, _ in found),
             " ".join("%.4g" % threshold for _, _, threshold in found),
             "%d" % len(kept), "%.3g" % (len(kept & own) / len(either) if either else 1), "%.4g" % result["kept"],
             "%.4g" % result["kl"], "%.2g" % result["kl_error"], "%.4g" % result["bits"]]
    return "\t".join(cells)


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    build, folder = sys.argv[1:]
    os.makedirs(os.path.join(TOP, folder), exist_ok=True)
    with_ends(build, *TEXTS["packed"][:2])
    profiles = [(name, calibrate(build, folder, name, file, special)) for name, file, special in MADE_ON]
    profiles.append(("all four", os.path.join(build, "study", "profile.txt")))
    lines = ["# command: tests/tools/transfer.py build build/study/transfer",
             "# model: SmolLM2-135M-Instruct Q4_1", "# long: yes",
             "# text: jargon.txt, packed-5.txt; %d windows of %d, prompts of %d tokens" % (WINDOWS, CTX, PROMPT),
             "# commit: " + run([os.path.join(build, "kvsink"), "--version"]).split()[-1]]
    lines += ["# depends: " + source for source in SOURCES]
    lines.append("row\tstages\tthresholds\tprompt\tsame\tkept\tkl\tkl_error\tbits")
    for text, (_, whole, _) in TEXTS.items():
        own = calibrate(build, folder, "own-" + text, whole, True)
        wanted = kept_by(build, own, whole)
        for name, profile in profiles + [("own", own)]:
            lines.append(row(build, name, profile, text, wanted))
            print(lines[-1], file=sys.stderr)
    with open(os.path.join(TOP, folder, "transfer.tsv.new"), "w") as f:
        f.write("\n".join(lines) + "\n")
    os.replace(os.path.join(TOP, folder, "transfer.tsv.new"), os.path.join(TOP, folder, "transfer.tsv"))


if __name__ == "__main__":
    main()
