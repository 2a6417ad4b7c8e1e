"""What nvcc made of the kernels: registers, spills, occupancy, load widths, instructions.

    report.py NVCC BUILD [--archs sm_80,sm_90] [--update] FILE.cu...

Each file is compiled alone, warnings being errors, and its cubin is read by sass.py. The report
goes to BUILD/cuda-report.txt and is compared with the committed tests/cuda/report.txt if that was
made by the same nvcc; --update replaces the committed one. Architectures that the committed report
does not have are only built and written down. What a kernel costs is compared with the targets
(counts.py); a target that is not met is said, and is no failure. The last line counts.
"""
import concurrent.futures, os, re, subprocess, sys, tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import counts, sass

COMMITTED = os.path.join(HERE, "report.txt")
ALL = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100")
# per SM: warps, blocks, shared memory in KiB (1 KiB of it is reserved for each block)
SM = {"sm_80": (64, 32, 164), "sm_86": (48, 16, 100), "sm_89": (48, 24, 100),
      "sm_90": (64, 32, 228), "sm_100": (64, 32, 228)}


def run(command):
    return subprocess.run(command, capture_output=True, text=True)


def version(nvcc):
    try:
        found = re.search(r"release \S+ (V\S+)", run([nvcc, "--version"]).stdout)
    except OSError:
        return None
    return found.group(1) if found else None


FACTS = {"stack": r"(\d+) bytes stack frame", "stores": r"(\d+) bytes spill stores",
         "loads": r"(\d+) bytes spill loads", "registers": r"Used (\d+) registers",
         "shared": r"(\d+) bytes smem", "barriers": r"used (\d+) barriers"}


def made(built, arch, path):
    """The cubin that make cubins left, if it is younger than all of cuda/; nvcc takes minutes."""
    out = os.path.join(built, "cubin", arch, os.path.basename(path)[:-3] + ".cubin")
    sources = [os.path.join("cuda", f) for f in os.listdir("cuda")] + ["ref/kv.h"]
    fresh = os.path.exists(out + ".log") and os.path.exists(out) and \
        os.path.getmtime(out) > max(map(os.path.getmtime, filter(os.path.isfile, sources)))
    return out if fresh else None


def compile_one(nvcc, arch, path, folder, built):
    """The cubin, and what ptxas says of each kernel."""
    out = made(built, arch, path)
    if out:
        with open(out + ".log") as f:
            said = f.read()
    else:
        out = os.path.join(folder, f"{os.path.basename(path)}.{arch}.cubin")
        done = run([nvcc, "-std=c++17", f"-arch={arch}", "-Werror", "all-warnings", "-Xptxas", "-v",
                    "-Icuda", "-Iref", "-cubin", "-o", out, path])
        if done.returncode:
            return None, done.stdout + done.stderr
        said = done.stderr
    facts, name = {}, None
    for line in said.splitlines():
        m = re.search(r"Compiling entry function '(\w+)'", line)
        if m:
            name = m.group(1)
            facts[name] = dict(registers=0, stack=0, stores=0, loads=0, shared=0, barriers=0)
        m = re.search(r"Function properties for (\w+)", line)
        own = m.group(1) == name if m else own if name else False
        for key, pattern in FACTS.items():
            m = re.search(pattern, line)
            if m and own:
                facts[name][key] = int(m.group(1))
    return out, facts


def threads_of(cubin, name):
    """The launch bound, which the compiler notes as attribute 5 of the kernel; 0: there is none."""
    info = sass.sections(open(cubin, "rb").read()).get(".nv.info." + name, b"")
    at = 0
    while at + 4 <= len(info):
        form, attribute = info[at], info[at + 1]
        size = int.from_bytes(info[at + 2:at + 4], "little")
        if form == 4:
            if attribute == 5:
                return int.from_bytes(info[at + 4:at + 8], "little")
            at += size
        at += 4
    return 0


def occupancy(arch, registers, shared, threads):
    """Blocks per SM, by registers (handed out per warp, in 256s), warps and shared memory."""
    warps, blocks, kib = SM[arch]
    per_block = (threads + 31) // 32
    by_registers = 4 * (16384 // (256 * ((max(registers, 1) * 32 + 255) // 256))) // per_block
    return min(by_registers, warps // per_block, blocks, kib * 1024 // (shared + 1024))


def plain(names):
    """mangled -> as in the source, without the list of arguments."""
    out = run(["c++filt", *names]).stdout.split("\n") if names else []
    short = lambda o: re.sub(r"^void ", "", re.sub(r"\(.*\)$", "", o.replace("(int)", "")))
    return {n: short(o) for n, o in zip(names, out)}


def say(counts, sep=" "):
    return sep.join(f"{k} {v}" for k, v in counts.items())


def describe(arch, path, cubin, facts, folder, figures):
    """Lines of a file's kernels; figures gathers what the targets are compared with."""
    lines = []
    names = plain(list(facts))
    for name, body in sorted(sass.kernels(cubin).items(), key=lambda k: names.get(k[0], k[0])):
        f = facts[name]
        threads = threads_of(cubin, name)
        fit = occupancy(arch, f["registers"], f["shared"], threads or 256)
        warps = fit * (((threads or 256) + 31) // 32)
        lines.append(f"{os.path.basename(path)} {names[name]}")
        lines.append(f"    registers {f['registers']}, stack {f['stack']}, spills "
                     f"{f['stores'] + f['loads']}, static shared {f['shared']}, barriers "
                     f"{f['barriers']}; {fit} blocks of {threads or '256 (no bound)'} = {warps} of "
                     f"{SM[arch][0]} warps")
        access = "; ".join(f"{op} {say({f'{w}-bit': n for w, n in sass.widths(body, op).items()})}"
                           for op in sass.MEMORY if sass.widths(body, op))
        lines.append(f"    {access or 'no loads or stores'}")
        lines.append(f"    {len(body)} instructions: {say(sass.by_kind(body), ', ')}")
        figures.setdefault("spills", {})[lines[-4]] = (f["stores"] + f["loads"], f["stack"])
        if re.match(r"k0\d<\d+, \d, \d>", names[name]) and "HMMA" in sass.histogram(body):
            more, found = counts.per_element(folder, names[name], body)
            lines += more
            if found:
                figures[tuple(map(int, re.findall(r"\d+", names[name])))[:3]] = found
    return lines


def build(nvcc, archs, paths, folder, built):
    """Lines of the report, by architecture; messages of what did not compile."""
    report, errors, figures = {}, [], {a: {} for a in archs}
    with concurrent.futures.ThreadPoolExecutor(int(os.environ.get("JOBS", "2"))) as pool:
        jobs = [(a, p, pool.submit(compile_one, nvcc, a, p, folder, built))
                for a in archs for p in paths]
        for arch, path, job in jobs:
            cubin, facts = job.result()
            if cubin:
                lines = describe(arch, path, cubin, facts, built, figures[arch])
                report.setdefault(arch, []).extend(lines)
            else:
                errors.append(f"FAILED {arch} {path}\n{facts}")
    for arch in report:
        report[arch] += counts.targets(arch, figures[arch], built)
    return report, errors


def write(path, compiler, report):
    with open(path, "w") as f:
        f.write(f"nvcc {compiler}\n")
        for arch, lines in report.items():
            f.write("\n".join([f"\n== {arch}", *lines, ""]))


def read(path):
    """The compiler and the lines by architecture of a report."""
    if not os.path.exists(path):
        return None, {}
    compiler, report, arch = None, {}, None
    for line in open(path).read().splitlines():
        if line.startswith("nvcc "):
            compiler = line[5:]
        elif line.startswith("== "):
            arch = line[3:]
            report[arch] = []
        elif arch and line:
            report[arch].append(line)
    return compiler, report


def compare(compiler, report):
    """passed, failed, skipped"""
    known, committed = read(COMMITTED)
    if known != compiler:
        print(f"skipped: the committed report is of nvcc {known}, this is {compiler}")
        return 0, 0, len(report)
    tally = [0, 0, 0]
    for arch, lines in report.items():
        if arch not in committed:
            tally[2] += 1
            continue
        counted = lambda l: not l.startswith(counts.SIMULATED)  # those are not compared
        lines = list(filter(counted, lines))
        committed[arch] = list(filter(counted, committed[arch]))
        same = committed[arch] == lines
        tally[0 if same else 1] += 1
        if not same:
            old, new = set(committed[arch]), set(lines)
            print(f"FAILED {arch}: kernels are not as reported; if that is meant: "
                  "make cuda-report UPDATE=1")
            print("\n".join(["  - " + l for l in committed[arch] if l not in new][:20] +
                            ["  + " + l for l in lines if l not in old][:20]))
    return tuple(tally)


def main():
    args, archs, update = sys.argv[1:], ("sm_80", "sm_90"), False
    if "--update" in args:
        args.remove("--update")
        update = True
    if "--archs" in args:
        i = args.index("--archs")
        archs = ALL if args[i + 1] == "all" else args[i + 1].split(",")
        del args[i:i + 2]
    nvcc, folder, paths = args[0], args[1], sorted(args[2:])
    compiler = version(nvcc)
    if not compiler:
        print(f"skipped: no nvcc, so {len(paths)} kernel files were not compiled")
        print(f"cuda-report: 0 passed, 0 failed, {len(paths) * len(archs)} skipped")
        return 0
    have = run([nvcc, "--list-gpu-code"]).stdout.split()
    lacking = [a for a in archs if a not in have]
    with tempfile.TemporaryDirectory() as scratch:
        report, errors = build(nvcc, [a for a in archs if a in have], paths, scratch, folder)
    print("\n".join(errors), end="\n" if errors else "")
    for lines in report.values():
        print("\n".join(l for l in lines if l.startswith(("targets", "    target", " " * 20))))
    write(os.path.join(folder, "cuda-report.txt"), compiler, report)
    if update and not errors:
        write(COMMITTED, compiler, report)
    passed, failed, skipped = compare(compiler, report)
    for arch in lacking:
        print(f"skipped: this nvcc does not know {arch}")
    passed += len(paths) * len(report) - len(errors)
    print(f"cuda-report: {passed} passed, {failed + len(errors)} failed, "
          f"{skipped + len(lacking)} skipped; see {folder}/cuda-report.txt")
    return failed + len(errors) > 0


sys.exit(main())
