#!/bin/sh
# generate.sh BACKEND: does the decoder with the kernels of cuda/ (sim or cuda) write the same
# tokens as the scalar reference, from caches of the same bytes, with the same kept tokens? On the
# hand-built model, whose text a broken cache changes. The last line counts.
set -u
backend=$1
build=${BUILD:-build}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0 failed=0
"$build/kvsink" handmade -o "$work/model.gguf" --write-text "$work/verse.txt" >/dev/null &&
    "$build/kvsink" calibrate "$work/model.gguf" --file "$work/verse.txt" \
        -o "$work/profile.txt" >/dev/null ||
    { echo "generate: 0 passed, 1 failed"; exit 1; }
prompt=$(head -c 330 "$work/verse.txt")

same() { # OPTIONS: both backends, one JSON object each
    for b in ref "$backend"; do
        "$build/kvsink" generate "$work/model.gguf" --prompt "$prompt" -n 24 \
            --profile "$work/profile.txt" --json --backend $b "$@" >"$work/$b.json" \
            2>"$work/$b.log" || cat "$work/$b.log" >>"$work/$b.json"
    done
    if grep -q '"tokens"' "$work/ref.json" && cmp -s "$work/ref.json" "$work/$backend.json"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAILED generate --backend $backend $*"
        cat "$work/ref.json" "$work/$backend.json"
    fi
}

refused() { # OPTIONS that the device has no layout for: a usage error, and what to do
    "$build/kvsink" generate "$work/model.gguf" --prompt "$prompt" -n 2 \
        --profile "$work/profile.txt" --backend "$backend" "$@" >"$work/out" 2>&1
    if [ $? -eq 2 ] && grep -q '2:channel:64' "$work/out"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAILED generate --backend $backend $* should be refused"
        cat "$work/out"
    fi
}

refused --keys f16 --values f16
refused --keys 2:channel:32:norm --values 2:token:64
refused --keys 2:token:32 --values 2:token:64
same --keys 2:channel:32 --values 2:token:64 --keep none
same --keys 2:channel:32 --values 2:token:64 --keep kvsink:5
same --keys 3:channel:32:pre --values 3:token:32 --recent 20 --keep kvsink:5/all
same --keys 4:channel:64 --values 4:token:64:sym --recent 40 --keep first:3
same --keys 8:channel:32:pre --values 2:token:32 --keep positions:0,31,32,63
same --keys 2:channel:32 --values 2:token:64 --recent 40 --keep kvsink:5/all+decode
same --keys 4:channel:32:pre --values 4:token:64 --recent 20 --keep kvsink:5+decode
echo "generate --backend $backend: $passed passed, $failed failed"
[ $failed -eq 0 ]
