#!/usr/bin/env python3
"""Are the test vectors able to see the mistakes that they name?

A vector's flags say which mistakes it is there to catch. Here the mistakes are really made: each
mutant of mutants.txt is one small edit of one file of ref/. It is compiled, tests/test_vectors.c
judges it, and the verdict must be a failure in which every flag that the mutant names stands beside
a failed case. A mutant that survives means a case is missing from the oracle, not that the mutant
is harmless.

    python3 tests/mutants/run.py [BUILD] [NAME...]   all mutants, or those named; BUILD: build

Needs BUILD/libkv.a and BUILD/libtm.a, built without sanitizers; the variable CC names the compiler.
A mutated file is compiled alone and linked in front of libkv.a, which then has nothing left to add
for it. Sources and outputs stay in BUILD/mutants/NAME. The table's form:

    == name of the mutant
    ref/file.c  flag another-flag
    - lines to be replaced, exactly as they stand there (found exactly once)
    + lines to stand there instead, any number; a - after a + begins another edit
    # comment

Exit 1 if a mutant survived, was caught by unnamed cases only, or did not fit the source."""
import concurrent.futures
import os
import pathlib
import re
import shlex
import subprocess
import sys

TOP = pathlib.Path(__file__).resolve().parents[2]
TABLE = pathlib.Path(__file__).with_name("mutants.txt")
CC = shlex.split(os.environ.get("CC", "cc"))
FLAGS = ["-std=c11", "-O1", "-w", "-ffp-contract=off", "-Iref", "-Itinymodels", "-Itests"]
LIBS = ["-lcriterion", "-lopenblas", "-lpcre2-8", "-lcjson", "-lm", "-lpthread"]
SECONDS = 20  # a mutant that needs longer hangs


class Mutant:
    def __init__(self, name):
        self.name, self.file, self.flags, self.edits = name, None, [], []

    def source(self):
        """The edited file, or ValueError when an edit does not fit it."""
        text = (TOP / self.file).read_text()
        for old, new in self.edits:
            found = text.count(old)
            if found != 1 or old == new:
                raise ValueError(f"its old text is found {found} times in {self.file}:\n{old}")
            text = text.replace(old, new)
        return text


def read_table():
    mutants, old, new = [], [], []

    def close():
        if old or new:
            mutants[-1].edits.append(("\n".join(old), "\n".join(new)))
            old.clear(), new.clear()

    for number, line in enumerate(TABLE.read_text().splitlines(), 1):
        if line.startswith("== "):
            close()
            mutants.append(Mutant(line[3:]))
        elif line.startswith("ref/"):
            mutants[-1].file, *mutants[-1].flags = line.split()
        elif line.startswith("- "):
            if new:
                close()
            old.append(line[2:])
        elif line == "+" or line.startswith("+ "):
            new.append(line[2:])
        elif line and not line.startswith("#"):
            sys.exit(f"{TABLE.name}:{number}: cannot read '{line}'")
    close()
    names = [m.name for m in mutants]
    for m in mutants:
        if not (m.file and m.flags and m.edits) or names.count(m.name) > 1:
            sys.exit(f"{TABLE.name}: '{m.name}' lacks a file, a flag or an edit, or is there twice")
    return mutants


def compile_c(source, to):
    subprocess.run(CC + FLAGS + ["-c", str(source), "-o", str(to)], cwd=TOP, check=True,
                   stderr=subprocess.PIPE, text=True)


def judge(build, objects, to):
    """Links and runs the judge. Returns its exit status and what it printed."""
    archives = [str(build / "libtm.a"), str(build / "libkv.a")]
    subprocess.run(CC + [str(o) for o in objects] + archives + LIBS + ["-o", str(to)], cwd=TOP,
                   check=True, stderr=subprocess.PIPE, text=True)
    done = subprocess.run([str(to), "-j1"], cwd=TOP, timeout=SECONDS, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace")
    return done.returncode, done.stdout


def try_mutant(mutant, build, judge_object):
    """Returns (caught, a line to print)."""
    folder = build / "mutants" / mutant.name
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / pathlib.Path(mutant.file).name
    try:
        source.write_text(mutant.source())
        compile_c(source, folder / "mutant.o")
        status, text = judge(build, [judge_object, folder / "mutant.o"], folder / "judge")
    except ValueError as error:
        return False, f"does not fit the source: {error}"
    except subprocess.CalledProcessError as error:
        return False, f"does not compile:\n{error.stderr}"
    except subprocess.TimeoutExpired:
        return False, f"hangs: no verdict after {SECONDS} s"
    (folder / "output").write_text(text)
    if status == 0:
        return False, "SURVIVES: no case fails"
    shown, cases = {}, 0
    for flags in re.findall(r' \[((?:"[^"]*",?)+)\]: ', text):
        cases += 1
        for flag in re.findall(r'"([^"]*)"', flags):
            shown[flag] = shown.get(flag, 0) + 1
    missing = [f for f in mutant.flags if f not in shown]
    counts = ", ".join(f"{f} {shown[f]}" for f in mutant.flags if f in shown)
    if missing:
        return False, f"UNNAMED: {cases} cases fail, none has the flag {', '.join(missing)}"
    return True, f"{cases} cases fail: {counts}"


def main():
    build = TOP / (sys.argv[1] if len(sys.argv) > 1 else "build")
    wanted = sys.argv[2:]
    mutants = [m for m in read_table() if not wanted or m.name in wanted]
    if not mutants:
        sys.exit(f"no such mutant; {TABLE.name} has the names")
    (build / "mutants").mkdir(parents=True, exist_ok=True)
    judge_object = build / "mutants" / "test_vectors.o"
    compile_c("tests/test_vectors.c", judge_object)
    status, text = judge(build, [judge_object], build / "mutants" / "judge")
    if status:
        sys.exit(text + "\nref/ itself fails; mutants say nothing until it passes")
    caught = 0
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(lambda m: try_mutant(m, build, judge_object), mutants)
        for mutant, (good, line) in zip(mutants, results):
            caught += good
            print(f"{'caught' if good else 'FAILED'}  {mutant.name:28} {line}", flush=True)
    print(f"\n{caught} of {len(mutants)} mutants are caught by a case that names the mistake")
    return 0 if caught == len(mutants) else 1


if __name__ == "__main__":
    sys.exit(main())
