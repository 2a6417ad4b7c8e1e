#!/usr/bin/env python3
"""The study that chapters 1 to 6 quote: measured, stored beside the chapters, and measured again.

    study.py run BUILD [STEP ...]     measure what is not measured yet (all steps, or these), then collect
    study.py collect BUILD [STEP ...] store what BUILD/study holds in chapters/NN-name/results
    study.py quick BUILD              measure a handful of cells again, compare with the stored ones
    study.py profile BUILD            make the profile that everything uses
    study.py list                     the steps

A step is a spec file of `kvsink sweep` (chapters/NN-name/STEP.sweep) or the program of a chapter
(build/experiments/NN). A sweep that is stopped goes on where it was; a program whose results are there
is not run again; delete chapters/NN-name/results/STEP.jsonl and BUILD/study to measure all anew. The
profile comes from texts that no table reports (tests/tools/texts.sh).
"""

import csv
import glob
import os
import re
import subprocess
import shutil
import sys
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MODEL = "llm/SmolLM2-135M-Instruct.Q4_1.gguf"
NAME = "SmolLM2-135M-Instruct Q4_1"
CALIBRATION = ["gpl3.txt", "kjv.txt", "faq.txt", "faq-eot.txt"]

# The order of work: what others need first, then what matters most.
SWEEPS = ["06-kvsink/choose", "06-kvsink/rules", "05-preserve-first-n/how-many", "06-kvsink/packed",
          "03-quantizers/exclusion", "03-quantizers/outliers", "03-quantizers/formats",
          "03-quantizers/static-none", "03-quantizers/static-first", "03-quantizers/static-kvsink",
          "05-preserve-first-n/how-many-static", "04-packed-cache/streams", "05-preserve-first-n/greedy"]
TEXTS = ["--text", "plain=texts/jargon.txt", "technical=texts/devref.txt",
         "--packed", "packed=101:texts/packed-5.txt", "--chat", "chat=texts/chat-8.json"]
PACKED = ["--packed", "two=255:texts/packed-2.txt", "five=101:texts/packed-5.txt",
          "nine=56:texts/packed-9.txt", "seventeen=29:texts/packed-17.txt"]
CHATS = ["--chat", "chat-2=texts/chat-2.json", "chat-8=texts/chat-8.json", "chat-20=texts/chat-20.json"]
PROGRAMS = {
    "01-softmax-sinks": TEXTS,
    "02-outlier-evolution": TEXTS,
    "03-quantizers": TEXTS + ["--constants", "texts/gpl3.txt", "texts/kjv.txt", "texts/faq.txt"],
    "04-packed-cache": ["--text", "plain=texts/jargon.txt"],
    "05-preserve-first-n": TEXTS[:3] + PACKED[:1] + PACKED[2:] + CHATS,
    "06-kvsink": TEXTS[:3] + PACKED + CHATS,
}
QUICK = {
    "06-kvsink/rules": ["plain/k2v2/none", "plain/k2v2/first:5", "packed/k2v2/kvsink:5@11",
                        "packed/k2v2/kvsink:best"],
    "06-kvsink/packed": ["seventeen/k2v2/kvsink:best"],
    "05-preserve-first-n/how-many": ["each/k4v4/first:5", "each/k4v4/kvsink:5/all"],
}

# Static ranges are learned with the rule that the profile's name stands for.
STATIC = {"static-none": "none", "static-first": "first:5", "static-kvsink": "kvsink:auto@union/all",
          "how-many-static": "kvsink:auto@union/all"}

# Steps that are scripts of their own: given BUILD and the folder to write STEP.tsv into.
SCRIPTS = {"03-quantizers/groups": "chapters/03-quantizers/groups.py",
           "06-kvsink/transfer": "tests/tools/transfer.py"}

# What decides the figures of a sweep; a later change of these marks its results as stale.
SOURCES = ["ref/attention.c", "ref/half.c", "ref/quantize.c", "ref/keep.c", "ref/kvsink.c", "ref/softmax.c",
           "ref/transformer.c", "tinymodels/base.c", "tinymodels/eval.c", "tinymodels/evidence.c",
           "tinymodels/memory.c"]
ALSO = {"04-packed-cache/streams": ["ref/cache.c", "ref/cache_setup.c", "ref/cache_read.c", "ref/kivi.c",
                                    "tinymodels/promote.c"]}


def spec_path(step):
    return os.path.join("chapters", step + ".sweep")


def exists(step):
    return os.path.exists(os.path.join(TOP, spec_path(step)))


def sweeps():
    return [step for step in SWEEPS if exists(step)]


def programs():
    return [chapter for chapter in PROGRAMS if os.path.exists(os.path.join(TOP, "chapters", chapter, "experiment.c"))]


def steps():
    return sweeps() + ["%s/experiment" % chapter for chapter in programs()] + list(SCRIPTS)


def run_command(words, stdout=None):
    subprocess.run(words, cwd=TOP, check=True, stdout=stdout)


def write(path, text):
    """Whole or not at all."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path + ".new", "w") as f:
        f.write(text)
    os.replace(path + ".new", path)


# ---- measuring


def profile(build, static=None):
    """build/study/profile.txt; calibration sees end-of-text tokens too, so that ids can be learned."""
    path = os.path.join(build, "study", "profile-%s.txt" % static if static else "profile.txt")
    if os.path.exists(os.path.join(TOP, path)):
        return path
    os.makedirs(os.path.join(TOP, build, "study"), exist_ok=True)
    texts = os.path.join(build, "texts")
    with open(os.path.join(TOP, texts, "faq-packed.txt")) as f:
        passages = [" ".join(p.split()[:56]) for p in f.read().split("\n\n") if p.strip()]
    write(os.path.join(TOP, texts, "faq-eot.txt"), "".join("<|endoftext|>" + p for p in passages) + "\n")
    run_command([os.path.join(build, "kvsink"), "calibrate", os.path.join(build, MODEL), "--special", "--file"] +
                [os.path.join(texts, t) for t in CALIBRATION] + ["-o", path] +
                (["--static", "--keep", STATIC[static]] if static else []), subprocess.DEVNULL)
    return path


def seed(build, step):
    """Cells that were measured before, on this machine or another, are not measured again."""
    chapter, name = step.split("/")
    stored = os.path.join(TOP, "chapters", chapter, "results", name + ".jsonl")
    cells = os.path.join(TOP, build, "study", name, "cells.jsonl")
    if os.path.exists(stored) and not os.path.exists(cells):
        os.makedirs(os.path.dirname(cells), exist_ok=True)
        shutil.copy(stored, cells)


def program_command(build, chapter):
    words = []
    for word in PROGRAMS[chapter]:
        name, equals, path = word.rpartition("=") if "=" in word else ("", "", word)
        number, colon, path = path.rpartition(":") if ":" in path else ("", "", path)
        words.append(name + equals + number + colon + (os.path.join(build, path) if path.startswith("texts/") else path))
    return [os.path.join(build, "experiments", chapter[:2]), os.path.join(build, MODEL), "--profile", profile(build)] + \
        words + ["--long", "--out", os.path.join(build, "study", chapter)]


def measure(build, step):
    start = time.time()
    profile(build, step.split("/")[1] if step.split("/")[1] in STATIC else None)
    if step.endswith("/experiment"):
        chapter = step.split("/")[0]
        done = os.path.join(TOP, build, "study", chapter, "done")
        if os.path.exists(done):
            return
        run_command(program_command(build, chapter))
        write(done, "%.0f seconds\n" % (time.time() - start))
    elif step in SCRIPTS:
        folder = os.path.join(build, "study", step.split("/")[1])
        if not os.path.exists(os.path.join(TOP, folder, step.split("/")[1] + ".tsv")):
            run_command([sys.executable, SCRIPTS[step], build, folder])
    else:
        seed(build, step)
        run_command([os.path.join(build, "kvsink"), "sweep", spec_path(step)], subprocess.DEVNULL)
    print("%-40s %5.0f s" % (step, time.time() - start), flush=True)


# ---- storing

COLUMNS = [("windows", "windows"), ("ppl16", "ppl16"), ("ppl", "ppl"), ("kl", "kl"), ("kl_error", "kl_error"),
           ("dkl", "kl_less_baseline"), ("dkl_low", "kl_low"), ("dkl_high", "kl_high"), ("top1", "top1"),
           ("bits", "bits"), ("bytes", "bytes"), ("kept", "kept"), ("baseline", "baseline")]


def short(text):
    """Enough digits to compare and few enough to read."""
    try:
        return "%.5g" % float(text) if "." in text or "e" in text else text
    except ValueError:
        return text


def sweep_table(build, step):
    name = step.split("/")[1]
    with open(os.path.join(TOP, build, "study", name, "table.csv")) as f:
        rows = list(csv.DictReader(f))
    texts = sorted({line.split("file=")[1].split()[0] for line in open(os.path.join(TOP, spec_path(step)))
                    if line.startswith("text ") and "file=" in line} |
                   {line.split("chat=")[1].split()[0] for line in open(os.path.join(TOP, spec_path(step)))
                    if line.startswith("text ") and "chat=" in line})
    lines = ["# command: kvsink sweep %s" % spec_path(step), "# model: " + NAME, "# long: yes"]
    lines += ["# text: %s" % os.path.basename(t) for t in texts]
    lines.append("# commit: " + ", ".join(sorted({r["commit"] for r in rows if r["commit"]})))
    lines.append("# comparisons: %d" % sum(1 for r in rows if r["kl_low"]))
    lines += ["# depends: " + s for s in SOURCES + ALSO.get(step, []) + [spec_path(step)] if os.path.exists(os.path.join(TOP, s))]
    lines.append("\t".join(["row"] + [title for title, _ in COLUMNS]))
    for r in rows:
        if not r["kl"]:
            continue
        label = "/".join([r["group"], r["text"], r["format"], r["keep"]])
        lines.append("\t".join([label] + [short(r[key]) or "-" for _, key in COLUMNS]))
    return "\n".join(lines) + "\n"


def shown(home):
    """The pictures that a chapter shows: the others stay in BUILD/study."""
    with open(os.path.join(home, "chapter.md")) as f:
        return set(re.findall(r"\]\(([\w-]+\.(?:png|svg))\)", f.read()))


def collect(build, step):
    chapter = step.split("/")[0]
    home = os.path.join(TOP, "chapters", chapter)
    stored = []
    if step.endswith("/experiment") or step in SCRIPTS:
        folder = os.path.join(TOP, build, "study", chapter if step.endswith("/experiment") else step.split("/")[1])
        for path in sorted(glob.glob(os.path.join(folder, "*"))):
            name = os.path.basename(path)
            if name.endswith((".tsv", ".txt", ".json")) and not name.startswith("profile"):
                os.makedirs(os.path.join(home, "results"), exist_ok=True)
                shutil.copy(path, os.path.join(home, "results", name))
                stored.append(os.path.join(home, "results", name))
            elif name in shown(home):
                shutil.copy(path, os.path.join(home, name))
    else:
        name = step.split("/")[1]
        folder = os.path.join(TOP, build, "study", name)
        if not os.path.exists(os.path.join(folder, "table.csv")):
            return
        table = os.path.join(home, "results", name + ".tsv")
        write(table, sweep_table(build, step))
        shutil.copy(os.path.join(folder, "cells.jsonl"), os.path.join(home, "results", name + ".jsonl"))
        stored.append(table)
        with open(os.path.join(folder, "table.md")) as f:
            whole = "not measured yet" not in f.read()  # half a picture misleads
        for picture in glob.glob(os.path.join(folder, "*.png")):
            title = "%s-%s" % (name, os.path.basename(picture))
            if whole and title in shown(home):
                shutil.copy(picture, os.path.join(home, title))
    if stored:
        run_command(["sh", "book/build.sh", "stamp"] + [os.path.relpath(p, TOP) for p in stored])
    print("%-40s %d tables stored" % (step, len(stored)), flush=True)


# ---- a handful of cells again


def quick(build):
    failed = 0
    profile(build)
    for step, cells in QUICK.items():
        chapter, name = step.split("/")
        stored = os.path.join(TOP, "chapters", chapter, "results", name + ".jsonl")
        if not os.path.exists(stored):
            print("%s: skipped, no results are stored" % step)
            continue
        folder = os.path.join(build, "study-quick", name)
        os.makedirs(os.path.join(TOP, folder), exist_ok=True)
        shutil.copy(stored, os.path.join(TOP, folder, "cells.jsonl"))
        done = subprocess.run([os.path.join(build, "kvsink"), "sweep", spec_path(step), "-o", folder, "--quick"] +
                              cells + ["--windows", "4", "--tolerance", "0.1"], cwd=TOP)
        failed += done.returncode != 0
    return 1 if failed else 0


def main():
    if len(sys.argv) < 2 or sys.argv[1] not in ("run", "collect", "quick", "profile", "list"):
        sys.exit(__doc__)
    if sys.argv[1] == "list":
        print("\n".join(steps()))
        return 0
    build, wanted = sys.argv[2], sys.argv[3:] or steps()
    for step in wanted:
        if step not in steps():
            sys.exit("study.py: no step '%s'; expected one of\n  %s" % (step, "\n  ".join(steps())))
    if sys.argv[1] == "profile":
        profile(build)
        return 0
    if sys.argv[1] == "quick":
        return quick(build)
    for step in wanted:
        if sys.argv[1] == "run":
            measure(build, step)
        collect(build, step)
    run_command([sys.executable, "tests/tools/claims.py"])
    run_command(["sh", "book/build.sh", "stamp", "chapters/06-kvsink/results/claims.tsv"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
