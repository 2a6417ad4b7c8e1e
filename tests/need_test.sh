#!/bin/sh
# need_test.sh: what tests/tools/need.sh says where it cannot install anything.
#
# Three machines are played with a PATH of a few links: one without apt-get, one with apt-get whose
# user is neither root nor has sudo, one where an installation fails. Nothing is installed.
set -u
work=$(mktemp -d "${TMPDIR:-/tmp}/need-test.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
passed=0 failed=0

machine() { # name program...: a PATH with these programs only
    mkdir -p "$work/$1"
    here=$work/$1
    shift
    for program in sh cat printf mktemp rm tail env "$@"; do
        ln -sf "$(command -v "$program")" "$here/$program"
    done
}

stub() { # machine program text
    printf '#!/bin/sh\n%s\n' "$3" >"$work/$1/$2"
    chmod +x "$work/$1/$2"
}

expect() { # what machine status words...
    what=$1 path=$work/$2 status=$3
    shift 3
    PATH=$path "$path/sh" tests/tools/need.sh demo build >"$work/out" 2>&1 </dev/null
    got=$?
    for words in "$@"; do
        grep -qF -- "$words" "$work/out" || got="$got, without '$words'"
    done
    if [ "$got" = "$status" ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        printf 'FAIL %s: status %s instead of %s\n' "$what" "$got" "$status"
        sed 's/^/    /' "$work/out"
    fi
}

machine plain id
expect "no apt-get: the exact list, and stop" plain 1 'no apt-get here' 'the C compiler' \
    '    gcc libc6-dev libopenblas-dev libpcre2-dev libcjson-dev libstb-dev'

machine user
stub user apt-get 'exit 0'
stub user id 'echo 1000'
expect "no root and no sudo: what to run" user 1 'not root and there is no sudo' \
    'apt-get install --no-install-recommends gcc libc6-dev'

machine broken
stub broken apt-get 'echo "E: no such package"; exit 100'
stub broken id 'echo 0'
expect "a failed installation: its last words" broken 1 'Installation failed' 'E: no such package'

machine sudo
stub sudo apt-get 'exit 7'
stub sudo id 'echo 1000'
stub sudo sudo 'echo "sudo was asked: $*" >&2; exit 0'
expect "with sudo: installs" sudo 0 'Installing them now with sudo apt-get' 'Installed.'

printf 'need_test %18d passed' $passed
[ $failed -gt 0 ] && printf ', %d FAILED' $failed
printf '\n'
[ $failed -eq 0 ]
