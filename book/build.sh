#!/bin/sh
# build.sh: make the book with pandoc and weave.lua. Run it in the top folder.
#
#   sh book/build.sh                make build/book/ (BOOK=draft: regions may still be unshown;
#                                   PDF=no: no PDF even where TeX is installed)
#   sh book/build.sh stamp FILE...  write into results files the hashes of the sources they name
#   sh book/build.sh stale FILE...  list results files whose sources have changed since
#
# First one run over all chapters checks everything and leaves the woven book as book.json; then each
# page is cut out of that, which takes a blink. A book that fails its checks leaves the last one alone.
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

# ---- paper --------------------------------------------------------------------------------------

pdf_link=
pdf='skipped: lualatex is not installed (Debian: texlive-luatex texlive-latex-recommended lmodern)'
if [ "${PDF:-}" = no ]; then
    pdf='skipped: PDF=no'
elif command -v lualatex >/dev/null 2>&1; then
    SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || echo 0)
    export SOURCE_DATE_EPOCH
    if grep -q '\.svg$' "$work/images" && ! command -v rsvg-convert >/dev/null 2>&1; then
        pdf='skipped: rsvg-convert is not installed (Debian: librsvg2-bin)'
    else
        if WEAVE_PAPER=1 run single --from=json "$work/book.json" --pdf-engine=lualatex \
            --resource-path="$out.new" --syntax-definition="$here/cuda.xml" --toc \
            --variable=documentclass:report --variable=papersize:a4 --variable=fontsize:10pt \
            --variable=geometry:margin=24mm --include-in-header="$here/book.tex" \
            --output="$out.new/book.pdf" >"$work/pdf.log" 2>&1; then
            pdf=$out/book.pdf pdf_link=book.pdf
        else
            pdf="not made: lualatex failed, see $work/pdf.log"
        fi
    fi
fi

# ---- pages --------------------------------------------------------------------------------------

html() { # MODE FILE: one page of HTML
    # shellcheck disable=SC2086
    run "$1" --from=json "$work/book.json" --to=html5 --mathml --fail-if-warnings --section-divs \
        --template="$here/template.html" --syntax-definition="$here/cuda.xml" \
        --output="$out.new/$2" ${pdf_link:+--metadata=pdf:"$pdf_link"}
    sed -E -f "$here/html.sed" "$out.new/$2" >"$work/page.html"
    mv "$work/page.html" "$out.new/$2"
}
html index index.html
html single single.html
for page in $(cat "$work/pages") references.html; do
    WEAVE_PAGE=$page html page "$page"
done
for file in $(cat "$work/sources"); do
    WEAVE_PAGE=$file html source "source/$(printf %s "$file" | tr / -).html"
done

rm -rf "$out"
mv "$out.new" "$out"
printf 'book: %s pages in %s (start with %s/index.html)\nPDF:  %s\n' \
    "$(find "$out" -name '*.html' | wc -l | tr -d ' ')" "$out" "$out" "$pdf"
