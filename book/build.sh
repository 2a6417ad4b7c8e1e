#!/bin/sh
# build.sh: make the book with pandoc and weave.lua. Run it in the top folder.
#
#   sh book/build.sh                make build/book/ (BOOK=draft: regions may still be unshown;
#                                   PDF=no: no PDF even where TeX is installed)
#   sh book/build.sh stamp FILE...  write into results files the hashes of the sources they name
#   sh book/build.sh stale FILE...  list results files whose sources have changed since
#   sh book/build.sh html MODE PAGE one page; the first form calls this for each
#
# First one run over all chapters checks everything and leaves the woven book as book.json; then each
# page is cut out of that, several at a time. A book that fails its checks leaves the last one alone.
set -eu

here=$(dirname "$0")
BUILD=${BUILD:-build}
out=$BUILD/book
work=$BUILD/book-work
weave=$here/weave.lua
export LC_ALL=C WEAVE_BUILD="$BUILD" WEAVE_OUT="$out.new" WEAVE_WORK="$work"
export WEAVE_BIB=book/kvsink.bib
mkdir -p "$work"

run() { # MODE pandoc-arguments...: one pandoc run of the filter
    WEAVE_MODE=$1
    export WEAVE_MODE
    shift
    pandoc --lua-filter="$weave" "$@"
}

case ${1:-} in
stamp | stale)
    mode=$1
    shift
    WEAVE_FILES=$(printf '%s\n' "$@") run "$mode" --from=markdown --to=plain --output=/dev/null /dev/null
    exit
    ;;
html) # MODE PAGE: one page of the woven book, into the folder of the one that is being made
    mode=$2 input=$work/book.json output=$3
    [ "$mode" != source ] || input=$work/front.json output=source/$(printf %s "$3" | tr / -).html
    page=$work/$(basename "$output")
    WEAVE_PAGE=$3
    export WEAVE_PAGE
    run "$mode" --from=json "$input" --to=html5 --mathml --fail-if-warnings --section-divs \
        --template="$here/template.html" --syntax-definition="$here/cuda.xml" \
        --output="$page" ${WEAVE_PDF:+--metadata=pdf:"$WEAVE_PDF"}
    sed -E -f "$here/html.sed" "$page" >"$out.new/$output"
    rm "$page"
    exit
    ;;
esac

# ---- weave --------------------------------------------------------------------------------------

if [ "${BOOK:-}" = draft ]; then
    export WEAVE_DRAFT=1
fi
WEAVE_SOURCES=$(find ref cuda -type f ! -name '.*' 2>/dev/null | sort) || :
export WEAVE_SOURCES
commit=$(git describe --always --dirty --abbrev=12 2>/dev/null || echo unknown)
title='Attention sinks and the quantized KV cache'
subtitle='A book you can run: why low-bit caches break on sinks, and how KVSink keeps them'
meta="--metadata=lang:en --metadata=commit:$commit"

chapters=$(find chapters -mindepth 2 -maxdepth 2 \( -name chapter.md -o -name exercises.md \) \
    2>/dev/null | sort) || :
# --quiet, because what pandoc would warn about is complained about with file and line
# shellcheck disable=SC2086
run weave --quiet --fail-if-warnings --from="$weave" ${chapters:-/dev/null} --to=json --output="$work/book.json" \
    --metadata=title:"$title" --metadata=subtitle:"$subtitle" $meta \
    --citeproc --bibliography="$WEAVE_BIB" --metadata=link-citations:true

# ---- what pages share ---------------------------------------------------------------------------

rm -rf "$out.new"
mkdir -p "$out.new/images" "$out.new/source"
cp "$here/book.css" "$here/book.js" "$out.new/"
while IFS='	' read -r from to; do
    [ -z "$from" ] || cp "$from" "$out.new/$to"
done <"$work/images"

# ---- paper, while the pages are made -------------------------------------------------------------

paper() { # the PDF, and in $work/pdf what came of it
    if [ "${PDF:-}" = no ]; then
        echo 'skipped: PDF=no'
    elif ! command -v lualatex >/dev/null 2>&1; then
        echo 'skipped: lualatex is not installed (Debian: texlive-luatex texlive-latex-recommended lmodern)'
    elif grep -q '\.svg$' "$work/images" && ! command -v rsvg-convert >/dev/null 2>&1; then
        echo 'skipped: rsvg-convert is not installed (Debian: librsvg2-bin)'
    elif WEAVE_PAPER=1 run single --from=json "$work/book.json" --pdf-engine=lualatex \
        --resource-path="$out.new" --syntax-definition="$here/cuda.xml" --toc \
        --variable=documentclass:report --variable=papersize:a4 --variable=fontsize:10pt \
        --variable=geometry:margin=24mm --include-in-header="$here/book.tex" \
        --output="$out.new/book.pdf" >"$work/pdf.log" 2>&1; then
        echo "$out/book.pdf"
    else
        echo "not made: lualatex failed, see $work/pdf.log"
    fi
}
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || echo 0)
export SOURCE_DATE_EPOCH
paper >"$work/pdf" &

# ---- pages --------------------------------------------------------------------------------------

# A page of a source file needs only what all pages share.
run front --from=json "$work/book.json" --to=json --output="$work/front.json"
{
    echo single single.html
    for page in $(cat "$work/pages") references.html; do echo page "$page"; done
    for file in $(cat "$work/sources"); do echo source "$file"; done
} | xargs -P "$(nproc 2>/dev/null || echo 1)" -n 2 sh "$0" html
wait
pdf=$(cat "$work/pdf")
[ "$pdf" != "$out/book.pdf" ] || export WEAVE_PDF=book.pdf
sh "$0" html index index.html

rm -rf "$out"
mv "$out.new" "$out"
printf 'book: %s pages in %s (start with %s/index.html)\nPDF:  %s\n' \
    "$(find "$out" -name '*.html' | wc -l | tr -d ' ')" "$out" "$out" "$pdf"
