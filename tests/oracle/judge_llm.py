#!/usr/bin/env python3
"""Judge the program on a real language model.

What it is.  Everything that needs a real model and a second opinion: the
NumPy decoder of llama.py, the whole-window evaluation of whole_window.py and
the keep rules of keep.py and calibration.py work out by themselves what
`kvsink` should print, and each check sets one of its figures against theirs.
tests/llm.sh runs it, and the Criterion suites on the same model.

What is judged.  Logits; calibration; keep sets in plain text, in documents
joined by the end-of-text token and in a chat; codes of real keys; perplexity,
divergence and size of quantized caches; that neither threads nor memory get
out of hand; that a profile serves other texts and no other model.

Bars.  Two float32 passes of this decoder differ by some 1e-4 in the logits, so
perplexity without quantization has a tight bar.  With few bits it cannot have
one.  A code that rounds the other way moves its value by 1 / (2^b - 1) of its
group's range, later layers see other keys, more codes flip, and by the last
layer the quantization error is another draw from the same distribution.
Four passes whose embeddings differed by one part in 1e7 (512 tokens each,
three texts) scattered with these standard deviations per window:

    bits    KL       perplexity
    2       4 %      4 to 8 %
    4       5 %      0.5 to 1.5 %
    8       10 %     0.05 %      (KL is 1e-4 there: mostly float32 itself)

The difference of two such draws, over n windows, has sqrt(2 / n) times that.
Every bar below is about four times the result or more and, so that it means
something, the KL's is below what leaving the sinks unkept costs (25 % and
more).  What does not depend on the draw is compared exactly: bytes,
bits and kept positions, and the codes of given keys.

Usage:  judge_llm.py MODEL TEXTS KVSINK WORK
TEXTS holds gpl3.txt and devref.txt; WORK is a folder for scratch.
"""

import json
import os
import subprocess
import sys

import numpy as np

import calibration
import keep
import llama
import whole_window

CTX = 512


# --- Reporting ---------------------------------------------------------------

class Report:
    def __init__(self):
        self.passed = self.failed = 0

    def check(self, what, good, figure, bar):
        """One line.  `good` must be True: a NaN in a comparison is not."""
        good = bool(good)
        self.passed += good
        self.failed += not good
        print(f"{'ok' if good else 'FAIL':4} {what + ':':58} {figure} ({bar})", flush=True)

    def near(self, what, got, want, bar):
        """Relative difference of two figures."""
        off = abs(got - want) / abs(want)
        self.check(what, off <= bar, f"{got:.6g} against {want:.6g}, {off:.2g} off",
                   f"at most {bar:g}")

    def same(self, what, got, want):
        figure = show(got) if got == want else f"{show(got)}, expected {show(want)}"
        self.check(what, got == want, figure, "exactly")


def show(value):
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 160 else text[:157] + "..."


# --- The program -------------------------------------------------------------

class Program:
    def __init__(self, path, model, work):
        self.path, self.model, self.work = path, model, work

    def run(self, command, *arguments):
        """(exit status, standard output, standard error)"""
        call = [self.path, command, self.model, *map(str, arguments)]
        done = subprocess.run(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    def text(self, command, *arguments):
        status, out, err = self.run(command, *arguments)
        if status:
            raise RuntimeError(f"kvsink {command} ended with {status}: {err.strip()}")
        return out

    def json(self, command, *arguments):
        return json.loads(self.text(command, *arguments, "--json"))

    def ids(self, path, *arguments):
        return self.json("tokens", "--file", path, *arguments)["ids"]

    def scratch(self, name):
        return os.path.join(self.work, name)

    def array(self, name, command, *arguments):
        self.text(command, *arguments, "-o", self.scratch(name))
        return np.load(self.scratch(name))


# --- Texts -------------------------------------------------------------------

def write_joined(source, path, plain):
    """Short passages with <|endoftext|> before each: many sinks in mid-text.
    `plain` gets the same passages separated by empty lines."""
    with open(source, encoding="utf-8") as file:
        passages = [p.strip() for p in file.read().split("\n\n")]
    passages = [" ".join(p.split()) for p in passages if 40 <= len(p.split()) <= 90][:26]
    with open(path, "w", encoding="utf-8") as file:
        file.write("".join("<|endoftext|>" + p for p in passages))
    with open(plain, "w", encoding="utf-8") as file:
        file.write("\n\n".join(passages) + "\n")
    return passages


def write_chat(passages, path):
    """Six turns in the model's own template (ChatML)."""
    turns = [("system", "You are a helpful AI assistant named SmolLM, trained by Hugging Face")]
    for i in range(3):
        turns.append(("user", f"What does passage {i + 1} of the handbook say?"))
        turns.append(("assistant", passages[i]))
    with open(path, "w", encoding="utf-8") as file:
        for role, content in turns:
            file.write(f"<|im_start|>{role}\n{content}<|im_end|>\n")


# --- Residuals and stages ----------------------------------------------------

class Residuals:
    """A tap that keeps what calibration and prediction need of h:
    the largest |h| of each channel, the median, and whole layers asked for."""

    def __init__(self, layers):
        self.peak, self.median, self.weak = {}, {}, True
        self.sign, self.wanted, self.h = {}, set(layers), {}

    def __call__(self, name, layer, value):
        size = np.abs(value)
        self.peak[layer] = size.max(axis=0).astype(np.float64)
        self.sign[layer] = np.sign(np.take_along_axis(value, size.argmax(axis=0)[None], 0)[0])
        self.median[layer] = float(np.median(size))
        if layer >= 0 and size.max() >= 100:
            self.weak = False
        if layer in self.wanted:
            self.h[layer] = value.copy()

    def stages(self):
        """[(layer, channel, sign)] of this prompt, as CONTRACT 5 has it."""
        out, layers = [], max(self.peak) + 1
        for layer in range(layers):
            m, before = self.peak[layer], self.peak[layer - 1]
            ends = (m > 0) & (m >= 2 * before)
            if layer + 1 < layers:
                after = self.peak[layer + 1]
                ends &= ~((after > 0) & (after >= 2 * m))
            large = (m >= 300 * self.median[layer]) & (self.weak | (m >= 100))
            if (ends & large).any():
                channel = int(np.argmax(np.where(ends & large, m, -1)))
                out.append((layer, channel, int(self.sign[layer][channel])))
        return out


def look_at(model, ids, layers=None, last=None):
    """Residuals of an unquantized pass, and its logits (None with `last`)."""
    seen = Residuals(range(model.layers) if layers is None else layers)

    def tap(name, layer, value):
        seen("h", layer, value)

    end = llama.forward(model, ids, tap, {"embed", "h"}, last_layer=last)
    return seen, None if last is not None else end


def expected_profile(prompts):
    """prompts: [(ids, Residuals with all layers)] -> stages and learned ids."""
    found = [seen.stages() for _, seen in prompts]
    stages, sinks = [], [set() for _ in prompts]
    for layer, channel in sorted({s[:2] for one in found for s in one}):
        signs = [s[2] for one in found for s in one if s[:2] == (layer, channel)]
        if 2 * len(signs) <= len(prompts):
            continue
        rows = [np.abs(seen.h[layer][:, channel].astype(np.float64)) for _, seen in prompts]
        showing = [sorted(row.tolist(), reverse=True) for row, one in zip(rows, found)
                   if (layer, channel) in [s[:2] for s in one]]
        threshold = calibration.middle_threshold([calibration.cut(row) for row in showing])
        pooled = [v for row in showing for v in row]
        stages.append({
            "layer": layer, "channel": channel, "sign": 1 if sum(signs) > 0 else -1,
            "at_sinks": calibration.median_or_zero([v for v in pooled if v >= threshold]),
            "elsewhere": calibration.median_or_zero([v for v in pooled if v < threshold]),
            "threshold": threshold, "prompts": len(signs)})
        for chosen, row in zip(sinks, rows):
            chosen.update(np.flatnonzero(row >= threshold).tolist())
    ids = calibration.learned([{"ids": ids} for ids, _ in prompts], sinks, "")
    return stages, ids


def expected_keep(model, profile, ids, seen, rule):
    """What keep.py chooses from our residuals under a profile file's stages."""
    with open(profile, encoding="utf-8") as file:
        stages, learned = calibration.parse_profile(file.read())
    rows = [seen.h[s["layer"]][:, s["channel"]].astype(np.float64) for s in stages]
    return keep.oracle({"keep": rule, "tokens": len(ids), "layers": model.layers, "ids": ids,
                        "stages": stages, "learned": learned,
                        "h": [float(v) for row in rows for v in row]})


# --- The checks --------------------------------------------------------------

class Judge:
    def __init__(self, model, texts, program):
        self.model, self.program, self.report = llama.Model(model), program, Report()
        self.gpl3 = os.path.join(texts, "gpl3.txt")
        self.devref = os.path.join(texts, "devref.txt")
        self.joined, self.plain = program.scratch("joined.txt"), program.scratch("plain.txt")
        self.chat, self.profile = program.scratch("chat.txt"), program.scratch("profile.txt")
        passages = write_joined(self.devref, self.joined, self.plain)
        write_chat(passages, self.chat)
        self.ids = {path: program.ids(path) for path in (self.gpl3, self.devref)}
        for path in (self.joined, self.chat):
            self.ids[path] = program.ids(path, "--special")
        self.seen = {}

    # Logits and taps against llama.py.
    def logits(self):
        for path in (self.gpl3, self.devref):
            name, ids = os.path.basename(path)[:-4], self.ids[path][:CTX]
            self.seen[path], want = look_at(self.model, ids)
            got = self.program.array("logits.npy", "logits", "--file", path, "--ctx", CTX)
            off = float(np.abs(got - want).max())
            top = 100 * float((got.argmax(axis=1) == want.argmax(axis=1)).mean())
            self.report.check(f"logits of {name}, largest difference", off <= 2e-3,
                              f"{off:.2g}", "at most 2e-3")
            self.report.check(f"logits of {name}, same best token", top >= 99.5,
                              f"{top:.4g} %", "at least 99.5 %")
        for layer in (0, self.model.layers // 2, self.model.layers - 1):
            got = self.program.array("h.npy", "dump", "--file", self.devref, "--ctx", CTX,
                                     "--tap", "h", "--layer", layer)
            want = self.seen[self.devref].h[layer]
            off = float(np.abs(got - want).max() / np.abs(want).max())
            self.report.check(f"tap h of layer {layer}, of its largest", off <= 2e-5,
                              f"{off:.2g}", "at most 2e-5")

    # Which stages there are, and what separates sinks from the rest.
    def calibrate(self):
        files = (self.gpl3, self.devref, self.joined)
        self.seen[self.joined], _ = look_at(self.model, self.ids[self.joined][:CTX],
                                            last=self.model.layers - 1)
        got = self.program.json("calibrate", "--special", "--windows", 1, "-o", self.profile,
                                "--file", *files)
        stages, learned = expected_profile([(self.ids[f][:CTX], self.seen[f]) for f in files])
        names = ("layer", "channel", "sign", "prompts")
        self.report.same("calibrate: stages", [[s[n] for n in names] for s in got["stages"]],
                         [[s[n] for n in names] for s in stages])
        for a, b in zip(got["stages"], stages):
            for name in ("threshold", "at_sinks", "elsewhere"):
                self.report.near(f"calibrate: stage {b['layer']}, {name}", a[name], b[name], 1e-4)
        self.report.same("calibrate: learned ids", got["ids"], learned)
        self.report.same("calibrate: where SmolLM2-135M has its stages",
                         [[s["layer"], s["channel"]] for s in got["stages"]],
                         [[2, 507], [11, 507]])
        self.stage_layers = [s["layer"] for s in stages]

    # Keep sets against keep.py on llama.py's residuals.
    def predict(self):
        self.seen[self.chat], _ = look_at(self.model, self.ids[self.chat][:CTX],
                                          self.stage_layers, self.stage_layers[-1])
        rules = ("kvsink:5", f"kvsink:5@{self.stage_layers[0]}", "kvsink:auto",
                 "kvsink:5@each/all", "kvsink:auto@join")
        for name, path in (("plain", self.gpl3), ("joined", self.joined), ("chat", self.chat)):
            ids, sizes = self.ids[path][:CTX], []
            for rule in rules:
                got = self.program.json("predict", "--file", path, "--special", "--ctx", CTX,
                                        "--profile", self.profile, "--keep", rule)
                want = expected_keep(self.model, self.profile, ids, self.seen[path], rule)
                same = (got["layers"] == want["layers"] and got["tokens"] == len(ids)
                        and [s["positions"] for s in got["stages"]] == want["stagePositions"])
                sizes.append(sum(map(len, got["layers"])))
                if not same:
                    print(f"     {rule}: {show(got['stages'])}, {show(got['layers'])}")
                    print(f"     expected {show(want['stagePositions'])}, {show(want['layers'])}")
                    sizes[-1] = f"wrong ({rule})"
            self.report.check(f"predict, {name} text: positions of {len(rules)} rules",
                              all(isinstance(n, int) for n in sizes),
                              f"{', '.join(map(str, sizes))} kept", "exactly those of NumPy")

    # Codes of real keys against whole_window's quantizer.
    def codes(self):
        program, tokens = self.program, 200
        x = program.array("k.npy", "dump", "--file", self.devref, "--ctx", tokens,
                          "--tap", "k", "--layer", self.stage_layers[-1] + 1)
        out = program.scratch("codes")
        wrong = count = 0
        for bits in (2, 3, 4, 8):
            for axis in ("channel:128", "channel:32", "channel:all", "token:64", "token:16",
                         "token:all"):
                for extra in ("", ":sym"):
                    kept = [[], [0, 31, 32, 199], [0]][count % 3]
                    text = f"{bits}:{axis}{extra}"
                    rule = "positions:" + ",".join(map(str, kept)) if kept else "none"
                    call = [program.path, "quantize", program.scratch("k.npy"), "--format", text,
                            "--keep", rule, "-o", out]
                    subprocess.run(call, check=True, stdout=subprocess.DEVNULL)
                    count += 1
                    if not same_codes(out, *codes_of(x, text, kept)):
                        wrong += 1
                        print(f"     {text} keep {rule}: other codes, scales, minima or values")
        self.report.check("quantize: codes, scales, minima, values of real keys", wrong == 0,
                          f"{count - wrong} of {count} formats", "equal to the bit")

    # eval against whole_window.py.
    def evaluate(self):
        bos = self.model.meta["tokenizer.ggml.bos_token_id"]
        windows = whole_window.cut(self.ids[self.devref], CTX, bos, "each", 3)
        settings = [("f16", "f16", "none"), ("8:channel:128", "8:token:64", "none"),
                    ("4:channel:128:sym", "4:token:64", "first:1")]
        for judged, setting in zip(self.tallies(windows, settings), settings):
            got = self.eval(["--file", self.devref, "--windows", judged.windows], *setting)
            self.compare(got, judged.result(), setting)

        windows = whole_window.cut(self.ids[self.joined], CTX, None, "none", 2)
        two = ("2:channel:128", "2:token:64")
        setting = (*two, "kvsink:auto/all")
        where = ["--file", self.joined, "--special", "--bos", "none", "--profile", self.profile,
                 "--windows", 2]
        got = self.eval(where, *setting)
        self.compare(got, self.tallies(windows, [setting])[0].result(), setting)
        bare = self.eval(where, *two, "none")
        self.report.check("2 bits, joined: KL with KVSink, of that without",
                          got["kl"] <= 0.9 * bare["kl"],
                          f"{got['kl']:.3f} of {bare['kl']:.3f}", "at most 0.9 times")
        joined = self.eval(["--file", self.plain, "--join", "eot", "--profile", self.profile,
                            "--windows", 2], *setting)
        different = [name for name in got if name != "text" and joined[name] != got[name]]
        self.report.check("eval --join eot: as <|endoftext|> written out", not different,
                          f"{show(different) if different else 'nothing'} differs", "exactly")

    def eval(self, where, keys, values, rule):
        return self.program.json("eval", *where, "--ctx", CTX, "--keys", keys, "--values", values,
                                 "--keep", rule)

    def tallies(self, windows, settings):
        """whole_window.py's figures; the 16-bit pass, which the keep sets
        come from as well, is made once for all settings.  A quantized pass
        is made for the first two windows only, to save time."""
        half, nothing = whole_window.Format("f16"), [[]] * self.model.layers
        forms = [tuple(map(whole_window.Format, s[:2])) for s in settings]
        out = [whole_window.Tally(self.model, *pair) for pair in forms]
        for i, ids in enumerate(windows):
            seen = Residuals(self.stage_layers)
            log16 = whole_window.run(self.model, ids, half, half, nothing, seen)
            for tally, pair, (_, _, rule) in zip(out, forms, settings):
                if not pair[0].integer:
                    tally.add(ids, log16, log16, nothing)
                elif i < 2:
                    chosen = expected_keep(self.model, self.profile, ids, seen, rule)["layers"]
                    tally.add(ids, log16,
                              whole_window.run(self.model, ids, *pair, chosen), chosen)
        return out

    def compare(self, got, want, setting):
        name = "eval " + " ".join(setting)
        exact = all(abs(got[field] - want[field]) <= 1e-12 * want[field] for field in
                    ("windows", "tokens", "bytes", "bytes16", "bits", "kept"))
        self.report.check(name + ": size", exact,
                          f"{got['bytes']:.0f} bytes, {got['bits']:.5g} bits, {got['kept']:.3g} "
                          "kept" + ("" if exact else f", expected {show(want)}"), "exactly")
        self.report.near(name + ": ppl16", got["ppl16"], want["ppl16"], 5e-4)
        bits = setting[0].partition(":")[0]
        if bits == "f16":
            self.report.same(name + ": nothing lost", [got["ppl"], got["kl"], got["top1"]],
                             [got["ppl16"], 0, 1])
            return
        ppl, kl = {"8": (0.005, 0.4), "4": (0.06, 0.2), "2": (0.3, 0.2)}[bits]
        self.report.near(name + ": ppl", got["ppl"], want["ppl"], ppl)
        self.report.near(name + ": KL", got["kl"], want["kl"], kl)

    # The same bytes on any number of threads.
    def threads(self):
        program, seen, figures = self.program, set(), set()
        for n in (1, 2, 5):
            path = program.scratch(f"threads{n}.npy")
            program.text("logits", "--file", self.gpl3, "--ctx", 300, "--threads", n, "-o", path)
            with open(path, "rb") as file:
                seen.add(file.read())
            figures.add(program.text(
                "eval", "--file", self.gpl3, "--ctx", 300, "--windows", 1, "--stream", 260,
                "--keys", "2:channel:32", "--values", "2:token:32", "--recent", 16, "--keep",
                "kvsink:5", "--profile", self.profile, "--json", "--threads", n))
        self.report.check("logits on 1, 2 and 5 threads", len(seen) == 1,
                          f"{len(seen)} of 3 distinct", "one: the same bytes")
        self.report.check("eval --stream on 1, 2 and 5 threads", len(figures) == 1,
                          f"{len(figures)} of 3 distinct", "one: the same bytes")

    # Peak memory, counted in a process of its own: a child of this one would
    # be charged with what this one holds at the moment of the fork.
    def memory(self):
        counter = ("import resource, subprocess, sys\n"
                   "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)\n"
                   "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)")
        call = [sys.executable, "-c", counter, self.program.path, "eval", self.program.model,
                "--file", self.gpl3, "--ctx", "2048", "--windows", "1", "--keys",
                "2:channel:128", "--values", "2:token:64"]
        done = subprocess.run(call, stdout=subprocess.PIPE)
        peak = int(done.stdout) * 1024 / 1e9 if done.returncode == 0 else float("nan")
        self.report.check("eval --ctx 2048: peak resident memory", peak <= 1.2,
                          f"{peak:.3g} GB", "at most 1.2 GB")

    # A profile serves other texts, and no other model.
    def profiles(self):
        program, profile = self.program, self.program.scratch("one.txt")
        program.text("calibrate", "--file", self.gpl3, "--windows", 2, "-o", profile)
        got = program.json("predict", "--file", self.devref, "--ctx", 300, "--profile", profile,
                           "--keep", "kvsink:auto")
        last = got["stages"][-1]
        self.report.same("predict with the profile of another text",
                         [[s["layer"] for s in got["stages"]], last["positions"]],
                         [self.stage_layers, [0]])
        with open(profile, encoding="utf-8") as file:
            text = file.read()
        shape = [line for line in text.split("\n") if line.startswith("model ")][0]
        words = shape.split()
        for what, at, value, status in (("layers", 2, "31", 1), ("width", 3, "575", 1),
                                        ("vocabulary", 4, "32000", 1),
                                        ("weights", 5, "0123456789abcdef", 0)):
            other = words[:at] + [value] + words[at + 1:]
            with open(profile, "w", encoding="utf-8") as file:
                file.write(text.replace(shape, " ".join(other)))
            code, out, err = program.run("predict", "--text", "One. Two.", "--profile", profile)
            good = code == status and profile in err and (out == "") == (status != 0)
            self.report.check(f"profile of a model of other {what}", good,
                              f"exit {code}, '{err.strip()[:60]}...'",
                              "exit 1" if status else "a warning")

    def all(self):
        self.memory()
        for part in (self.logits, self.calibrate, self.predict, self.codes, self.evaluate,
                     self.threads, self.profiles):
            part()


# --- Codes -------------------------------------------------------------------

def codes_of(x, text, kept):
    """codes, scale, min, values of x [T, Hk, D], in the shapes of CONTRACT 7."""
    form = whole_window.Format(text)
    tokens, heads, size = x.shape
    free = np.ones(tokens, bool)
    free[kept] = False
    wide = np.broadcast_to(free[:, None, None], x.shape)
    if form.axis == "channel":
        step = form.group or tokens
        parts = [whole_window.group_codes(x[i:i + step], wide[i:i + step], form.bits, form.sym, 0)
                 for i in range(0, tokens, step)]
        back = np.concatenate([code * scale + low for code, scale, low in parts])
        code, scale, low = (np.concatenate([p[i] for p in parts]) for i in range(3))
    else:
        shape = (tokens, -1, form.group or heads * size)
        code, scale, low = whole_window.group_codes(x.reshape(shape), wide.reshape(shape),
                                                    form.bits, form.sym, 2)
        back = (code * scale + low).reshape(x.shape)
        groups = (tokens, 1, 1) if form.group is None else (tokens, heads, size // form.group)
        code, scale, low = code.reshape(x.shape), scale.reshape(groups), low.reshape(groups)
    stored = code + 2 ** (form.bits - 1) if form.sym else code
    rows = whole_window.as_half(x).astype(np.float32)
    return (np.where(wide, stored, 0).astype(np.uint8), scale.astype(np.float16),
            low.astype(np.float16), np.where(wide, back, rows).astype(np.float32))


def same_codes(folder, *wanted):
    """Equal shapes, types and values; 0 and -0 are one number."""
    for name, want in zip(("codes", "scale", "min", "dequant"), wanted):
        got = np.load(os.path.join(folder, name + ".npy"))
        if got.dtype != want.dtype or not np.array_equal(got, want):
            return False
    return True


def main():
    if len(sys.argv) != 5:
        print(__doc__, file=sys.stderr)
        return 2
    model, texts, path, work = sys.argv[1:]
    os.makedirs(work, exist_ok=True)
    judge = Judge(model, texts, Program(path, model, work))
    judge.all()
    print(f"{judge.report.passed} passed, {judge.report.failed} failed, 0 skipped")
    return 1 if judge.report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
