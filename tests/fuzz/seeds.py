#!/usr/bin/env python3
"""seeds.py DIRECTORY: small valid inputs, so that fuzzers begin behind the first check.

Two folders: gguf/ for fuzz_gguf, text/ for fuzz_text (whose first byte chooses the reader).
"""

import os
import struct
import sys

UINT32, FLOAT32, BOOL, STRING, ARRAY = 4, 6, 7, 8, 9
F32, Q4_0 = 0, 2


def text(s):
    raw = s.encode()
    return struct.pack("<Q", len(raw)) + raw


def key(name, kind, payload):
    return text(name) + struct.pack("<I", kind) + payload


def array(kind, items):
    return struct.pack("<IQ", kind, len(items)) + b"".join(items)


def gguf(keys, tensors):
    """tensors: (name, dims, type, bytes)"""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join(keys)
    data = b""
    for name, dims, kind, raw in tensors:
        head += text(name) + struct.pack("<I", len(dims)) + b"".join(struct.pack("<Q", d) for d in dims)
        head += struct.pack("<IQ", kind, len(data))
        data += raw + bytes(-len(raw) % 32)
    return head + bytes(-len(head) % 32) + data


def vocabulary(model):
    pieces = ["<unk>", "<s>", "</s>", "a", "b", "ab", "\u2581" if model == "llama" else "\u0120"]
    keys = [key("general.architecture", STRING, text("llama")),
            key("tokenizer.ggml.model", STRING, text(model)),
            key("tokenizer.ggml.tokens", ARRAY, array(STRING, [text(p) for p in pieces])),
            key("tokenizer.ggml.token_type", ARRAY, array(5, [struct.pack("<i", t) for t in (2, 3, 3, 1, 1, 1, 1)])),
            key("tokenizer.ggml.bos_token_id", UINT32, struct.pack("<I", 1))]
    if model == "llama":
        keys.append(key("tokenizer.ggml.scores", ARRAY, array(FLOAT32, [struct.pack("<f", -i) for i in range(7)])))
    else:
        keys += [key("tokenizer.ggml.pre", STRING, text("smollm")),
                 key("tokenizer.ggml.merges", ARRAY, array(STRING, [text("a b")]))]
    return gguf(keys, [])


def small_model():
    keys = [key("general.architecture", STRING, text("llama")), key("llama.block_count", UINT32, struct.pack("<I", 1)),
            key("flag", BOOL, b"\1"), key("list", ARRAY, array(FLOAT32, [struct.pack("<f", 0.5)] * 3))]
    return gguf(keys, [("a", [2, 3], F32, bytes(24)), ("b", [32, 2], Q4_0, bytes(36))])


def npy():
    head = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }"
    head += " " * (63 - 10 - len(head)) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode() + bytes(24)


PROFILE = ("kvsink-profile 1\nmodel llama 5 8 64 0123456789abcdef\n# a comment\n"
           "stage 2 5 -1 700 0.5 18.7 3\nids 1 5\n")
STATIC = "kvsink-profile 1\nmodel llama 1 8 64 0\nstatic keep none\n" + "".join(
    "static 0 %s -1 2.5 0 1e-3\n" % side for side in ("keys", "keys-pre", "values"))


def main():
    top = sys.argv[1]
    seeds = {"gguf/model": small_model(), "gguf/bpe": vocabulary("gpt2"),
             "text/format": b"\0002:channel:128:sym", "text/keep": b"\1kvsink:5@each/1-2+decode",
             "text/profile": b"\2" + PROFILE.encode(), "text/static": b"\2" + STATIC.encode(),
             "text/flags": b"\000nf4:token:64:pre:had:norm", "text/sparse": b"\0003:channel:all:out0.125",
             "text/chat": b'\3[{"role": "user", "content": "hi"}]',
             "text/template": b"\4{% for message in messages %}{{ message['content'] }}{% endfor %}",
             "text/npy": b"\5" + npy(), "text/bpe": b"\6" + vocabulary("gpt2"), "text/spm": b"\6" + vocabulary("llama")}
    for name, data in seeds.items():
        path = os.path.join(top, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as f:
            f.write(data)


main()
