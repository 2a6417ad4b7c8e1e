#!/usr/bin/env python3
"""Does the code of chapters 1 to N work without the rest?

    python3 tests/tools/upto.py N [BUILD]      build and test with what chapters 1 to N show
    python3 tests/tools/upto.py all [BUILD]    the same for every N

Which code that is, the chapters say: each region of ref/ and cuda/ has one home, a block
{show="FILE SLUG"}. Here the regions with a home in chapters 1 to N (and in the appendices, whose
simulator is a tool) are put together again, in the order of their files, in BUILD/upto/N/. A header
then declares what has been explained so far; its last region, "end", closes it and is always there. A
file of which nothing has been shown does not exist. The tests are those of tests/ for files that are
complete: tests/test_FILE.c and tests/test_cuda_FILE.c.

An object is compiled once for each text that the preprocessor hands on, and a test program is run once
for each content, so that what a later chapter did not change costs nothing."""

import concurrent.futures
import hashlib
import os
import pathlib
import re
import shlex
import subprocess
import sys

TOP = pathlib.Path(__file__).resolve().parents[2]
LAST = 7
# Tests that need more than the file they are named for: the chapter from which on they can be built.
LATER = {"test_cuda_quantize": 4, "test_cuda_fuzz": 7}
CC = shlex.split(os.environ.get("CC", "cc"))
CXX = shlex.split(os.environ.get("CXX", "g++"))
C_FLAGS = ["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Werror", "-O2", "-ffp-contract=off"]
JUDGE = ["-Wconversion", "-Wno-sign-conversion"]  # as the Makefile has it for ref/
JOBS = int(os.environ.get("JOBS", os.cpu_count() or 1))


class Trouble(Exception):
    pass


# ---- what the chapters show ----------------------------------------------------------------------


def homes():
    """(file, slug) -> number of the chapter that shows it."""
    found = {}
    for path in sorted(TOP.glob("chapters/*/*.md")):
        number = int(path.parent.name.split("-")[0])
        for file, slug in re.findall(r'\{show="(\S+) (\S+)"\}', path.read_text()):
            found[file, slug] = number
    return found


def regions(path):
    """Slugs and texts of a file, in order."""
    out = []
    for line in path.read_text().splitlines(keepends=True):
        opener = re.match(r"//@ (\S+):", line)
        if opener:
            out.append([opener[1], ""])
        if not out:
            raise Trouble("%s: a line before the first region" % path)
        out[-1][1] += line
    return out


def put_together(n, home, to):
    """Writes the files as they stand after chapter n. Returns those that are complete."""
    complete = set()
    for path in sorted([*TOP.glob("ref/*"), *TOP.glob("cuda/*.*")]):
        name = str(path.relative_to(TOP))
        text, whole, some = "", True, False
        for slug, body in regions(path):
            chapter = home.get((name, slug), 0)
            shown = 1 <= chapter <= n or chapter >= 90
            closes = slug == "end"
            some |= shown and not closes
            whole &= shown or closes
            text += body if shown or closes else ""
        target = to / name
        if some:
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists() or target.read_text() != text:
                target.write_text(text)
            if whole:
                complete.add(name)
        elif target.exists():
            target.unlink()
    return complete


# ---- building ------------------------------------------------------------------------------------


class Builder:
    def __init__(self, build):
        self.build = build
        self.cache = build / "upto" / "cache"
        self.cache.mkdir(parents=True, exist_ok=True)

    def call(self, command, what):
        done = subprocess.run([str(c) for c in command], cwd=TOP, capture_output=True)
        if done.returncode:
            text = (done.stderr + done.stdout).decode(errors="replace")
            raise Trouble("%s:\n%s" % (what, text[-3000:]))
        return done.stdout

    def compile(self, compiler, flags, source):
        """An object, from the cache if the same text was compiled before."""
        text = self.call([*compiler, *flags, "-E", "-P", source], "cannot read %s" % source)
        key = hashlib.sha1(repr((compiler, [f for f in flags if not f.startswith("-I")])).encode() + text)
        made = self.cache / (key.hexdigest() + ".o")
        if not made.exists():
            new = made.with_suffix(".%d.new" % os.getpid())
            self.call([*compiler, *flags, "-c", source, "-o", new], "does not compile: %s" % source)
            os.replace(new, made)
        return made

    def kernel(self, to, name, flags):
        """A .cu file: lowered, then compiled."""
        lowered = to / (name[:-3] + ".cpp")
        text = self.call([self.build / "cusim", "--lower", to / name], "cannot lower %s" % name)
        lowered.write_bytes(re.sub(rb'#line (\d+) ".*"', rb"", text))
        return self.compile(CXX, flags, lowered)

    def run_test(self, name, objects, n, kernels, link_only):
        """Links and runs a test, unless the same program has passed before."""
        program = self.build / "upto" / str(n) / name
        compiler = CXX if kernels else CC
        self.call([*compiler, *objects, "-o", program, "-lcriterion", "-lcjson", "-lm", "-ldl"],
                  "%s does not link with the code of chapters 1 to %d" % (name, n))
        passed = self.cache / (hashlib.sha1(program.read_bytes()).hexdigest() + ".passed")
        if passed.exists() or link_only:
            return "as before"
        done = subprocess.run([str(program), "-j1"], cwd=TOP, capture_output=True)
        if done.returncode:
            text = (done.stderr + done.stdout).decode(errors="replace")
            raise Trouble("%s fails:\n%s" % (name, text[-3000:]))
        passed.write_text("")
        return "passed"


def tests_for(n, complete):
    """Names of tests whose files are complete, and whether they test kernels."""
    out = []
    for path in sorted(TOP.glob("tests/test_*.c")):
        cuda = path.stem.startswith("test_cuda_")
        piece = path.stem[len("test_cuda_" if cuda else "test_"):]
        file = "cuda/%s.cu" % piece if cuda else "ref/%s.c" % piece
        if LATER.get(path.stem, 0) <= n and (file in complete or path.stem in LATER):
            out.append((path.stem, cuda))
    return out


def parallel(pool, jobs):
    return [f.result() for f in [pool.submit(*job) for job in jobs]]


def upto(n, home, builder, pool, every):
    to = builder.build / "upto" / str(n)
    to.mkdir(parents=True, exist_ok=True)
    complete = put_together(n, home, to)
    if (to / "cuda").exists() and not (to / "cuda" / "sim").exists():
        (to / "cuda" / "sim").symlink_to(TOP / "cuda" / "sim")  # a tool, like the compiler
    include = ["-I%s/ref" % to, "-I%s/cuda" % to, "-Itests"]
    ref = sorted(to.glob("ref/*.c"))
    if not ref:
        raise Trouble("no code is shown in chapters 1 to %d" % n)
    objects = parallel(pool, [(builder.compile, CC, C_FLAGS + JUDGE + include[:1], p) for p in ref])
    kernel_flags = [f for f in shlex.split(builder.call([builder.build / "cusim", "--flags"], "cusim").decode())
                    if not f.startswith(("-I", "-gdwarf"))] + include[:2]
    kernels = [str(p.relative_to(to)) for p in sorted(to.glob("cuda/*.cu"))]
    kernels = parallel(pool, [(builder.kernel, to, name, kernel_flags) for name in kernels])
    tests = tests_for(n, complete)
    mains = parallel(pool, [(builder.compile, CC, C_FLAGS + include, TOP / "tests" / (name + ".c"))
                            for name, _ in tests])
    jobs = []
    for (name, cuda), main in zip(tests, mains):
        more = kernels + [builder.build / "libcusim.a"] if cuda else []
        jobs.append((builder.run_test, name, [main, *objects, *more], n, cuda, every and cuda and n == LAST))
    said = parallel(pool, jobs)
    new = [name for (name, _), word in zip(tests, said) if word == "passed"]
    print("chapters 1 to %d: %d files of ref/, %d of kernels, %d tests passed%s" % (
        n, len(ref), len(kernels), len(tests),
        ", %d of them as before" % (len(tests) - len(new)) if len(new) < len(tests) else ""), flush=True)


def main():
    if len(sys.argv) < 2 or not re.fullmatch(r"all|[1-%d]" % LAST, sys.argv[1]):
        print("upto: '%s'; expected N=1 to N=%d, the last chapter that you have read" %
              (" ".join(sys.argv[1:2]), LAST), file=sys.stderr)
        return 2
    build = (TOP / (sys.argv[2] if len(sys.argv) > 2 else "build")).resolve()
    builder, home = Builder(build), homes()
    numbers = range(1, LAST + 1) if sys.argv[1] == "all" else [int(sys.argv[1])]
    try:
        with concurrent.futures.ThreadPoolExecutor(JOBS) as pool:
            for n in numbers:
                upto(n, home, builder, pool, len(numbers) > 1)
    except Trouble as why:
        sys.exit("upto %d: %s" % (n, why))
    return 0


if __name__ == "__main__":
    sys.exit(main())
