#!/usr/bin/env python3
"""The figures of the README: run, tabulated, and run again.

    results.py run    BUILD [ROW ...]   measure (all) rows; one JSON file each in RESULTS
    results.py repeat BUILD ROW ...     measure rows again, compare with their files to 0.1 %
    results.py readme [--check]         write the table into README.md between its markers

A row is one `kvsink eval`. Its file says model, text (with checksum), command and commit, so that
anyone can repeat it. Perplexity and KL of a 2-bit cache are chaotic: a change of the last bit of a
float, such as another processor's matrix kernel, moves them by some per cent a window. So rows
marked `steady` (hand-built model, or 8 bits) are the ones that are repeated exactly, and the
others carry a standard error.
"""

import hashlib
import json
import os
import subprocess
import sys

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
RESULTS = os.path.join(TOP, "chapters", "00-start", "results")
TOLERANCE = 1e-3

TINY = "hand-built"
REAL = "SmolLM2-135M-Instruct Q4_1"
TWO_BITS = ["--keys", "2:channel:128", "--values", "2:token:64"]
JOINED = ["--join", "eot:60", "--windows", "32"]
PLAIN = ["--windows", "32"]


def row(name, model, text, shown, keep, options, steady=False):
    return {"row": name, "model": model, "text": text, "shown": shown, "keep": keep,
            "options": options, "steady": steady}


def rows():
    tiny = ["--ctx", "127", "--keys", "2:channel:64", "--values", "2:token:64"]
    out = [row("tiny-" + name, TINY, "verse", "a verse, twice", keep, tiny, True)
           for name, keep in (("none", "none"), ("first5", "first:5"), ("kvsink5", "kvsink:5"))]
    for kind, shown, options in (("plain", "prose", PLAIN), ("joined", "passages joined by EOT", JOINED)):
        for name, keep in (("none", "none"), ("first5", "first:5"), ("kvsink5", "kvsink:5"),
                           ("kvsink5all", "kvsink:5/all"), ("autoall", "kvsink:auto/all")):
            out.append(row("smollm2-%s-%s" % (kind, name), REAL, "devref", shown, keep,
                           options + TWO_BITS))
    out.append(row("smollm2-8bit", REAL, "gpl3", "a licence", "first:1",
                   ["--windows", "4", "--keys", "8:channel:128", "--values", "8:token:64"], True))
    return out


def model_path(build, model):
    return os.path.join(build, "handmade.gguf" if model == TINY
                        else "llm/SmolLM2-135M-Instruct.Q4_1.gguf")


def text_path(build, text):
    return os.path.join(build, "texts", text + ".txt")


def kvsink(build, *arguments):
    done = subprocess.run([os.path.join(build, "kvsink")] + list(arguments), stdout=subprocess.PIPE, check=True)
    return done.stdout.decode()


def prepare(build, model):
    """The model's file and profile; both are made if they are not there."""
    path = model_path(build, model)
    profile = path.replace(".gguf", ".profile.txt")
    texts = os.path.join(build, "texts")
    os.makedirs(texts, exist_ok=True)
    if model == TINY:
        kvsink(build, "handmade", "-o", path, "--write-text", text_path(build, "verse"))
    calibration = [text_path(build, "verse")] if model == TINY else \
        [text_path(build, "gpl3"), text_path(build, "kjv")]  # not the text that is measured
    if not os.path.exists(profile) or model == TINY:
        kvsink(build, "calibrate", path, "--file", *calibration, "-o", profile)
    return path, profile


def measure(build, one):
    path, profile = prepare(build, one["model"])
    text = text_path(build, one["text"])
    options = one["options"] + ["--keep", one["keep"]]
    if "kvsink" in one["keep"]:
        options += ["--profile", profile]
    got = json.loads(kvsink(build, "eval", path, "--file", text, "--json", *options))
    for local in ("text", "model"):
        got.pop(local, None)
    with open(text, "rb") as f:
        checksum = hashlib.sha256(f.read()).hexdigest()
    shown = " ".join(o for o in options if o != profile).replace("--profile", "--profile PROFILE")
    return {"row": one["row"], "model": one["model"], "text": one["text"], "text-sha256": checksum,
            "command": "kvsink eval MODEL --file TEXT " + shown,
            "commit": kvsink(build, "--version").split()[1], "result": got}


def result_file(name):
    return os.path.join(RESULTS, name + ".json")


def load(name):
    with open(result_file(name)) as f:
        return json.load(f)


def write(path, text):
    """Whole or not at all."""
    with open(path + ".new", "w") as f:
        f.write(text)
    os.replace(path + ".new", path)


def run(build, wanted):
    os.makedirs(RESULTS, exist_ok=True)
    for one in rows():
        if wanted and one["row"] not in wanted:
            continue
        measured = measure(build, one)
        write(result_file(one["row"]), json.dumps(measured, indent=1) + "\n")
        r = measured["result"]
        print("%-24s ppl %8.3f  KL %.4g  bits %.3f" % (one["row"], r["ppl"], r["kl"], r["bits"]), flush=True)


def close(a, b):
    return abs(a - b) <= TOLERANCE * max(abs(a), abs(b)) or abs(a - b) <= 1e-5


def repeat(build, wanted):
    failed = 0
    for one in rows():
        if one["row"] not in wanted:
            continue
        before, now = load(one["row"]), measure(build, one)
        if before["text-sha256"] != now["text-sha256"]:
            print("%-24s skipped: this machine has another version of the text" % one["row"])
            continue
        differing = [k for k in ("ppl16", "ppl", "bits", "bytes", "kept", "windows", "tokens")
                     if not close(before["result"][k], now["result"][k])]
        for k in differing:
            print("%-24s FAIL %s: %r, committed %r" % (one["row"], k, now["result"][k], before["result"][k]))
        if not differing:
            print("%-24s ok: perplexity %.4f, committed %.4f" % (one["row"], now["result"]["ppl"], before["result"]["ppl"]))
        failed += bool(differing)
    return 1 if failed else 0


def figure(x):
    return "%.3f" % x if x >= 1e-3 else "%.1e" % x


def table():
    lines = ["| model | text | windows | kept tokens | perplexity (16 bits: in brackets) | KL, nats | same best token | bits |",
             "|---|---|---|---|---|---|---|---|"]
    commits, previous = set(), None
    for one in rows():
        if not os.path.exists(result_file(one["row"])):
            continue
        whole = load(one["row"])
        r, place = whole["result"], (one["model"], one["shown"])
        commits.add(whole["commit"])
        error = " ± " + figure(r["kl_error"]) if r["windows"] > 1 else ""
        width = "2 bits" if "2:channel" in r["keys"] else "8 bits"
        model, text = place if place != previous else ("", "")
        lines.append("| %s | %s | %s | %s, `%s` | %.2f (%.2f) | %s%s | %.1f %% | %.2f |" % (
            model, text, r["windows"] if text else "", width, one["keep"], r["ppl"], r["ppl16"], figure(r["kl"]), error,
            100 * r["top1"], r["bits"]))
        previous = place
    lines.append("")
    lines.append("Measured at commit %s; each row's command, text checksum and figures are in "
                 "`chapters/00-start/results/`." % ", ".join(sorted(commits)))
    return "\n".join(lines)


def readme(check):
    path = os.path.join(TOP, "README.md")
    with open(path) as f:
        text = f.read()
    start, end = "<!-- results: written by make readme -->\n", "<!-- end of results -->"
    before, rest = text.split(start)
    after = rest.split(end)[1]
    new = before + start + table() + "\n" + end + after
    if check:
        if new != text:
            print("README.md: its table is not the one that the result files give; run make readme")
            return 1
        print("README.md: the table is the one that the result files give")
        return 0
    write(path, new)
    return 0


def main():
    if len(sys.argv) > 2 and sys.argv[1] == "run":
        return run(sys.argv[2], sys.argv[3:])
    if len(sys.argv) > 3 and sys.argv[1] == "repeat":
        return repeat(sys.argv[2], sys.argv[3:])
    if len(sys.argv) > 1 and sys.argv[1] == "readme":
        return readme("--check" in sys.argv[2:])
    sys.exit(__doc__)


if __name__ == "__main__":
    sys.exit(main())
