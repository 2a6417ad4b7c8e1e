"""How long the fused decode should take on GPUs that nobody here has: for "make bench".

    predict.py [REPORT]

Predictions, not measurements. Instructions per element are those of the committed report; bytes,
exponentials and copies follow from the format. The model is printed with its numbers.
"""
import os, re, sys

HERE = os.path.dirname(os.path.abspath(__file__))
# name: architecture, SMs, GHz, TB/s
GPUS = {"A100": ("sm_80", 108, 1.41, 2.04), "H100": ("sm_90", 132, 1.755, 3.35),
        "H200": ("sm_90", 132, 1.755, 4.8), "RTX 4090": ("sm_89", 128, 2.52, 1.01)}
DRAM, ISSUE, SHARED = 0.92, 0.75, 0.8  # of the datasheet's rates; what good kernels reach
LAUNCH = 2.5e-6                        # seconds a kernel; decode is two
# sequences, tokens each, KV heads, query heads of each, head size
SHAPES = ((16, 8192, 8, 1, 128), (16, 8192, 8, 4, 128), (16, 8192, 8, 3, 64))

MODEL = """Predicted times of one layer's decode. PREDICTIONS from counts, not measured on any GPU:
  time = max(bytes / (0.92 bandwidth), instructions / (0.75 x 128 x SMs x clock),
             copies / (0.8 x 128 x SMs x clock), exponentials / (16 x SMs x clock))
         + 2 kernels x 2.5 us
  bytes         codes, scales and minima, query, output
  instructions  of k05, as tests/cuda/report.txt has them
  copies        bytes into shared memory and out of it
  exponentials  8 a token and KV head
  16 bits       the time of a cache that is not quantized, if memory alone takes it
"""


def instructions(path):
    """(architecture, head size, bits) -> {G: instructions per element}, of k05."""
    found, arch, name = {}, None, ""
    for line in open(path):
        if line.startswith("== "):
            arch = line[3:].strip()
        elif not line.startswith(" "):
            name = line.strip()
        m = re.match(r"decode\.cu k05<(\d+), (\d), \d>", name)
        if m and line.startswith("    per element"):
            found[arch, int(m.group(1)), int(m.group(2))] = {
                int(G): float(x) for G, x in re.findall(r"G = (\d): ([\d.]+)", line)}
    return found


def predict(gpu, shape, bits, each):
    """Seconds, and what takes them."""
    _, sms, ghz, tb = GPUS[gpu]
    S, T, heads, G, D = shape
    elements, clock = 2.0 * S * T * heads * D, sms * ghz * 1e9
    size = elements * (bits + 32 / 64) / 8 + 8.0 * S * heads * G * D
    parts = {"memory": size / (DRAM * tb * 1e12),
             "instructions": elements * each / (ISSUE * 128 * clock),
             "copies": 2 * size / (SHARED * 128 * clock),
             "exponentials": 8.0 * S * T * heads / (16 * clock)}
    most = max(parts, key=parts.get)
    plain = (elements * 2 + 8.0 * S * heads * G * D) / (DRAM * tb * 1e12) + 2 * LAUNCH
    return parts[most] + 2 * LAUNCH, most, plain


def main():
    path = sys.argv[1] if len(sys.argv) > 1 else os.path.join(HERE, "report.txt")
    known = instructions(path)
    print(MODEL)
    print(f"{'gpu':9} bits  {'shape':38} {'inst/elem':>9} {'time':>10}  {'limit':13} {'16 bits':>10}")
    for shape in SHAPES:
        S, T, heads, G, D = shape
        for gpu, (arch, *_) in GPUS.items():
            for bits in (2, 4):
                # sm_89 issues what sm_80 issues where the report has no figures of its own
                figures = known.get((arch, D, bits)) or known.get(("sm_80", D, bits))
                if not figures:
                    continue
                time, most, plain = predict(gpu, shape, bits, figures[G])
                where = f"{S} x {T}, {heads} KV heads, G = {G}, D = {D}"
                print(f"{gpu:9} {bits:4}  {where:38} {figures[G]:9.2f} {time * 1e6:7.1f} us  "
                      f"{most:13} {plain * 1e6:7.1f} us = {plain / time:.1f} x")
    if not known:
        print(f"no figures in {path}: make cuda-report UPDATE=1")
    return 0


sys.exit(main())
