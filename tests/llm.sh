#!/bin/sh
# llm.sh MODEL TEXTS: everything that needs the real model.
#
# Three kinds of judges, one line for each check and a sum at the end:
#   oracle/judge_llm.py   a decoder and an evaluation of our own in NumPy, against the program
#   Criterion suites      those that read KV_LLM: token ids, chat template, fast against scalar
#   PyPI packages         gguf (every tensor of the file) and tokenizers (random texts), fetched
#                         into a virtual environment of their own; skipped without a network
# BUILD is the build folder, PYTHON a Python; where it has no NumPy, Debian's own is taken, which is
# the one that the package python3-numpy belongs to.
set -u
model=$1 texts=$2
build=${BUILD:-build} python=${PYTHON:-python3}
"$python" -c 'import numpy' 2>/dev/null || python=/usr/bin/python3
passed=0 failed=0 skipped=0
work=$(mktemp -d "$build/llm-test.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM HUP

add() { # file: add up its last line, "N passed, N failed, N skipped"
    sum=$(tail -n 1 "$1" | grep -E '^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$' | tr -dc '0-9 ')
    # a judge that died before its sum has failed
    # shellcheck disable=SC2086
    set -- ${sum:-0 1 0}
    passed=$((passed + $1)) failed=$((failed + $2)) skipped=$((skipped + $3))
}

say() { # ok|FAIL|skip what figure
    printf '%-4s %-58s %s\n' "$1" "$2:" "$3"
    case $1 in
    ok) passed=$((passed + 1)) ;;
    skip) skipped=$((skipped + 1)) ;;
    *) failed=$((failed + 1)) ;;
    esac
}

# ---- our own oracle

# One BLAS thread: two would wait for each other by spinning, thrice the time on a busy machine.
OPENBLAS_NUM_THREADS=1 "$python" tests/oracle/judge_llm.py "$model" "$texts" "$build/kvsink" \
    "$work/judge" 2>&1 |
    tee "$work/log" | sed -u '/ passed, .* failed, /d'
add "$work/log"

# ---- Criterion suites

for name in tokenizer chat llm; do
    KV_LLM=$model KV_BUILD=$build sh tests/tools/run.sh "$build/test/test_$name" >"$work/log" 2>&1
    add "$work/log"
    sed 's/^/     /; /^ *$/d; / passed, .* failed, /d' "$work/log"
done

# ---- PyPI packages

venv=$build/venv
if ! "$venv/bin/python" -c 'import gguf, tokenizers' 2>/dev/null; then
    install="$venv/bin/python -m pip install --quiet --disable-pip-version-check --retries 2"
    "$python" -m venv --system-site-packages "$venv" >"$work/log" 2>&1 &&
        $install 'gguf==0.19.*' >>"$work/log" 2>&1 &&
        $install --no-deps 'tokenizers<0.24' >>"$work/log" 2>&1
fi

package() { # what, command...: exit status 77 is a skip
    what=$1
    shift
    "$@" >"$work/log" 2>&1
    case $? in
    0) say ok "$what" "$(tail -n 1 "$work/log")" ;;
    77) say skip "$what" "$(tail -n 1 "$work/log")" ;;
    *) say FAIL "$what" "see below" && sed 's/^/     /' "$work/log" ;;
    esac
}
if [ -x "$venv/bin/python" ]; then
    package "every tensor as the package gguf reads it" \
        "$venv/bin/python" tests/gguf_check.py "$build/tools/gguf_dump" "$model"
    package "random texts as the package tokenizers cuts them" \
        "$venv/bin/python" tests/tokenizer_check.py "$build/tools/token_ids" --tokenizers "$model"
else
    say skip "packages gguf and tokenizers" "no virtual environment: $(tail -n 1 "$work/log")"
fi

printf '\n%d passed, %d failed, %d skipped\n' $passed $failed $skipped
[ $failed -eq 0 ] && [ $passed -gt 0 ]
