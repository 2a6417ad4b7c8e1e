#!/bin/sh
# run.sh BINARY...: run Criterion suites one after the other and add up what they say.
#
# Criterion's own summary does not mention skipped tests, so each suite writes TAP to a file and we
# count ourselves. A suite that dies before its report is a failure. The last line is the verdict.
set -u
passed=0 failed=0 skipped=0
tap=$(mktemp) log=$(mktemp)
trap 'rm -f "$tap" "$log"' EXIT
for suite in "$@"; do
    name=$(basename "$suite")
    : >"$tap"
    "$suite" --tap="$tap" -j1 >"$log" 2>&1
    status=$?
    # "ok - name # SKIP why" is a skip
    s=$(grep -ciE '^(not )?ok .*# *skip' "$tap")
    o=$(grep -cE '^ok ' "$tap")
    f=$(grep -E '^not ok ' "$tap" | grep -civE '# *skip')
    o=$((o - $(grep -ciE '^ok .*# *skip' "$tap")))
    if [ $status -ne 0 ] && [ "$f" -eq 0 ]; then
        f=1
    fi
    passed=$((passed + o)) failed=$((failed + f)) skipped=$((skipped + s))
    note=
    [ "$s" -gt 0 ] && note=", $s skipped"
    if [ "$f" -gt 0 ]; then
        printf '%-20s %3d passed, %d FAILED%s\n' "$name" "$o" "$f" "$note"
        sed 's/^/    /' "$log" | head -60
        grep -E '^not ok|^ +[^ ]' "$tap" | sed 's/^/    /' | head -60
    else
        printf '%-20s %3d passed%s\n' "$name" "$o" "$note"
    fi
    grep -iE '# *skip' "$tap" | sed 's/^.*- /    skipped: /'
done
printf '\n%d passed, %d failed, %d skipped\n' $passed $failed $skipped
[ $failed -eq 0 ] && [ $passed -gt 0 ]
