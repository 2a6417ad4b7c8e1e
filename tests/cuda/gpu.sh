#!/bin/sh
# gpu.sh test|bench: run what needs a GPU, or say what was skipped. The last line counts.
#
#   test    every test of tests/test_cuda_*.c on the device, and again under compute-sanitizer where
#           there is one
#   bench   the table of tests/cuda/gpu_bench.cu
# Results are appended to $GPU_RESULTS with the date, the commit and the device.
set -u
mode=$1
build=${BUILD:-build}
results=${GPU_RESULTS:-$build/gpu-results.tsv}
suites=$(find "$build/gpu" -name 'test_cuda_*' -perm -u+x 2>/dev/null | sort)
commit=$(git describe --always --dirty --abbrev=12 2>/dev/null || echo unknown)
count=$(find tests -name 'test_cuda_*.c' | wc -l)
built="programs were built, but"
[ -n "$suites" ] || built="there is no nvcc to build them, and"

if [ ! -e /dev/nvidia0 ] && ! nvidia-smi -L >/dev/null 2>&1; then
    if [ "$mode" = test ]; then
        echo "gpu-test: 0 passed, 0 failed, $count suites skipped: $built there is no GPU here"
    else
        echo "gpu-bench: skipped: $built there is no GPU here"
    fi
    exit 0
fi

if [ -z "$suites" ]; then
    echo "gpu: there is a GPU, but no nvcc built the programs:" \
        "0 passed, 0 failed, $count suites skipped"
    exit 0
fi

if [ "$mode" = bench ]; then
    "$build/gpu/bench" "$results" "$commit" || exit 1
    echo
    echo "appended to $results"
    exit 0
fi

device=$("$build/gpu/device")
echo "$device, commit $commit"
# shellcheck disable=SC2086
last=$(sh tests/tools/run.sh $suites | tee /dev/stderr | tail -1)
status=1
case $last in *" 0 failed"*) status=0 ;; esac
BUILD=$build sh tests/cuda/generate.sh cuda || status=1
printf '%s\t%s\t%s\tgpu-test\t%s\n' "$(date -u +%F)" "$commit" "$device" "$last" >>"$results"
if command -v compute-sanitizer >/dev/null 2>&1; then
    clean=0 unclean=0
    for suite in $suites; do
        for tool in memcheck racecheck initcheck; do
            if compute-sanitizer --tool $tool --target-processes all --error-exitcode 9 "$suite" \
                >"$build/gpu/sanitizer.log" 2>&1; then
                clean=$((clean + 1))
            else
                unclean=$((unclean + 1)) status=1
                echo "FAILED $tool $(basename "$suite")"
                grep '=====' "$build/gpu/sanitizer.log" | head -20
            fi
        done
    done
    printf '%s\t%s\t%s\tcompute-sanitizer\t%d passed, %d failed\n' "$(date -u +%F)" "$commit" \
        "$device" $clean $unclean >>"$results"
    echo "compute-sanitizer: $clean passed, $unclean failed"
else
    echo "compute-sanitizer: skipped, there is none here"
fi
echo "appended to $results"
echo "$last"
exit $status
