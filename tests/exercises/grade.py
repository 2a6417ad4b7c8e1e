#!/usr/bin/env python3
"""Start, grade and prove the exercises of chapters/NN-name/exercises/K-name/.

    grade.py start 01.2                      copy the stub to work/01.2/, unless something is there
    grade.py grade [01.2 ...] [--seed TEXT]  grade what was started (or those named)
    grade.py class DIR CSV [--seed TEXT]     grade DIR/STUDENT/01.2/FILE of all students
    grade.py test [01.2 ...]                 stubs fail, solutions pass, wrong answers are caught
    grade.py list                            all exercises

make exercise, grade, grade-class and test-exercises call it. An exercise's folder holds

    exercise.txt   title, kind, file (what the reader writes), with (files of ref/ to be linked)
    stub.*         what the reader begins with; it compiles and fails
    solution.*     an answer that passes
    wrong-*.*      plausible answers that must not pass, named by the mistake
    check.c        hands one case to the reader's function (answer.h); not for predictions
    oracle.py      yields the cases, with what is right (cases.py)

The kinds are rebuild (a function of ref/), extend (one that ref/ lacks), kernel (a .cu file, run by the
simulator in four orders of threads) and predict (a text file of numbers).

Each submission is compiled and run by itself, in a folder of its own, under limits of time, memory and
file size, and closed off from files and other processes (confine.c). The program gets inputs and hands
back answers; only this one here knows what is right. All cases must be right: one that is not answered,
because the program ended before, counts as wrong.
"""

import argparse
import concurrent.futures
import csv
import importlib.util
import os
import pathlib
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time

sys.dont_write_bytecode = True
HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import cases as judge  # noqa: E402

TOP = judge.TOP
BUILD = (TOP / os.environ.get("BUILD", "build")).resolve()
CACHE = BUILD / "exercises"
WORK = TOP / "work"
CC = shlex.split(os.environ.get("CC", "cc"))
CXX = shlex.split(os.environ.get("CXX", "g++"))
JOBS = int(os.environ.get("JOBS", os.cpu_count() or 1))
C_FLAGS = ["-std=c11", "-O1", "-ffp-contract=off", "-I" + str(TOP / "ref")]
WRAP = ["-Wl,--wrap=malloc", "-Wl,--wrap=calloc", "-Wl,--wrap=realloc"]
KINDS = {"rebuild": ".c", "extend": ".c", "kernel": ".cu", "predict": ".txt"}
LARGEST = 1 << 20  # bytes of a submission's file
# Processor seconds, megabytes of memory, megabytes of a file. Compilers get more of it. A kernel's
# memory is watched instead of limited, as the simulator reserves addresses by the terabyte.
RUN = {"seconds": 10, "megabytes": 256, "file": 16}
COMPILE = {"seconds": 60, "megabytes": 4096, "file": 64}
KERNEL_MEGABYTES = 1024
PATIENCE = 100  # times the processor seconds may pass on the clock: others are busy too
IDLE = 10  # seconds that a program may wait for nothing
FEWEST = 6  # exercises of a chapter
WITHOUT = {}  # chapter: kinds that its matter does not allow
NEW_SEED = "test"  # with which "test" tries the solutions once more


class Broken(Exception):
    """An exercise (not an answer) is at fault."""


class Usage(Exception):
    """What was asked for cannot be."""


# ---- the exercises -------------------------------------------------------------------------------


class Exercise:
    def __init__(self, folder):
        self.folder = folder
        chapter, number = folder.parent.parent.name.split("-")[0], folder.name.split("-")[0]
        self.id = chapter + "." + number
        self.text = folder.parent.parent / "exercises.md"
        said = {}
        for line in (folder / "exercise.txt").read_text().splitlines():
            if line.strip() and not line.startswith("#"):
                key, _, value = line.partition(" ")
                said[key] = value.strip()
        unknown = set(said) - {"title", "kind", "file", "with"}
        if unknown or not {"title", "kind", "file"} <= set(said) or said["kind"] not in KINDS:
            raise Broken("%s/exercise.txt: title, kind (%s), file and perhaps with are expected"
                         % (relative(folder), ", ".join(KINDS)))
        self.title, self.kind, self.file = said["title"], said["kind"], said["file"]
        self.with_ref = said.get("with", "").split()
        self.suffix = KINDS[self.kind]
        if pathlib.Path(self.file).suffix != self.suffix:
            raise Broken("%s: file is to end in %s" % (self.id, self.suffix))
        self.stub, self.solution = folder / ("stub" + self.suffix), folder / ("solution" + self.suffix)
        self.wrong = sorted(folder.glob("wrong-*" + self.suffix))
        self.loaded = {}
        self.lock = threading.Lock()

    def cases(self, seed):
        """Public ones, then, with a seed, fresh ones. Random numbers are patched meanwhile, so this
        happens in one thread only."""
        if "" not in self.loaded:
            spec = importlib.util.spec_from_file_location("oracle_" + self.id, self.folder / "oracle.py")
            self.module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(self.module)
            self.loaded[""] = list(self.module.cases(""))
        if seed and seed not in self.loaded and self.kind != "predict":
            fresh = []
            for one in self.module.cases(" " + seed):
                fresh.append(dict(one, id="fresh, " + one["id"]))
            self.loaded[seed] = fresh
        out = self.loaded[""] + (self.loaded.get(seed, []) if seed else [])
        names = [one["id"] for one in out]
        if not out or len(set(names)) != len(names) or any("\n" in name for name in names):
            raise Broken("%s: its oracle gives no cases, or two of one name" % self.id)
        return out

    def prerequisites(self):
        """What make has to build for it."""
        out = [BUILD / "ref" / (pathlib.Path(p).stem + ".o") for p in self.with_ref]
        if self.kind == "kernel":
            out += [BUILD / "cusim", BUILD / "cuda" / "device.o"]
        return [os.path.relpath(p, TOP) for p in out]


def relative(path):
    return os.path.relpath(path, TOP)


def all_exercises():
    folders = sorted(p.parent for p in TOP.glob("chapters/*/exercises/*/exercise.txt"))
    found = [Exercise(folder) for folder in folders]
    names = [e.id for e in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise Broken("two exercises are called %s" % ", ".join(twice))
    found.sort(key=lambda e: [int(part) for part in e.id.split(".")])
    return found


def find(name, exercises):
    """3.2 is 03.2."""
    match = re.fullmatch(r"(\d+)\.(\d+)", name)
    wanted = "%02d.%d" % (int(match[1]), int(match[2])) if match else name
    for e in exercises:
        if e.id == wanted:
            return e
    known = ", ".join(e.id for e in exercises) or "none yet"
    raise Usage("there is no exercise '%s'; expected E=CHAPTER.NUMBER, one of: %s" % (name, known))


# ---- building ------------------------------------------------------------------------------------


def make(targets):
    targets = sorted(set(targets))
    if targets:
        clean = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
        given = ["BUILD=" + relative(BUILD), "CC=" + shlex.join(CC), "CXX=" + shlex.join(CXX)]
        subprocess.run(["make", "-s", "-j%d" % JOBS, *given, *targets], cwd=TOP, check=True, env=clean)


def older(made, sources):
    return not made.exists() or any(s.stat().st_mtime > made.stat().st_mtime for s in sources)


def compile_ours(made, source, flags=(), compiler=None, more=()):
    """Our own files, once."""
    if older(made, [source, HERE / "answer.h", *more]):
        made.parent.mkdir(parents=True, exist_ok=True)
        command = (compiler or CC) + ["-Wall", "-Wextra", "-I" + str(HERE), *flags, str(source)]
        new = made.with_suffix(".new")
        done = subprocess.run(command + ["-o", str(new)], capture_output=True, text=True, cwd=TOP)
        if done.returncode:
            raise Broken("%s does not compile:\n%s" % (relative(source), done.stderr))
        os.replace(new, made)
    return made


def confine():
    return compile_ours(CACHE / "confine", HERE / "confine.c", ["-std=gnu11", "-O1"])


def harness(exercise):
    """The objects that the reader's file is linked with."""
    kernel = exercise.kind == "kernel"
    flags = ["-std=gnu11", "-O1", "-c", "-I" + str(TOP / "ref"), "-ffp-contract=off"]
    if kernel:
        flags += ["-DKERNELS", "-I" + str(TOP / "cuda")]
    with_main = CACHE / ("answer-kernels.o" if kernel else "answer.o")
    out = [compile_ours(with_main, HERE / "answer.c", flags)]
    checker = CACHE / exercise.id / "check.o"
    out.append(compile_ours(checker, exercise.folder / "check.c", flags + ["-Werror"], more=[TOP / "ref/kv.h"]))
    out += [BUILD / "ref" / (pathlib.Path(p).stem + ".o") for p in exercise.with_ref]
    if kernel:
        out += [BUILD / "cuda" / "device.o", BUILD / "libcusim.a"]
    return [str(p) for p in out]


def prepare(exercises, closed=True):
    """Everything that all submissions share is made before the first is run."""
    make([t for e in exercises for t in e.prerequisites()])
    probe = subprocess.run([str(confine()), "5", "0", "1", "--closed", "--", "/nonexistent"],
                           capture_output=True, text=True)
    if closed and "seccomp" in probe.stderr:
        print("Note: %s. Answers are graded under limits of time and memory only." %
              probe.stderr.strip().partition(": ")[2], file=sys.stderr)
        return False
    for e in exercises:
        if e.kind != "predict":
            harness(e)
    return True


# ---- running what a stranger wrote ---------------------------------------------------------------


def run_confined(command, folder, limits, closed=False, stdin=None, watch=0):
    """Returns (status, reason): reason is "" if it ended by itself. Outputs lie in folder/out, err."""
    words = [str(CACHE / "confine"), str(limits["seconds"]), str(limits["megabytes"]), str(limits["file"])]
    words += (["--closed"] if closed else []) + ["--"] + command
    clean = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C", "TMPDIR": str(folder)}
    with open(folder / "out", "wb") as out, open(folder / "err", "wb") as err:
        with open(stdin or os.devnull, "rb") as given:
            p = subprocess.Popen(words, cwd=folder, stdin=given, stdout=out, stderr=err, env=clean,
                                 start_new_session=True)
    began = awake = time.monotonic()
    try:
        while True:
            try:
                status = p.wait(timeout=0.05 if watch else 1)
                break
            except subprocess.TimeoutExpired:
                now = time.monotonic()
                awake = awake if closed and asleep(p.pid) else now
                if watch and resident(p.pid) > watch << 20:
                    return -1, "used more than %d MB of memory" % watch
                if now - awake > IDLE:
                    return -1, "waits for something that never comes"
                if now - began > limits["seconds"] * PATIENCE:
                    return -1, "no end after %d s on the clock" % (limits["seconds"] * PATIENCE)
    finally:
        try:
            os.killpg(p.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        p.wait()
    if status >= 0:
        return status, ""
    names = {signal.SIGXCPU: "no end after %d s of computing: an endless loop?" % limits["seconds"],
             signal.SIGKILL: "no end after %d s of computing: an endless loop?" % limits["seconds"],
             signal.SIGXFSZ: "wrote more than %d MB" % limits["file"],
             signal.SIGSEGV: "crashed: it read or wrote where there is no array (SIGSEGV)",
             signal.SIGBUS: "crashed: it read or wrote where there is no array (SIGBUS)",
             signal.SIGFPE: "crashed: an integer was divided by zero (SIGFPE)",
             signal.SIGABRT: "gave up (SIGABRT)"}
    return status, names.get(-status, "was ended by signal %d" % -status)


def resident(pid):
    try:
        with open("/proc/%d/statm" % pid) as f:
            return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


def asleep(pid):
    try:
        with open("/proc/%d/stat" % pid) as f:
            return f.read().rpartition(")")[2].split()[0] == "S"
    except (OSError, IndexError):
        return False


def plain(text, most=160):
    """One line that may stand in a table."""
    text = "".join(c if 32 <= ord(c) < 127 else " " for c in text)
    text = re.sub(r" +", " ", text).strip()
    return text if len(text) <= most else text[: most - 3] + "..."


def first_error(folder):
    text = (folder / "err").read_text(errors="replace")
    lines = [line for line in text.splitlines() if "error" in line or "undefined reference" in line]
    line = lines[0] if lines else text.strip().split("\n")[0]
    return plain("does not compile: " + line.replace(str(folder) + "/", "").replace(str(TOP) + "/", ""))


# ---- compiling an answer -------------------------------------------------------------------------


def trespass(folder, file):
    """What the answer includes besides its own file, the system's headers and those it is given."""
    given = [TOP / "ref/kv.h", TOP / "cuda/kv.cuh", TOP / "cuda/sim/sim.h", HERE / "answer.h",
             TOP / "cuda/kv_cuda.h", TOP / "cuda/layout.h"]
    for name in (folder / "needs").read_text(errors="replace").replace("\\\n", " ").split()[1:]:
        path = pathlib.Path(os.path.normpath(folder / name))
        if path.parent != folder and path not in given and not str(path).startswith("/usr/"):
            return "%s includes %s, which an answer may not" % (file, relative(path))
    return ""


def compile_answer(exercise, folder):
    """Makes folder/run; returns "" or why not."""
    objects, file = harness(exercise), exercise.file
    if exercise.kind == "kernel":
        flags = subprocess.run([str(BUILD / "cusim"), "--flags"], capture_output=True, text=True, check=True)
        status, reason = run_confined([str(BUILD / "cusim"), "--lower", file], folder, COMPILE)
        if status:
            return reason or first_error(folder)
        os.replace(folder / "out", folder / "lowered.cpp")
        command = CXX + shlex.split(flags.stdout) + ["-I" + str(HERE), "-MD", "-MF", "needs"]
        status, reason = run_confined(command + ["-c", "lowered.cpp", "-o", "answer.o"], folder, COMPILE)
        if not status:
            why = trespass(folder, file)
            if why:
                return why
            command = CXX + ["-static", "answer.o", *objects, *WRAP, "-lm", "-o", "run"]
            status, reason = run_confined(command, folder, COMPILE)
        return reason or first_error(folder) if status else ""
    command = CC + C_FLAGS + ["-Wall", "-Wextra", "-MD", "-MF", "needs", "-c", file, "-o", "answer.o"]
    status, reason = run_confined(command, folder, COMPILE)
    if not status:
        why = trespass(folder, file)
        if why:
            return why
        status, reason = run_confined(CC + ["-static", "answer.o", *objects, *WRAP, "-lm", "-o", "run"],
                                      folder, COMPILE)
    return reason or first_error(folder) if status else ""


# ---- reading the answers -------------------------------------------------------------------------


class Answer:
    def __init__(self):
        self.code, self.lists, self.loaded, self.findings, self.ended = 0, {}, None, [], False


def read_answers(path):
    """All that the program said: [order][case id] -> Answer, the case under way, and "stop" lines."""
    orders, current, name, stop, inside = [{}], None, "", "", False
    for line in path.read_text(errors="replace").splitlines():
        word, _, rest = line.partition(" ")
        if inside:
            if line == "end findings":
                inside = False
            else:
                current.findings.append(line)
        elif word == "order" and orders[-1]:
            orders.append({})
        elif word == "case":
            current, name = Answer(), rest
            orders[-1][name] = current
        elif word == "stop":
            stop = rest
        elif current is None:
            continue
        elif word == "code":
            current.code = int(rest)
        elif word == "list":
            parts = rest.split()
            current.lists[parts[0]] = [float(x) for x in parts[2:]]
        elif word == "sectors":
            current.loaded = int(rest.split()[0])
        elif word == "findings":
            inside = True
        elif word == "end":
            current.ended, name = True, ""
    return orders, name, stop


def with_lines(finding, folder, file):
    """Addresses in a complaint of the simulator become lines of the reader's file."""

    def line_of(match):
        try:
            done = subprocess.run(["addr2line", "-i", "-e", str(folder / "run"), match[1]],
                                  capture_output=True, text=True, errors="replace", timeout=60)
        except subprocess.TimeoutExpired:
            return file
        for frame in done.stdout.splitlines():
            path, _, number = frame.partition(":")
            if path.endswith(file):
                return "%s:%s" % (file, (number.split() or ["?"])[0])
        return file

    return plain(re.sub(r"@(0x[0-9a-f]+):1", line_of, finding), 200)


def judge_case(one, answer, folder, exercise):
    """"" or why this case is not right."""
    if answer is None or not answer.ended:
        return "not answered"
    if answer.findings:
        return with_lines(answer.findings[0], folder, exercise.file)
    wanted = {"run": 1, "usage": 2}.get(one.get("error"), 0)
    if answer.code != wanted:
        said = {0: "accepts", 1: "refuses (run)", 2: "refuses (usage)"}
        return "%s what it should have %s" % (
            said.get(answer.code, "answers with code %d" % answer.code),
            "accepted" if not wanted else "refused (%s)" % one["error"])
    if not wanted:
        why = judge.difference(one["out"], answer.lists, one["compare"])
        if why:
            return why
    if "loads" in one and answer.loaded is not None and answer.loaded > one["loads"]:
        return "right, but %d sectors are loaded where %d suffice" % (answer.loaded, one["loads"])
    if "least" in one and answer.loaded is not None and answer.loaded < one["least"]:
        return "only %d sectors are loaded by kernels, at least %d are needed" % (answer.loaded, one["least"])
    return ""


# ---- a verdict -----------------------------------------------------------------------------------


class Verdict:
    def __init__(self, word, why, right=0, of=0, catches=""):
        self.word, self.why, self.right, self.of, self.catches = word, why, right, of, catches


def sum_up(wanted, reasons, end):
    """reasons: per case "" or why not; end: why the program ended early."""
    wrong = [(one, why) for one, why in zip(wanted, reasons) if why]
    right, of = len(wanted) - len(wrong), len(wanted)
    if not wrong and not end:
        return Verdict("passed", "%d case%s" % (of, "s" if of > 1 else ""), right, of)
    told = [pair for pair in wrong if pair[1] != "not answered"] or wrong
    if end:
        why, catches = end, ""
    else:
        one, reason = told[0]
        mistaken = " instead of " in reason  # not too expensive, nor out of bounds
        why, catches = "%s: %s" % (one["id"], reason), one.get("catches", "") if mistaken else ""
    return Verdict("failed", "%d of %d cases right; %s" % (right, of, why), right, of, catches)


def grade_numbers(exercise, text, wanted):
    """A prediction: lines of a name and a number."""
    said, reasons = {}, []
    for line in text.splitlines():
        words = line.split("#")[0].split()
        if not words:
            continue
        if len(words) == 3 and words[1] == "=":
            del words[1]
        if len(words) != 2:
            return Verdict("failed", plain("cannot read '%s'; expected a name and a number" % line), 0, len(wanted))
        said[words[0]] = words[1]
    for one in wanted:
        got, why = {}, ""
        for name in one["out"]:
            try:
                if said.get(name, "?") != "?":
                    got[name] = [float(said[name])]
            except ValueError:
                why = why or "%s is '%s'; expected a number" % (name, plain(said[name], 30))
        reasons.append(why or hidden(judge.difference(one["out"], got, one["compare"])))
    return sum_up(wanted, reasons, "")


def hidden(why):
    """Of a prediction, do not tell the right number."""
    return re.sub(r" instead of .*", ", which is too far off", why)


def grade_text(exercise, text, wanted, closed):
    """Compiles and runs one answer in a folder of its own."""
    if exercise.kind == "predict":
        return grade_numbers(exercise, text.decode(errors="replace"), wanted)
    with tempfile.TemporaryDirectory(prefix="grade-") as name:
        folder = pathlib.Path(name).resolve()
        (folder / exercise.file).write_bytes(text)
        why = compile_answer(exercise, folder)
        if why:
            return Verdict("failed", why, 0, len(wanted))
        (folder / "cases").write_text("".join(judge.as_text(one) for one in wanted))
        limits, watch = dict(RUN), 0
        if exercise.kind == "kernel":
            limits["megabytes"], watch = 0, KERNEL_MEGABYTES
            limits["seconds"] = 3 * RUN["seconds"]
        status, reason = run_confined(["./run"], folder, limits, closed, folder / "cases", watch)
        return read_verdict(exercise, folder, wanted, status, reason)


def read_verdict(exercise, folder, wanted, status, reason):
    try:
        orders, under_way, stop = read_answers(folder / "out")
    except (ValueError, IndexError, AttributeError):
        return Verdict("failed", "its answers cannot be read", 0, len(wanted))
    if stop.startswith("memory"):
        limit = KERNEL_MEGABYTES if exercise.kind == "kernel" else RUN["megabytes"]
        reason = "wants more memory than the limit of %d MB" % limit
    elif stop:  # the exercise is at fault, or the answer says so
        reason = plain(stop)
    elif not reason and status:
        said = (folder / "err").read_text(errors="replace") if status == 125 else ""
        reason = plain("ended by itself with status %d %s" % (status, said))
    if reason and under_way:
        reason += ", in case '%s'" % under_way
    reasons = []
    for one in wanted:
        tried = [judge_case(one, order.get(one["id"]), folder, exercise) for order in orders]
        if exercise.kind == "kernel" and len(orders) != 4:
            tried.append("not answered")
        reasons.append(next((why for why in tried if why), ""))
    if not reason and not all(a.ended for o in orders for a in o.values()):
        reason = "ended before it was asked to"
    return sum_up(wanted, reasons, reason)


def read_submission(path):
    """The bytes of an ordinary file of moderate size, or None; whatever else lies there is no answer."""
    try:
        f = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        about = os.fstat(f)
        if not stat.S_ISREG(about.st_mode) or about.st_size > LARGEST:
            return None
        return os.read(f, LARGEST)
    finally:
        os.close(f)


def lies_in(path, home):
    try:
        return path.resolve().is_relative_to(home.resolve())
    except (OSError, RuntimeError):  # links in a circle
        return False


def grade_file(exercise, path, wanted, closed, home=None):
    """home: the folder that the file must lie in, links followed."""
    if not os.path.lexists(path):
        return Verdict("skipped", "not there", 0, len(wanted))
    text = read_submission(path) if not home or lies_in(path, home) else None
    if text is None:
        return Verdict("failed", "%s is no ordinary file of at most %d MB" % (exercise.file, LARGEST >> 20),
                       0, len(wanted))
    if text == exercise.stub.read_bytes():
        return Verdict("skipped", "still as it was given out", 0, len(wanted))
    return grade_text(exercise, text, wanted, closed)


def grade_safely(exercise, path, wanted, home):
    """Of a class: whatever goes wrong with one answer, the others are graded."""
    try:
        return grade_file(exercise, path, wanted, True, home)
    except Exception as why:
        return Verdict("failed", plain("the grader cannot judge it: %s" % why), 0, len(wanted))


def grade_many(jobs):
    """jobs: functions; yields their results in order, several being under way at a time."""
    with concurrent.futures.ThreadPoolExecutor(max(JOBS, 1)) as pool:
        yield from pool.map(lambda job: job(), jobs)


# ---- commands ------------------------------------------------------------------------------------


def start(name, exercises):
    e = find(name, exercises)
    to = WORK / e.id / e.file
    if os.path.lexists(to):
        print("%s is there already and stays as it is. To begin anew, move it away first." % relative(to))
    else:
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(e.stub, to)
        print("%s: %s (%s)" % (e.id, e.title, e.kind))
        print("  edit   %s" % relative(to))
    print("  read   %s, and build/book after \"make book\"" % relative(e.text))
    print("  check  make grade E=%s      (make grade: all that you have started)" % e.id)
    return 0


def table_of(rows):
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    for row in rows:
        print(("%-*s  %-*s  %-*s  %s" % (widths[0], row[0], widths[1], row[1], widths[2], row[2], row[3])).rstrip())


def grade(names, seed, exercises):
    chosen = [find(name, exercises) for name in names]
    chosen = chosen or [e for e in exercises if (WORK / e.id).is_dir()]
    if not chosen:
        print("Nothing is started. Begin with: make exercise E=%s" % (exercises[0].id if exercises else "01.1"))
        return 1
    closed = prepare(chosen)
    jobs = []
    for e in chosen:
        wanted = e.cases(seed)
        jobs.append(lambda e=e, wanted=wanted: grade_file(e, WORK / e.id / e.file, wanted, closed))
    verdicts = list(grade_many(jobs))
    table_of([(e.id, e.title, v.word, v.why) for e, v in zip(chosen, verdicts)])
    hints = [(e, v) for e, v in zip(chosen, verdicts) if v.word == "failed" and v.catches]
    for e, v in hints:
        print("\n%s: the case is there to catch this: %s" % (e.id, v.catches))
    count = {word: sum(v.word == word for v in verdicts) for word in ("passed", "failed", "skipped")}
    print("\n%d passed, %d failed, %d skipped" % (count["passed"], count["failed"], count["skipped"]))
    return 0 if count["passed"] == len(chosen) else 1


def named(folder):
    """A student's name, which no spreadsheet takes for a formula."""
    name = plain(folder.name, 60)
    return "'" + name if name[:1] in ("=", "+", "-", "@") else name


def grade_class(directory, to, seed, exercises):
    """One row a student. A folder that is no student's (a file, a hidden one) is left out."""
    root = pathlib.Path(directory)
    if not root.is_dir():
        raise Usage("'%s' is no folder; expected DIR=folder with one folder for each student" % directory)
    students = sorted(p for p in root.iterdir() if p.is_dir() and not p.is_symlink() and p.name[0] != ".")
    if not students:
        raise Usage("'%s' has no folders; expected one for each student" % directory)
    places = {s: s / "work" if (s / "work").is_dir() and not (s / "work").is_symlink() else s for s in students}
    if not prepare(exercises):
        raise Usage("without that, an answer could read or spoil another's: a class is not graded here")
    jobs = []
    for e in exercises:
        wanted = e.cases(seed)
        for s in students:
            path = places[s] / e.id / e.file
            jobs.append(lambda e=e, s=s, path=path, wanted=wanted: grade_safely(e, path, wanted, s))
    verdicts = list(grade_many(jobs))
    by = {(e.id, s): v for (e, s), v in zip([(e, s) for e in exercises for s in students], verdicts)}
    with open(to, "w", newline="") as f:
        out = csv.writer(f)
        names = [e.id for e in exercises]
        out.writerow(["student", "passed", "of"] + names + [name + " why" for name in names])
        for s in students:
            row = [by[name, s] for name in names]
            passed = sum(v.word == "passed" for v in row)
            share = ["%.2f" % (v.right / v.of if v.of else 0) for v in row]
            out.writerow([named(s), passed, len(names)] + share +
                         ["%s: %s" % (v.word, plain(v.why, 300)) for v in row])
            print("%-24s %3d of %d passed" % (named(s), passed, len(names)))
    print("%d students, %d exercises: %s" % (len(students), len(names), to))
    return 0


# ---- proving the exercises -----------------------------------------------------------------------


def complaints_about(e):
    """What an exercise's folder and its text lack."""
    out = []
    needed = [e.stub, e.solution, e.folder / "oracle.py"]
    needed += [e.folder / "check.c"] if e.kind != "predict" else []
    out += ["%s is missing" % relative(p) for p in needed if not p.exists()]
    if not e.wrong:
        out.append("no wrong-NAME%s" % e.suffix)
    known = {p.name for p in needed + e.wrong} | {"exercise.txt", "check.c", "__pycache__"}
    out += ["%s belongs to nothing" % relative(p) for p in e.folder.iterdir() if p.name not in known]
    text = e.text.read_text() if e.text.exists() else ""
    anchor = "{#ex-%s}" % e.id.replace(".", "-")
    heading = "### %s %s" % (e.title, anchor)
    if heading not in text:
        return out + ["%s has no heading '%s'" % (relative(e.text), heading)]
    section = re.split(r"\n#{2,3} ", text.split(heading)[1])[0]
    wanted = ["make exercise E=" + e.id, "::: hint", "exercises/%s/%s" % (e.folder.name, e.solution.name)]
    out += ["%s: its section lacks '%s'" % (relative(e.text), w) for w in wanted if w not in section]
    return out


def prove(e):
    """Returns (lines about what is wrong, a summary)."""
    bad = complaints_about(e)
    if bad:
        return bad, "incomplete"
    started = time.monotonic()
    public, both = e.cases(""), e.cases(NEW_SEED)
    v = grade_text(e, e.stub.read_bytes(), public, True)
    if v.word != "failed":
        bad.append("the stub passes")
    if "does not compile" in v.why:
        bad.append("the stub " + v.why)
    v = grade_text(e, e.solution.read_bytes(), both, True)
    if v.word != "passed":
        bad.append("the solution fails: " + v.why)
    for path in e.wrong:
        v = grade_text(e, path.read_bytes(), public, True)
        if v.word != "failed":
            bad.append("%s passes" % path.name)
        elif "does not compile" in v.why:
            bad.append("%s %s" % (path.name, v.why))
    return bad, "stub fails, solution passes %d + %d cases, %d wrong caught (%.1f s)" % (
        len(public), len(both) - len(public), len(e.wrong), time.monotonic() - started)


def too_few(exercises):
    """A chapter has at least six exercises, of all kinds that its matter allows."""
    out = []
    for chapter in sorted({e.id[:2] for e in exercises}):
        mine = [e for e in exercises if e.id[:2] == chapter]
        lacking = sorted(set(KINDS) - {e.kind for e in mine} - WITHOUT.get(chapter, set()))
        if len(mine) < FEWEST:
            out.append("chapter %s has %d exercises; at least %d are wanted" % (chapter, len(mine), FEWEST))
        if lacking:
            out.append("chapter %s has no exercise of the kind %s" % (chapter, ", ".join(lacking)))
        if sorted(e.id for e in mine) != sorted("%s.%d" % (chapter, k + 1) for k in range(len(mine))):
            out.append("the exercises of chapter %s are not numbered 1 to %d" % (chapter, len(mine)))
    return out


def test(names, exercises):
    chosen = [find(name, exercises) for name in names] or exercises
    if not prepare(chosen):
        return 1
    for e in chosen:  # here, in one thread
        e.cases(""), e.cases(NEW_SEED)
    results = grade_many([lambda e=e: prove(e) for e in chosen])
    failed = 0
    for e, (bad, summary) in zip(chosen, results):
        failed += bool(bad)
        print("%-6s %-8s %-42s %s" % (e.id, e.kind, e.title[:42], "FAILED" if bad else summary), flush=True)
        for line in bad:
            print("         " + line, flush=True)
    lacking = [] if names else too_few(exercises)
    for line in lacking:
        print(line)
    print("\n%d exercises proven, %d failed" % (len(chosen) - failed, failed))
    return 1 if failed or lacking or not chosen else 0


def main():
    parser = argparse.ArgumentParser(description="Start, grade and prove the exercises of the book.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("start").add_argument("name")
    one = commands.add_parser("grade")
    one.add_argument("names", nargs="*")
    one.add_argument("--seed", default="")
    one = commands.add_parser("class")
    one.add_argument("directory")
    one.add_argument("csv")
    one.add_argument("--seed", default="")
    commands.add_parser("test").add_argument("names", nargs="*")
    commands.add_parser("list")
    a = parser.parse_args()
    try:
        exercises = all_exercises()
        if a.command == "start":
            return start(a.name, exercises)
        if a.command == "grade":
            return grade(a.names, a.seed, exercises)
        if a.command == "class":
            return grade_class(a.directory, a.csv, a.seed, exercises)
        if a.command == "test":
            return test(a.names, exercises)
        for e in exercises:
            print("%-6s %-8s %s" % (e.id, e.kind, e.title))
        return 0
    except Usage as why:
        print(why, file=sys.stderr)
        return 2
    except Broken as why:
        print("grade.py: %s" % why, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
