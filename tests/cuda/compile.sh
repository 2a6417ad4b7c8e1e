#!/bin/sh
# compile.sh NVCC FILE.cu...: does each kernel file compile alone, without a warning? Without nvcc
# that is skipped, and said. The last line counts.
set -u
nvcc=$1
shift
if ! "$nvcc" --version >/dev/null 2>&1; then
    printf 'nvcc: 0 passed, 0 failed, %d skipped: no nvcc here\n' $#
    exit 0
fi
passed=0 failed=0
out=$(mktemp)
trap 'rm -f "$out"' EXIT
for file in "$@"; do
    for arch in ${ARCHS:-sm_80 sm_90}; do
        if "$nvcc" -std=c++17 -arch="$arch" -Werror all-warnings -Icuda -Iref -cubin -o "$out" "$file"; then
            passed=$((passed + 1))
        else
            failed=$((failed + 1))
            echo "FAILED nvcc $arch $file"
        fi
    done
done
printf 'nvcc: %d passed, %d failed, 0 skipped\n' $passed $failed
[ $failed -eq 0 ]
