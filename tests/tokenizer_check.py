#!/usr/bin/env python3
"""Token ids against other programs, on texts made to be difficult.

    tokenizer_check.py TOKEN_IDS --vocabularies DIR
        DIR holds llama.cpp's ggml-vocab-*.gguf with the texts (.inp) and ids (.out) it tests itself
        with (folder models/ of its source).
    tokenizer_check.py TOKEN_IDS --llama-tokenize PROGRAM MODEL.gguf ... [--texts N]
        N random texts through llama.cpp's own program.
    tokenizer_check.py TOKEN_IDS --tokenizers MODEL.gguf ... [--texts N]
        The PyPI package tokenizers, fed from the file's metadata (package gguf); byte-level BPE
        only. Where it is known to differ from llama.cpp, which we follow, nothing is compared: code
        points younger than Unicode 14, bytes that the vocabulary lacks (here they also leave no
        trace between their neighbours), and "</s>", which llama.cpp always takes for special.
    tokenizer_check.py --write FILE.json --llama-tokenize PROGRAM MODEL.gguf
        Writes the ids that tests/test_tokenizer.c expects (tests/tokens_smollm2.json).

TOKEN_IDS is build/tools/token_ids. Exit status: 0 all equal, 1 not, 77 nothing to compare with."""

import argparse
import glob
import json
import os
import random
import struct
import subprocess
import sys
import unicodedata

SKIPPED = 77

# Hand-picked texts; "special" ones are asked for twice.
PLAIN = [
    "", " ", "  ", "   ", "\t", "\t\t", "\n", "\n\n", "\n\n\n", " \n", "\n ", "\r\n", "\r\n\r\n",
    "\r",
    " \t \n  \r\n x", "Hello world", " Hello world", "Hello  world", "Hello world ",
    "hello   \n\n  x",
    "Hello, y'all! How are you?", "I'll we've they're he'd it's I'm can't",
    "I'LL WE'VE THEY'RE HE'D IT'S I'M CAN'T", "'s 't 're 've 'm 'll 'd", "'S 'T 'RE 'VE 'M 'LL 'D",
    "''''s'''", "x'sy 'sx", "rock 'n' roll", "0", "1", "12", "123", "1234", "12345678901234567890",
    " 1 22 333 4444", "3.14159e-10", "1,000,000", "v2.0.1-rc3", "2024-07-26T12:34:56Z",
    "\u0661\u0662\u0663 \u0967\u0968 \uff11\uff12 \u00bd \u2167 \u2460 \u00b2", "0x1F 0b101 1e9",
    "caf\u00e9 cafe\u0301 na\u00efve \u00c5ngstr\u00f6m A\u030angstro\u0308m",
    "e\u0301\u0302\u0303 a\u0327\u0328 \u0301x",
    "Z\u0351\u036b\u0343\u032a\u0302A\u0334\u0335L\u0321G\u0322O\u0328",
    "\U0001F600", "\U0001F600\U0001F600 \U0001F44D\U0001F3FD",
    "\U0001F468\u200d\U0001F469\u200d\U0001F467\u200d\U0001F466",
    "\U0001F3F3\ufe0f\u200d\U0001F308 \U0001F1E9\U0001F1EA\U0001F1EB\U0001F1F7 1\ufe0f\u20e3 "
    "\u263a\ufe0f \U0001FAE8",
    "\u4f60\u597d\uff0c\u4e16\u754c\u3002",
    "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8\u3067\u3059\u3002",
    "\ud55c\uad6d\uc5b4 \ubb38\uc7a5", "\U00020000\U0002A6D6 \U0002EBF0 \U00031350",
    "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645 \u0663",
    "\u200f\u202eabc\u202c",
    "\u0939\u093f\u0928\u094d\u0926\u0940 \u0e44\u0e17\u0e22 \u1019\u103c\u1014\u103a\u1019\u102c",
    "\u0395\u03bb\u03bb\u03b7\u03bd\u03b9\u03ba\u03ac \u0440\u0443\u0441\u0441\u043a\u0438\u0439 "
    "\u0531\u0580\u0574",
    "a\u00a0b\u00a0 c", "\u00a0\u00a0x",
    "a\u1680b\u2000c\u2003d\u2009e\u200af\u202fg\u205fh\u3000i",
    "a\u2028b\u2029c\u0085d", "a\u180eb \u180e", "a\u200bb\u200cc\u2060d\ufeffe", "\ufefftext",
    "a\x0bb\x0cc",
    "\x1c\x1d\x1e\x1f x", "\x01\x02\x03\x04\x05\x06\x07\x08", "a\x7fb\u0080\u009fc",
    "\x04", "x\x13\x14y", "\U00040000 \U00080000",
    "\u0378 \u0530 \U0001f8ff \U000e0080 \U00050000 \U0010ffff",
    "\ue000\uf8ff \U000f0000", "\ufdd0\ufffe\uffff",
    "\ufb01 \ufb03 \u0132 \u01c5 \u02b0 \u00aa \u00ba \u2071",
    "'\u017f '\u212a 's\u0301", "\u2581 \u2581\u2581 \u0120 \u010a \u0121", "<0x0A><0x41>",
    "for (int i = 0; i < n; i++) {\n    a[i] += b[i]; // sum\n}\n",
    "def f(x):\n\treturn x**2\n\n\n\nf( 3 )",
    "\tif x:\n\t\ty\n", "https://example.org/a?b=c&d=%20#e", "user.name+tag@mail.example.com",
    "~!@#$%^&*()_+-={}[]|\\:;\"'<>,.?/`", "...!!!???---___===", "a.b,c;d:e!f?g", "( x )[ y ]{ z }",
    "$5.00 \u20ac10 \u00a330 \u00a5400",
    "x\u00b2 + y\u00b2 \u2264 z\u00b2 \u2211\u222b\u221e\u2192\u21d2", "C++ C# F# .NET",
    "THE QUICK BROWN FOX", "tHe QuIcK", "supercalifragilisticexpialidocious",
    "antidisestablishmentarianism" * 5,
    "a" * 1000, " " * 200, "\n" * 100, "ab" * 500, "1" * 300, "!" * 300, "\u00e9" * 200,
    "\u4e00" * 100,
    " " * 50 + "x", "x" + " " * 50, "\t \t \t \n\t \t\n", ("word " * 40).strip(), "\n \n \n \nx",
    " \n\t\r\n \u3000\u00a0 end",
    "The first line.\nThe second line.\n\nA new paragraph:\n  - item\n  - item\n",
    "#" * 7 + " Title",
    "\\n is not a newline, \\u0041 is not A",
    "\"quoted\" \u201cquoted\u201d \u00abquoted\u00bb \u2018it\u2019s\u2019",
    "em\u2014dash en\u2013dash hy\u2010phen soft\u00adhyphen", "100% sure; 50/50; 7\u00d78=56",
]
SPECIAL = [
    "<|im_start|>", "<|im_end|>", "<|endoftext|>",
    "<|im_start|>system\nYou are a helpful AI assistant named "
    "SmolLM, trained by Hugging "
    "Face<|im_end|>\n<|im_start|>user\nHi!<|im_end|>\n<|im_start|>assistant\n",
    "a<|endoftext|>b", " <|endoftext|> ", "<|endoftext|><|endoftext|>", "<|im_start", "im_end|>",
    "<|<|im_end|>|>",
    "<|IM_END|>", "text  <|im_end|>  text", "1<|im_end|>2", "<repo_name>x<file_sep>y",
    "<jupyter_start>",
    "<reponame>a<filename>b<gh_stars>", "'<|im_end|>s", "\n<|im_end|>\n\n", "<|im_end|>" * 20,
]


def ids_of(lines, texts):
    if len(lines) < len(texts):
        raise SystemExit(f"tokenizer_check: {len(texts)} texts, but {len(lines)} answers")
    return lines[: len(texts)]


def ours(program, model, texts, special):
    data = b"".join(struct.pack("<I", len(b)) + b for b in (t.encode() for t in texts))
    out = subprocess.run([program, model, str(int(special))], input=data, stdout=subprocess.PIPE,
                         check=True).stdout.decode()
    return ids_of(out.split("\n"), texts)


def llama_tokenize(program, model, texts, special):
    command = [program, "-m", model, "--stdin", "--ids", "--no-bos", "--no-escape", "--log-disable"]
    if not special:
        command.append("--no-parse-special")
    answers = []
    for text in texts:
        if "\0" in text:
            raise SystemExit("tokenizer_check: llama-tokenize cannot read a zero byte")
        out = subprocess.run(command, input=text.encode(), stdout=subprocess.PIPE,
                             stderr=subprocess.DEVNULL, check=True).stdout.decode()
        answers.append(" ".join(str(i) for i in json.loads(out[out.rindex("["):])))
    return answers


# ---------------------------------------------------------------- random texts

SPACES = [chr(c) for c in [*range(9, 14), 32, 0x85, 0xa0, 0x1680, 0x180e, *range(0x2000, 0x200c),
                           0x2028, 0x2029, 0x202f, 0x205f, 0x2060, 0x3000, 0xfeff,
                           *range(0x1c, 0x20)]]


def any_character(r, old):
    while True:
        c = r.randrange(*r.choice([(0x20, 0x7f), (0x80, 0x800), (0x800, 0x10000),
                                   (0x10000, 0x33500), (0x33500, 0x110000)]))
        if not 0xd800 <= c < 0xe000 and not (old and unicodedata.category(chr(c)) == "Cn"):
            return chr(c)


def fragment(r, old):
    kind = r.randrange(9)
    if kind <= 2:
        return r.choice(["", " ", "  ", "\n"]) + r.choice(r.choice(PLAIN[14:]).split() or [""])
    if kind == 3:
        return "".join(r.choice("0123456789") for _ in range(r.randrange(1, 12)))
    if kind == 4:
        return "'" + r.choice("s t re ve m ll d S RE lL \u017f x".split() + [""])
    if kind == 5:
        return "".join(r.choice(SPACES) for _ in range(r.randrange(1, 9)))
    if kind == 6:
        return r.choice([" ", "\n", "\t", "\r\n", " \n", "\r"]) * r.randrange(1, 30)
    if kind == 7:
        return "".join(any_character(r, old) for _ in range(r.randrange(1, 6)))
    return r.choice(SPECIAL + ["<s>", "</s>", "<unk>", "<|eot_id|>", "<fim_prefix>", "<|user|>"])


def random_texts(n, seed, old):
    r = random.Random(seed)
    return ["".join(fragment(r, old) for _ in range(r.randrange(1, 14))) for _ in range(n)]


# ------------------------------------------------------ the package tokenizers

def package(model):
    """The model's tokenizer as the package tokenizers builds it, or None."""
    from gguf import GGUFReader
    from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers as p
    fields = GGUFReader(model).fields
    value = {k: fields["tokenizer.ggml." + k].contents()
             for k in ("tokens", "merges", "pre", "token_type") if "tokenizer.ggml." + k in fields}
    if "merges" not in value:
        return None
    vocabulary = {t: i for i, t in enumerate(value["tokens"])}
    merges = [tuple(m.split(" ")) for m in value["merges"]]
    split = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
             r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    digits, plain = p.Digits(individual_digits=True), p.ByteLevel(add_prefix_space=False)
    known = {"gpt-2": [plain], "smollm": [digits, plain], "starcoder": [digits, plain]}
    for name, count in (("llama-bpe", "{1,3}"), ("qwen2", "")):
        known[name] = [p.Split(Regex(split % count), "isolated"),
                       p.ByteLevel(add_prefix_space=False, use_regex=False)]
    if value.get("pre") not in known:
        return None
    tok = Tokenizer(models.BPE(vocab=vocabulary, merges=merges,
                               ignore_merges=value["pre"] == "llama-bpe"))
    tok.pre_tokenizer = p.Sequence(known[value["pre"]])
    special = [t for t, kind in zip(value["tokens"], value["token_type"]) if kind == 3]
    lacking = {b for b in range(128) if not tok.encode(chr(b), add_special_tokens=False).ids}
    return tok, [AddedToken(t, normalized=False, special=True) for t in special], lacking


def by_package(model, texts, special):
    """The texts that can be compared, and their ids; None if the package cannot do this model."""
    built = package(model)
    if built is None:
        return None
    tok, tokens, lacking = built
    if special:
        tok.add_special_tokens(tokens)
    texts = [t for t in texts if "</s>" not in t and not lacking & set(t.encode())
             and not any(ord(c) >= 0x40000 for c in t)]  # lead bytes that some vocabularies lack
    encoded = tok.encode_batch(texts, add_special_tokens=False)
    return texts, [" ".join(str(i) for i in e.ids) for e in encoded]


# -------------------------------------------------------------------- checking

def compare(label, texts, got, want):
    bad = [i for i, (g, w) in enumerate(zip(got, want)) if g.strip() != w.strip()]
    print(f"{label}: {len(texts)} texts, {len(bad)} differ", flush=True)
    for i in bad[:5]:
        print(f"    {texts[i]!r}\n      ours   {got[i][:300]}\n      theirs {want[i][:300]}")
    return len(bad) == 0


def check_vocabularies(program, folder):
    good, seen = True, 0
    for model in sorted(glob.glob(os.path.join(folder, "ggml-vocab-*.gguf"))):
        if not os.path.exists(model + ".inp") or not os.path.exists(model + ".out"):
            continue
        with open(model + ".inp", encoding="utf-8", newline="") as f:
            texts = f.read().split("\n__ggml_vocab_test__\n")
        with open(model + ".out") as f:
            want = f.read().split("\n")
        try:
            got = ours(program, model, texts, False)
        except subprocess.CalledProcessError:
            continue  # a tokenizer we do not have; it has said so
        good &= compare(os.path.basename(model), texts, got, want)
        seen += 1
    return good if seen else None


def write_cases(path, program, model):
    cases = []
    for special, texts in ((False, PLAIN + SPECIAL), (True, SPECIAL)):
        for text, ids in zip(texts, llama_tokenize(program, model, texts, special)):
            cases.append({"text": text, "special": special, "ids": [int(i) for i in ids.split()]})
    lines = ",\n".join("  " + json.dumps(c) for c in cases)
    head = {"about": "ids that llama.cpp gives for SmolLM2-135M-Instruct; written by "
                     "tests/tokenizer_check.py --write", "count": len(cases)}
    with open(path + ".new", "w") as f:
        f.write(json.dumps(head)[:-1] + ', "cases": [\n' + lines + "\n]}\n")
    os.replace(path + ".new", path)
    print(f"{path}: {len(cases)} cases")
    return True


def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("token_ids", nargs="?")
    p.add_argument("models", nargs="*")
    p.add_argument("--vocabularies", metavar="DIR")
    p.add_argument("--llama-tokenize", metavar="PROGRAM")
    p.add_argument("--tokenizers", action="store_true")
    p.add_argument("--texts", type=int, default=200)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--write", metavar="FILE")
    a = p.parse_intermixed_args()
    if a.write:
        if not (a.llama_tokenize and a.token_ids):
            p.error("--write needs --llama-tokenize PROGRAM and a MODEL")
        return 0 if write_cases(a.write, a.llama_tokenize, a.token_ids) else 1
    if not a.token_ids:
        p.error("which program? (build/tools/token_ids)")
    results = []
    if a.vocabularies:
        results.append(check_vocabularies(a.token_ids, a.vocabularies))
    for model in a.models:
        for special in (False, True):
            label = os.path.basename(model) + (" with special tokens" if special else "")
            if a.llama_tokenize:
                texts = PLAIN + SPECIAL + random_texts(a.texts, a.seed, False)
                texts = [t for t in texts if "\0" not in t]
                got = ours(a.token_ids, model, texts, special)
                want = llama_tokenize(a.llama_tokenize, model, texts, special)
                results.append(compare(label, texts, got, want))
            if a.tokenizers:
                try:
                    compared = by_package(model, random_texts(a.texts, a.seed, True), special)
                except ImportError as missing:
                    print(f"skipped: {missing}")
                    continue
                if compared:
                    texts, want = compared
                    results.append(compare(label + " (package tokenizers)", texts,
                                           ours(a.token_ids, model, texts, special), want))
    results = [r for r in results if r is not None]
    if not results:
        print("skipped: nothing to compare with")
        return SKIPPED
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
