#!/usr/bin/env python3
"""Check the dequantization of GGUF blocks against the PyPI package `gguf`.

    gguf_check.py DUMP                 random blocks of every type; DUMP is the built tests/tools/gguf_dump.c
    gguf_check.py DUMP MODEL.gguf      also every tensor of a real file
    gguf_check.py --blocks             print tests/gguf_blocks.h: one block of each type and a hash of what
                                       the package makes of it, for tests/test_gguf.c

The package builds a file of random bytes (random scales, but finite ones), the C reader dequantizes it, and
every float32 must be equal to the last bit: both sides compute in float32, in the same order.
Exit status 77 where the package is missing.
"""
import os
import subprocess
import sys
import tempfile

try:
    import numpy as np
    import gguf
    from gguf import GGMLQuantizationType as Type
except ImportError as missing:
    print(f"skipped: {missing} (install it with: pip install gguf)")
    sys.exit(77)

# Byte offsets of the binary16 scales within a block.
SCALES = {
    Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q5_0: [0], Type.Q5_1: [0, 2], Type.Q8_0: [0],
    Type.Q2_K: [80, 82], Type.Q3_K: [108], Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208],
}
BLOCKS = 999  # of each type; odd, and more than the package's chunk of 16 rows


def random_blocks(random, kind, n):
    """n blocks of random bytes whose scales are any finite binary16, subnormals and -0 included."""
    size = gguf.GGML_QUANT_SIZES[kind][1]
    blocks = random.integers(0, 256, (n, size), dtype=np.uint8)
    for at in SCALES[kind]:
        bits = random.integers(0, 0x7C00, n, dtype=np.uint16)
        bits |= random.integers(0, 2, n, dtype=np.uint16) << np.uint16(15)
        blocks[:, at:at + 2] = bits.view(np.uint8).reshape(n, 2)
    return blocks


def expected(data, kind):
    return np.ascontiguousarray(gguf.quants.dequantize(data, kind), dtype=np.float32).reshape(-1)


def compare(name, kind, got, want):
    got, want = got.view(np.uint32), want.view(np.uint32)
    if got.shape != want.shape:
        return f"{name} ({kind.name}): {got.size} elements, expected {want.size}"
    wrong = np.flatnonzero(got != want)
    if wrong.size:
        i = wrong[0]
        return (f"{name} ({kind.name}): {wrong.size} of {want.size} differ, first at {i}: "
                f"{got[i:i + 1].view(np.float32)[0]!r}, expected {want[i:i + 1].view(np.float32)[0]!r}")
    return None


def make_file(path):
    """Writes one tensor of each type; returns what each should become, in order."""
    random = np.random.default_rng(20240607)
    writer = gguf.GGUFWriter(path, "llama")
    tensors = [("blocks." + kind.name, kind, random_blocks(random, kind, BLOCKS)) for kind in SCALES]
    halves = np.arange(65536, dtype=np.uint16)
    halves = halves[(halves & 0x7FFF) <= 0x7C00]  # every binary16 but NaN, whose bits may change
    tensors.append(("f16", Type.F16, halves.view(np.float16)))
    tensors.append(("bf16", Type.BF16, np.arange(65536, dtype=np.uint16).view(np.uint8)))
    tensors.append(("f32", Type.F32, random.standard_normal(1001).astype(np.float32)))
    for name, kind, data in tensors:
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return [(name, kind, expected(data, kind)) for name, kind, data in tensors]


def check_random(dump):
    problems = []
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "blocks.gguf")
        wanted = make_file(path)
        got = np.frombuffer(subprocess.run([dump, path], check=True, stdout=subprocess.PIPE).stdout,
                            dtype=np.float32)
    for name, kind, want in wanted:
        problems.append(compare(name, kind, got[:want.size], want))
        got = got[want.size:]
    if got.size:
        problems.append(f"{got.size} elements too many")
    print(f"{len(wanted)} types, {sum(w.size for _, _, w in wanted)} elements of random blocks")
    return problems


def check_model(dump, model):
    problems, elements = [], 0
    reader = gguf.GGUFReader(model)
    process = subprocess.Popen([dump, model], stdout=subprocess.PIPE)
    for tensor in reader.tensors:
        want = expected(tensor.data, tensor.tensor_type)
        got = np.frombuffer(process.stdout.read(want.nbytes), dtype=np.float32)
        problems.append(compare(tensor.name, tensor.tensor_type, got, want))
        elements += want.size
    if process.stdout.read(1) or process.wait() != 0:
        problems.append(f"{model}: gguf_dump failed or wrote too much")
    print(f"{len(reader.tensors)} tensors, {elements} elements of {os.path.basename(model)}")
    return problems


def hash_floats(values):
    """64-bit FNV-1a over the bytes, as in tests/test_gguf.c."""
    h = 0xCBF29CE484222325
    for byte in values.tobytes():
        h = (h ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return h


def print_blocks():
    random = np.random.default_rng(7)
    print("/* Written by tests/gguf_check.py --blocks: one random block of each type and the 64-bit FNV-1a hash")
    print(" * of the float32 values that the PyPI package gguf makes of it. */")
    print("static const struct {\n    int type;\n    const char *hex;\n    uint64_t hash;\n} known_blocks[] = {")
    for kind in SCALES:
        block = random_blocks(random, kind, 1)
        text = block.tobytes().hex()
        print(f"    {{GGUF_{kind.name},")
        for i in range(0, len(text), 84):
            print(f'     "{text[i:i + 84]}"' + ("," if i + 84 >= len(text) else ""))
        print(f"     0x{hash_floats(expected(block, kind)):016x}}},")
    print("};")


def main():
    if sys.argv[1:] == ["--blocks"]:
        print_blocks()
        return 0
    if len(sys.argv) not in (2, 3):
        print(__doc__, file=sys.stderr)
        return 2
    problems = check_random(sys.argv[1])
    if len(sys.argv) == 3:
        problems += check_model(sys.argv[1], sys.argv[2])
    problems = [p for p in problems if p]
    for p in problems:
        print("WRONG:", p)
    print("gguf_check:", f"{len(problems)} wrong" if problems else "all equal to the last bit")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
