#!/usr/bin/env python3
"""Write tests/vectors/*.json, or with --check compare them with what is committed.

The expected values come from the modules beside this one, each written from the project's
formulas alone and never from the C code: the C reference has to pass them like anyone else.
Standard library only, Python 3.9 or later; the same bytes on every machine.
"""

import argparse
import os
import sys

sys.dont_write_bytecode = True

import attention
import cache
import calibration
import exact
import fields
import formats
import halves
import history
import keep
import levels
import lowbit
import packing
import quantize
import sinkmetric
import transformer

PIECES = (
    halves,
    packing,
    formats,
    quantize,
    levels,
    lowbit,
    keep,
    calibration,
    sinkmetric,
    cache,
    history,
    attention,
    transformer,
)
HERE = os.path.dirname(os.path.abspath(__file__))
VECTORS = os.path.join(os.path.dirname(HERE), "vectors")


def all_files():
    for piece in PIECES:
        for file in piece.files():
            yield file.name + ".json", file.text()
    yield "schema.json", fields.schema_text()


def compare_with_committed(wanted):
    """One complaint per file that differs, is missing, or that no piece writes."""
    complaints = []
    for name, text in wanted.items():
        path = os.path.join(VECTORS, name)
        if not os.path.exists(path):
            complaints.append("%s: missing; run make_vectors.py" % name)
            continue
        with open(path, "rb") as stream:
            if stream.read() != text.encode():
                complaints.append("%s: differs from what the oracle writes" % name)
    for name in sorted(os.listdir(VECTORS)):
        if name.endswith(".json") and name not in wanted:
            complaints.append("%s: no oracle module writes this file" % name)
    return complaints


def write(wanted):
    """Write aside, then rename: a broken run leaves no half-written file."""
    os.makedirs(VECTORS, exist_ok=True)
    for name, text in wanted.items():
        path = os.path.join(VECTORS, name)
        with open(path + ".new", "wb") as stream:
            stream.write(text.encode())
        os.replace(path + ".new", path)


def main():
    parser = argparse.ArgumentParser(
        description="Write the test vectors, or check the committed ones."
    )
    parser.add_argument(
        "--check", action="store_true", help="compare with the committed files, change nothing"
    )
    arguments = parser.parse_args()
    exact.self_test()
    wanted = dict(all_files())
    if arguments.check:
        complaints = compare_with_committed(wanted)
        for complaint in complaints:
            print(complaint, file=sys.stderr)
        return 1 if complaints else 0
    write(wanted)
    print("%d files, %d bytes" % (len(wanted), sum(len(t) for t in wanted.values())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
