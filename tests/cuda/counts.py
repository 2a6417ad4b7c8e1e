"""What the fused decode costs, and whether that is what it was meant to cost: for report.py.

Machine code says how many instructions stand in a loop and in the parts of it that branches skip;
the simulator (tests/cuda/decode_counts) says how often those parts are run. All is counted that
stands between the prologue and the joining of parts. Figures are of T = 4096 tokens and groups
of 64; one head's tokens are shared by the four warps of one block.
"""
import os, re, subprocess

import sass

LENGTH, HEADS = 4096, (1, 3, 4, 8)
SIMULATED = ("    main loop", "    per element", "    kept rows", "targets", "    target")  # not nvcc's alone


def loops_of(body, op, least):
    """The loops that hold at least so many of an instruction, outer ones first."""
    return [l for l in sass.loops(body)
            if sass.histogram(body[l[0]:l[1] + 1]).get(op, 0) >= least]


def innermost(found):
    inside = lambda a, b: a != b and a[0] <= b[0] and b[1] <= a[1]
    return [a for a in found if not any(inside(a, b) for b in found)][0]


def parts_of(body, first, last):
    """Sizes of what branches within first..last skip, by what it does. A mask within a rescale is
    left out of both: a rescale of a chunk without holes skips it too."""
    parts, spans = {"fold": [], "rescale": [], "mask": [], "skipped": 0}, []
    for i in range(first, last + 1):
        target = body[i].target
        if body[i].op != "BRA" or not body[i].predicated or not i + 1 < target <= last + 1:
            continue
        h = sass.histogram(body[i + 1:target])
        if "SHFL" in h and "HMMA" in h:
            continue  # the way out of a chunk that has no token
        kind = "rescale" if "SHFL" in h else "fold" if "HMMA" in h else "mask"
        spans.append((i + 1, target, kind))
    inside = lambda a, b: a != b and b[0] <= a[0] and a[1] <= b[1]
    for a in spans:
        nested = [b for b in spans if inside(b, a)]
        if not any(inside(a, b) for b in spans):
            parts[a[2]].append(a[1] - a[0] - sum(b[1] - b[0] for b in nested))
            parts["skipped"] += sum(b[1] - b[0] for b in nested)
    return parts


def around_tile(body, outer, inner, rest):
    """Instructions of the loop over tiles around the loop over chunks, special cases left out: no
    page table, no hole, a full tile that is followed by another. Copies of a size that is known
    stand one by one; `rest` rounds of a loop copy the others."""
    before = sass.shortest(body, outer[0], inner[0])
    copies = [i for i in range(inner[1], outer[1]) if body[i].op == "LDGSTS"]
    if not copies:
        return before + sass.shortest(body, inner[1] + 1, outer[1]) + 1
    way = [inner[1] + 1, copies[0], copies[-1], outer[1]]
    around = before + sum(sass.shortest(body, a, b) for a, b in zip(way, way[1:])) + 1
    again = [l for l in sass.loops(body) if inner[1] < l[0] <= copies[-1] <= l[1] <= outer[1]]
    return around + (rest - 1) * (again[-1][1] - again[-1][0] + 1 if again else 0)


def simulate(folder, numbers, seen={}):
    """What decode_counts prints; kernels count the same for all architectures."""
    if numbers not in seen:
        program = os.path.join(folder, "test-cuda", "decode_counts")
        command = [program, *map(str, numbers)]
        seen[numbers] = (subprocess.run(command, capture_output=True, text=True).stdout
                         if os.path.exists(program) else "")
    return seen[numbers]


def number(what, text):
    return int(re.search(what + r" (\d+)", text).group(1))


def per_element(folder, name, body):
    """Of a tensor decode kernel: instructions of its loop over 64 tokens, and of all around it,
    per K or V element; and what kept rows add. Lines, and the figures."""
    version, D, bits, CG = map(int, re.match(r"k0(\d)<(\d+), (\d), (\d)>", name).groups())
    if D // CG != 64 or not simulate(folder, (D, 1, bits, 64, LENGTH, -1, 0, version)):
        return [], None
    found = loops_of(body, "HMMA", 41)
    inner = innermost(found)
    outer = min((a for a in found if a[0] < inner[0] and inner[1] < a[1]),
                key=lambda a: abs(a[1] - inner[1]))
    parts = parts_of(body, *inner)
    always = inner[1] - inner[0] + 1 - parts.pop("skipped") - sum(map(sum, parts.values()))
    mean = lambda what: sum(parts[what]) / max(len(parts[what]), 1)
    around = around_tile(body, outer, inner, 8 * D // 512)
    KT, MT = D // 16, 256 // D
    figures, often = {}, {}
    for G in HEADS:
        out = simulate(folder, (D, G, bits, 64, LENGTH, -1, 0, version))
        votes, shuffles, matrices = (number(w, out)
                                     for w in ("votes", "shuffles", "matrix operations"))
        folds = (matrices - votes * (32 + MT * ((CG + 1) // 2 + (CG > 1) + 2))) / KT
        rescales = (shuffles - 4 * 4) / 6
        often[G] = rescales * 64 / LENGTH
        total = (LENGTH / 64 * always + folds * mean("fold") + rescales * mean("rescale") +
                 LENGTH / 128 * around)
        figures[G] = total * 16 / (LENGTH * D)
    each = ", ".join(f"G = {G}: {x:.3f}" for G, x in figures.items())
    lines = [f"    main loop, 64 tokens: {always} instructions, fold {parts['fold']} x "
             f"{folds * 64 / LENGTH:g}, rescale {parts['rescale']} x "
             f"{' '.join(f'{x:.2f}' for x in often.values())}, mask {parts['mask']} x 0",
             f"    per element: {each}; {around} around a tile"]
    kept = {n: x / total * 100 for n, x in kept_rows(body, D, parts["mask"]).items()}
    if kept:
        lines.append("    kept rows add, at most: " +
                     ", ".join(f"{n} rows {x:.1f} %" for n, x in kept.items()))
    return lines, dict(figures=figures, kept=kept, loop=body[inner[0]:inner[1] + 1])


def kept_rows(body, D, masks):
    """Instructions that 5 and 20 kept rows add at most: chunks of 32 rows, the loop whose loads are
    of 64 bits, each with a rescale; and a mask for each hole, every one in a tile of its own."""
    wide = lambda l: sass.widths(body[l[0]:l[1] + 1], "LDG").get(64, 0)
    found = [l for l in sass.loops(body) if wide(l) >= 16]
    if not found:
        return {}
    first, last = innermost(found)
    all_parts = row_parts(body, first, last)
    keys, _, rescale, values, _ = all_parts
    cost = {}
    for n in (5, 20):
        parts = [keys, rescale, values] if n <= 16 else all_parts
        chunk, at = 1, first
        for start, end in parts:  # all of them; between them what neither page nor window needs
            chunk += sass.shortest(body, at, start) + end - start
            at = end
        cost[n] = -(-n // 32) * (chunk + sass.shortest(body, at, last)) + n * max(masks, default=0)
    return cost


def row_parts(body, first, last):
    """Of the loop over chunks of rows what branches skip, first to behind the last instruction: two
    times 16 keys, the rescale, two times 16 values."""
    found = []
    for i in range(first, last + 1):
        target = body[i].target
        if body[i].op == "BRA" and body[i].predicated and i + 1 < target <= last + 1:
            h = sass.histogram(body[i + 1:target])
            rows = "HMMA" in h and "LDG" in h and "MOVM" not in h
            if rows or ("SHFL" in h and "HMMA" not in h):
                found.append((i + 1, target))
    return [a for a in found if a[1] - a[0] >= 24 and
            not any(b[0] < a[0] and a[1] <= b[1] for b in found)]


def memory_figures(folder, D, bits, version):
    """Bytes asked for over the least; the share of them that was used; extra wavefronts; bytes of
    parts. All coded; then with 5 kept and 128 recent rows."""
    found = []
    for recent, kept in ((-1, 0), (128, 5)):
        out = simulate(folder, (D, 1, bits, 64, LENGTH, recent, kept, version))
        first, second = (re.findall(r"^    \S+ .*%$", text, re.M) for text in out.split("join:"))
        # array, loads, stores, atomics, bytes, sectors, ...: what k05 only writes are parts
        split = lambda rows, writes: [r.split() for r in rows if (r.split()[1] == "0") == writes]
        own = split(first, False) + split(second, True)
        sectors, used = (sum(int(r[i]) for r in own) for i in (5, 4))
        parts = sum(int(r[5]) for r in split(first, True) + split(second, False))
        extra = sum(int(x) for x in re.findall(r"^    \S+ .* (\d+)$", out, re.M))
        found.append((sectors * 32 / number("least", out), used / (sectors * 32), extra,
                      parts * 32))
    return found


def line(met, what, limit, figures):
    return f"    target {'met    ' if met else 'NOT met'}  {what}: at most {limit}: {figures}"


def instruction_targets(figures):
    """What the launcher chooses counts, k05; k04 is the same without copies ahead."""
    lines = []
    for bits, G, limit in ((2, 1, 1.5), (2, 3, 2.4), (2, 4, 1.5), (2, 8, 1.5), (4, 1, 1.75),
                           (4, 3, 2.75), (4, 4, 3.25)):
        for D in (64, 128):
            found = {v: figures[v, D, bits]["figures"][G] for v in (5, 4)
                     if (v, D, bits) in figures}
            what = f"{bits}-bit, G = {G}, head size {D}, instructions per element"
            if found:
                met = found.get(5, 9) <= limit
                lines.append(line(met, what, limit, ", ".join(f"k0{v} {x:.3f}" for v, x in found.items())))
                lines += [] if met else in_the_way(figures[5, D, bits]["loop"])
    for D in (64, 128):
        kept = figures.get((5, D, 2), {}).get("kept")
        for n, limit in ((5, 2), (20, 5)) if kept else ():
            lines.append(line(kept[n] <= limit, f"2-bit, head size {D}, {n} kept rows, "
                              "instructions more in %", limit, f"k05 {kept[n]:.1f}"))
    return lines


def in_the_way(loop):
    """Of a target that is not met: what its loop consists of, branches that are seldom taken included."""
    kinds = sass.by_kind(loop)
    unpack = sum(1 for i in loop if i.op in ("LOP3", "SHF"))
    return ["                    its loop: " + ", ".join(f"{k} {n}" for k, n in kinds.items()),
            f"                    unpacking and masks are {unpack} of {len(loop)}: each register of an "
            "operand takes an AND, each word of codes a shift; what is left weighs tokens"]


def memory_targets(figures, folder):
    lines = []
    for D, bits in ((64, 2), (64, 4), (128, 2), (128, 4)):
        if (5, D, bits) not in figures:
            continue
        dense, mixed = memory_figures(folder, D, bits, 5)
        what = f"{bits}-bit, head size {D}, "
        lines += [line(dense[0] <= 1.02, what + "bytes asked for over the least", 1.02,
                       f"k05 {dense[0]:.3f}, and {dense[3]} bytes of parts"),
                  line(mixed[0] <= 1.05, what + "the same with 5 kept and 128 recent rows", 1.05,
                       f"k05 {mixed[0]:.3f}"),
                  line(min(dense[1], mixed[1]) >= 0.95, what + "bytes fetched and not used, in %",
                       5, f"k05 {100 - dense[1] * 100:.1f}, with rows {100 - mixed[1] * 100:.1f}"),
                  line(dense[2] + mixed[2] == 0, what + "conflicts in shared memory", 0,
                       f"k05 {dense[2] + mixed[2]}")]
    return lines


def test_figures(folder, test, pattern):
    """Numbers that a test of the kernels prints."""
    program = os.path.join(folder, "test-cuda", "test_" + test.split("/")[0])
    if not os.path.exists(program):
        return []
    out = subprocess.run([program, f"--filter={test}"], capture_output=True, text=True).stdout
    return [float(x) for x in re.findall(pattern, out)]


def targets(arch, figures, folder, seen={}):
    """Lines: each target, and how near we are. Targets of instructions are those of sm_90."""
    if not seen:
        moves = "cuda_quantize/moves_hardly_more_than_it_must"
        prefill = "cuda_kvsink/extra_bytes_are_below_a_thousandth_of_a_prefill"
        seen["append"] = test_figures(folder, moves, r"(?:minimum|rows) ([\d.]+)")
        seen["kvsink"] = test_figures(folder, prefill, r"token, ([\d.]+) %")
    spilled = [name for name, f in figures["spills"].items() if f[0]]
    framed = [f"{name} {f[1]}" for name, f in figures["spills"].items() if f[1]]
    lines = [f"targets, {arch}", *instruction_targets(figures), *memory_targets(figures, folder)]
    lines.append(line(not spilled, "bytes of registers spilled", 0, ", ".join(spilled) or
                      "none; stack frames: " + (", ".join(framed) or "none")))
    if seen["append"]:
        worst = max(seen["append"])
        lines.append(line(worst <= 1.05, "append, bytes asked for over the least, worst of all",
                          1.05, f"{worst:.3f}"))
    if seen["kvsink"]:
        worst = max(seen["kvsink"])
        lines.append(line(worst < 0.1, "bytes KVSink adds to a prefill's residual updates, in %",
                          0.1, f"{worst:.4f}"))
    return lines
