#!/usr/bin/env python3
"""Chapter 7's results: what each version of the decode kernel asks memory for, counted by the simulator,
and what the decoder writes with it. Run it in the top folder, when `make test-cuda` has built all:

    python3 chapters/07-fused-decode/counts.py [BUILD]

counts.tsv  row (bits/head size/query heads of a KV head/version), one KV head with 4096 tokens:
  loads     elements of requests by lanes, for each key and value (one request of a lane counts one)
  sectors   of 32 bytes, all requests of all warps added up as if there were no cache
  over      32 * sectors over the least: codes, scales, minima, query, output; parts not counted
  used      share of the sectors' bytes that was asked for
  parts     sectors for parts, written and read again by the kernel that joins them
  conflicts wavefronts of shared memory beyond the least
kept.tsv    row (kept tokens): the same of the last version, 2 bits, and over what no kept token costs
writes.tsv  what `kvsink generate` writes with the scalar reference and with the kernels
"""

import json
import os
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
T = 4096
SOURCES = ["cuda/%s" % f for f in ("decode.cu", "decode.cuh", "decode_plain.cuh", "decode_hoisted.cuh", "decode_tensor.cuh",
                                  "decode_walk.cuh", "layout.cu", "layout.cuh", "kv.cuh")] + ["chapters/07-fused-decode/counts.py"]
# The arrays in the order in which decode_counts makes them.
POOL, WORK, OUT, QUERY = "array0", "array1", "array2", "array4"


def tables(build, D, G, bits, version, recent=-1, kept=0):
    """Of a launch: global arrays {name: (loads, stores, bytes, sectors)}, shared extra wavefronts, shuffles;
    and the size of a tile."""
    words = [os.path.join(build, "test-cuda", "decode_counts")] + \
        [str(x) for x in (D, G, bits, 64, T, recent, kept, version)]
    text = subprocess.run(words, cwd=TOP, check=True, stdout=subprocess.PIPE, text=True).stdout
    tile = int(re.search(r"tile (\d+) bytes", text).group(1))
    launches = []
    for part in re.split(r"\n(?=\w+: \d+ launch)", text)[1:]:
        arrays, conflicts, shared = {}, 0, False
        for line in part.splitlines()[1:]:
            words = line.split()
            if words[:1] in (["global"], ["shared"]):
                shared = words[0] == "shared"
            elif shared and len(words) == 7:
                conflicts += int(words[6])
            elif len(words) == 8 and words[0].startswith("array"):
                arrays[words[0]] = tuple(int(words[i]) for i in (1, 2, 4, 5))
        launches.append((arrays, conflicts))
    return launches, tile


def counted(build, D, G, bits, version, **more):
    launches, tile = tables(build, D, G, bits, version, **more)
    sectors = parts = bytes_ = loads = conflicts = 0
    for arrays, extra in launches:
        conflicts += extra
        for name, (load, _, asked, n) in arrays.items():
            if name == WORK:
                parts += n
            else:
                sectors, bytes_ = sectors + n, bytes_ + asked
                loads += load if name == POOL else 0
    least = T // 128 * tile + 2 * 4 * G * D
    return {"loads": 32 * loads / (2 * T * D), "sectors": sectors, "over": 32 * sectors / least,
            "used": bytes_ / (32 * sectors), "parts": parts, "conflicts": conflicts}


def write(name, command, titles, rows):
    lines = ["# command: " + command] + ["# depends: " + s for s in SOURCES if os.path.exists(os.path.join(TOP, s))]
    path = os.path.join(HERE, "results", name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path + ".new", "w") as f:
        f.write("\n".join(lines + ["\t".join(titles)] + ["\t".join(row) for row in rows]) + "\n")
    os.replace(path + ".new", path)
    subprocess.run(["sh", "book/build.sh", "stamp", os.path.relpath(path, TOP)], cwd=TOP, check=True)


def cells(c):
    return ["%.3g" % c["loads"], "%d" % c["sectors"], "%.3f" % c["over"], "%.3f" % c["used"], "%d" % c["parts"],
            "%d" % c["conflicts"]]


def versions():
    with open(os.path.join(TOP, "cuda", "kv_cuda.h")) as f:
        return int(re.search(r"KV_CUDA_DECODE_VERSIONS = (\d+)", f.read()).group(1))


def generate(build):
    """The end of a verse, written by both backends from the same 2-bit cache."""
    work = os.path.join(build, "chapter-7")
    os.makedirs(os.path.join(TOP, work), exist_ok=True)
    model, verse, profile = (os.path.join(work, name) for name in ("tiny.gguf", "verse.txt", "profile.txt"))
    kvsink = os.path.join(build, "kvsink")
    run = lambda *words: subprocess.run([kvsink] + list(words), cwd=TOP, check=True, stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL, text=True).stdout
    run("handmade", "-o", model, "--write-text", verse)
    run("calibrate", model, "--file", verse, "-o", profile)
    with open(os.path.join(TOP, verse)) as f:
        prompt = f.read()[:330]
    rows = []
    for keep in ("16 bits", "none", "kvsink:5"):
        for backend in ("ref",) if keep == "16 bits" else ("ref", "sim"):
            cache = [] if keep == "16 bits" else ["--keys", "2:channel:64", "--values", "2:token:64", "--keep", keep]
            out = json.loads(run("generate", model, "--prompt", prompt, "-n", "24", "--profile", profile, "--backend",
                                 backend, "--json", *cache))
            rows.append([keep, backend, out["text"].replace("\n", " / ").strip()])
    return rows


def main():
    build = sys.argv[1] if len(sys.argv) > 1 else "build"
    last = versions()
    rows = [["%d/%d/%d/k%02d" % (bits, D, G, v)] + cells(counted(build, D, G, bits, v))
            for bits, D, G in ((2, 128, 1), (2, 128, 4), (4, 128, 1), (2, 64, 1)) for v in range(1, last + 1)]
    titles = ["row", "loads", "sectors", "over", "used", "parts", "conflicts"]
    write("counts.tsv", "chapters/07-fused-decode/counts.py", titles, rows)
    none = counted(build, 128, 1, 2, last)["sectors"]
    rows = []
    for kept in (0, 1, 5, 20):
        c = counted(build, 128, 1, 2, last, kept=kept)
        rows.append([str(kept)] + cells(c) + ["%.2f" % (100 * (c["sectors"] / none - 1))])
    write("kept.tsv", "chapters/07-fused-decode/counts.py", ["kept"] + titles[1:] + ["more"], rows)
    write("writes.tsv", "chapters/07-fused-decode/counts.py", ["keep", "backend", "text"], generate(build))


if __name__ == "__main__":
    main()
