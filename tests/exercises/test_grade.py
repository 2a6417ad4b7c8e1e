#!/usr/bin/env python3
"""Does the grader stand what students hand in?

Each file of planted/ is an answer to one exercise and misbehaves; its first line says which reason is
to be reported. Then a class in which one student is right and the others try to spoil that: the row of
the first must say so. Then an answer that knows the public cases by heart: a seed must find it out. And
starting an exercise must not touch what somebody wrote. Run it in the project's top folder (make test-exercises does)."""

import contextlib
import csv
import io
import os
import pathlib
import re
import sys
import tempfile

import grade

PLANTED = pathlib.Path(__file__).with_name("planted")
EXERCISE = "01.4"


def planted(exercise, path):
    """"" or what is wrong with the verdict."""
    wanted = re.match(r"/\* wanted: (.*) \*/", path.read_text())[1]
    exercise.file = path.name
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name).resolve()
        (folder / path.name).write_text(path.read_text().replace("../../..", str(grade.TOP)))
        verdict = grade.grade_text(exercise, (folder / path.name).read_bytes(), exercise.cases(""), True)
    if verdict.word != "failed" or wanted not in verdict.why:
        return "'%s' was expected, and it was '%s: %s'" % (wanted, verdict.word, verdict.why)
    return ""


def whole_class(exercise):
    """Ada is right. Ben hands in nothing, Cleo and Hal links to her file and folder, Dan a pipe, Eve a program
    that would end the others and remove files, Fay the stub, Ida a link to itself, and Gus has a name that is a formula."""
    with tempfile.TemporaryDirectory() as name:
        root = pathlib.Path(name)
        solution = exercise.solution.read_text()
        for student in ("ada", "ben", "cleo", "dan", "eve", "fay", "=gus"):
            (root / student / EXERCISE).mkdir(parents=True)
        at = {p.name: p / EXERCISE / exercise.file for p in root.iterdir()}
        at["ada"].write_text(solution)
        os.symlink(at["ada"], at["cleo"])
        os.mkfifo(at["dan"])
        mean = "#define _GNU_SOURCE\n#include <signal.h>\n#include <unistd.h>\n" \
               "__attribute__((constructor)) static void mean(void)\n" \
               "{ kill(-1, SIGKILL); unlink(\"%s\"); }\n" % at["ada"]
        at["eve"].write_text(mean + solution)
        (root / "hal").mkdir()
        os.symlink(root / "ada" / EXERCISE, root / "hal" / EXERCISE)
        (root / "ida" / EXERCISE).mkdir(parents=True)
        os.symlink(exercise.file, root / "ida" / EXERCISE / exercise.file)
        at["fay"].write_text(exercise.stub.read_text())
        at["=gus"].write_text(exercise.wrong[0].read_text())
        to = root / "grades.csv"
        grade.grade_class(str(root), str(to), "7", [exercise])
        with open(to, newline="") as f:
            rows = {row["student"]: row for row in csv.DictReader(f)}
    out = []
    for student, passed, word in (("ada", "1", "passed"), ("ben", "0", "skipped"), ("cleo", "0", "failed"),
                                  ("dan", "0", "failed"), ("eve", "1", "passed"), ("fay", "0", "skipped"),
                                  ("hal", "0", "failed"), ("ida", "0", "failed"),
                                  ("=gus", "0", "failed")):
        row = rows.get(student) or rows.get("'" + student) or {}
        said = row.get(EXERCISE + " why") or "no row"
        if row.get("passed") != passed or not said.startswith(word):
            out.append("%s: '%s' was expected, and it was '%s'" % (student, word, said))
    if any(name[0] in "=+-@" for name in rows):
        out.append("a name in the table would be taken for a formula")
    return out


def by_heart(exercise):
    """A program that looks the answers up passes the public cases and no others."""
    lines = ["#include <string.h>", "void window_softmax(float *p, const float *s, int n, int pinned, int window)", "{",
             "    (void)pinned, (void)window;"]
    for one in exercise.cases(""):
        known = ", ".join("%.9g" % x for x in one["out"]["p"])
        lines.append("    if (n == %d && s[n - 1] == (float)%r)" % (len(one["in"]["s"]), one["in"]["s"][-1]))
        lines.append("        memcpy(p, (float[]){%s}, (size_t)n * 4);" % known)
    text = "\n".join(lines + ["}", ""]).encode()
    first = grade.grade_text(exercise, text, exercise.cases(""), True)
    then = grade.grade_text(exercise, text, exercise.cases("7"), True)
    if first.word == "passed" and then.word == "failed" and "fresh, " in then.why:
        return []
    return ["by heart: without a seed '%s', with one '%s: %s'" % (first.word, then.word, then.why)]


def started_twice(exercise):
    with tempfile.TemporaryDirectory() as name:
        grade.WORK = pathlib.Path(name)
        mine = grade.WORK / exercise.id / exercise.file
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            grade.start(exercise.id, [exercise])
            as_given = mine.read_bytes() == exercise.stub.read_bytes()
            mine.write_text("mine")
            grade.start(exercise.id, [exercise])
        kept = mine.read_text() == "mine" and "stays as it is" in out.getvalue()
    return [] if as_given and kept else ["starting an exercise twice overwrites it, or does not say so"]


def main():
    grade.IDLE, grade.RUN = 2, {"seconds": 2, "megabytes": 128, "file": 1}
    exercise = grade.find(EXERCISE, grade.all_exercises())
    if not grade.prepare([exercise]):
        return 1
    exercise.cases(""), exercise.cases("7")
    failed, file = 0, exercise.file
    for path in sorted(PLANTED.glob("*.c")):
        why = planted(exercise, path)
        failed += bool(why)
        print("%-16s %s" % (path.name, why or "reported as it should be"))
    exercise.file = file
    for why in whole_class(exercise) + by_heart(exercise) + started_twice(exercise):
        failed += 1
        print("FAILED: " + why)
    print("grader: %s" % ("%d FAILED" % failed if failed else "all as it should be"))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
