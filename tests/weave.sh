#!/bin/sh
# weave.sh: test the weaver on the small book in tests/weave/good/.
#
# First the good book: it must come out, whole, twice the same, with every link alive. Then each way
# to be wrong: one edit to a copy of the good book, and the complaint that must come of it.
set -u
cd "$(dirname "$0")/.." || exit 1
top=$PWD
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
passed=0 failed=0 skipped=0
PYTHON=${PYTHON:-python3}

pass() { passed=$((passed + 1)); }
fail() {
    failed=$((failed + 1))
    printf 'FAILED: %s\n' "$1"
    [ ! -s "$place/log" ] || sed 's/^/    /' "$place/log"
}
check() { # NAME COMMAND...
    name=$1
    shift
    if "$@" >"$place/log" 2>&1; then pass; else fail "$name"; fi
}

fresh() { # a copy of the good book, with stamped results, as the current folder
    rm -rf "$place/book"
    cp -R "$top/tests/weave/good" "$place/book"
    cd "$place/book" || exit 1
    sh "$top/book/build.sh" stamp chapters/01-half/results/*
}
weave() { BUILD=build sh "$top/book/build.sh" "$@"; }
add() { printf '\n%s\n' "$1" >>chapters/91-more/chapter.md; } # text at the end of the last chapter

fresh
last=$(($(wc -l <chapters/91-more/chapter.md) + 2)) # the line that `add` writes to

# ---- the good book ------------------------------------------------------------------------------

check 'the good book is made' weave
cp -R build/book "$place/first"
check 'it is made again' weave
check 'two builds are equal, byte for byte' diff -r "$place/first" build/book
command -v lualatex >/dev/null 2>&1 || { skipped=$((skipped + 1)); echo 'skipped: PDF (no lualatex)'; }
export PDF=no
check 'its pages are sound' "$PYTHON" "$top/tests/weave/pages.py" build/book ref cuda

page=build/book/01-half.html
flat() { tr '\n' ' ' <"$1"; }
holds() { flat "$1" | grep -q -e "$2"; }
check 'numbered as in the file' holds $page 'id="ref/half.c:halve:line-6"'
check 'markers are dropped' sh -c "! grep -q '//@' $page"
check 'the caption names file and line' holds $page '<code>ref/half.c:6</code>'
check 'a listing links to its file' holds $page 'href="source/ref-half.c.html#L-6"'
check 'a listing links to its test' holds $page 'href="source/tests-test_half.c.html" class="test"'
check 'a recall links home' holds build/book/91-more.html 'href="01-half.html#ref/half.c:halve"'
check 'a file begun elsewhere says so' sh -c "
    sed -i '/half.c sum/d' chapters/01-half/chapter.md
    printf '\n\`\`\` {show=\"ref/half.c sum\"}\n\`\`\`\n' >>chapters/91-more/chapter.md
    BUILD=build sh '$top/book/build.sh' && tr '\n' ' ' <build/book/91-more.html |
        grep -q 'class=\"whence\">begins in *chapter *1'"
check 'a value from a table of results' holds $page '>2048.5</span>'
check 'a value rounded' holds $page '>1.2</span>'
check 'a value from JSON' holds $page '>1.3e-04</span>'
check 'formulas are MathML' holds $page '<math display="block"'
check 'CUDA is highlighted' holds build/book/91-more.html '<span class="kw">__global__</span>'
check 'a quoted function ends with itself' sh -c "! grep -q 'stars(3)' build/book/91-more.html"
check 'a citation links to its reference' holds $page 'href="references.html#ref-someone2024"'
check 'the search index has each section' holds build/book/search-index.js '"1.1.1 Tables and pictures"'
check 'headings are numbered' holds $page '<span class="number">1.2 </span>Exercises'

# ---- drafts -------------------------------------------------------------------------------------

fresh
sed -i '/cuda.half.cu launch/,/^```$/d' chapters/91-more/chapter.md
check 'a draft may leave regions out, and counts them' sh -c "
    BOOK=draft BUILD=build sh '$top/book/build.sh' | grep 'draft: 1 region in 1 file is not shown yet'"
add '[nowhere](#nowhere)'
check 'a draft may do nothing else' sh -c "! BOOK=draft BUILD=build sh '$top/book/build.sh'"
fresh
rm -r chapters
check 'a draft of nothing' env BOOK=draft BUILD=build sh "$top/book/build.sh"

# ---- results out of date ------------------------------------------------------------------------

fresh
sed -i 's/subnormal/tiny/; s/Add them up/Sum up/' ref/half.c
check 'a new comment makes no result stale' weave
check 'nor does the check for stale results see one' weave stale chapters/01-half/results/*
sed -i 's/s += /s -= /' ref/half.c
check 'stale results are listed' sh -c "
    BUILD=build sh '$top/book/build.sh' stale chapters/01-half/results/* 2>&1 |
        grep -c 'is stale: .ref/half.c. has changed since' | grep -qx 3"
check 'a draft may show stale results' env BOOK=draft BUILD=build sh "$top/book/build.sh"
sh "$top/book/build.sh" stamp chapters/01-half/results/[hr]*
check 'a long result may be stale' weave
check 'and is marked so' holds $page '<span class="stale">stale: '

# ---- each way to be wrong -----------------------------------------------------------------------

refuses() { # NAME COMPLAINT EDIT...: the edit must lead to exactly this complaint (or, with a
    # leading +, to this one among others)
    name=$1 wanted=$2
    shift 2
    fresh
    "$@"
    weave >"$place/log" 2>&1
    status=$?
    grep -v 'complaints*: no book was made' "$place/log" >"$place/complaints"
    case $wanted in
    +*) grep -qxF -e "${wanted#+}" "$place/complaints" ;;
    *) [ "$(cat "$place/complaints")" = "$wanted" ] ;;
    esac
    if [ $? -eq 0 ] && [ $status -eq 1 ] && [ ! -e build/book ]; then
        pass
    else
        fail "$name (wanted: $wanted)"
    fi
}
on() { file=$1; shift; sed -i "$@" "$file"; }
one=chapters/01-half/chapter.md
more=chapters/91-more/chapter.md
fence() { printf '\n``` {%s}\n%s```\n' "$1" "${2:-}" >>$more; }

refuses 'unknown file' "$more:$last: unknown file 'ref/none.c'" fence 'show="ref/none.c top"'
refuses 'unknown slug' "$more:$last: no region 'none' in ref/half.c" fence 'show="ref/half.c none"'
refuses 'slug defined twice' "+ref/half.c:12: region 'halve' is defined twice, first in line 5" \
    on ref/half.c 's/@ sum:/@ halve:/'
refuses 'region shown twice' \
    "$more:$last: region 'top' of ref/half.h is shown twice, first at $one:10" \
    fence 'show="ref/half.h top"'
refuses 'region never shown' "ref/half.h:4: region 'new' is not shown in any chapter" \
    sh -c 'printf "//@ new: Declare nothing\nint nothing;\n" >>ref/half.h'
refuses 'a file never shown' "cuda/sim/new.h:1: region 'top' is not shown in any chapter" \
    sh -c 'mkdir cuda/sim && printf "//@ top: Do nothing\nint nothing;\n" >cuda/sim/new.h'
refuses 'a line before the first opener' \
    "ref/half.h:1: the first line must open a region: '//@ top: Title'" on ref/half.h '1i /* hi */'
refuses 'a malformed opener' "ref/half.h:4: this is not a region opener: write '//@ slug: Title'" \
    sh -c 'echo "//@ Half a title" >>ref/half.h'
refuses 'empty region' "+ref/half.h:4: region 'new' is empty" \
    sh -c 'printf "//@ new: Declare nothing\n\n" >>ref/half.h'
refuses 'line too wide' 'ref/half.h:4: line is 81 columns wide; 80 fit the page' \
    sh -c 'printf "// %078d\n" 0 >>ref/half.h'
refuses 'tab' "ref/half.h:4: tab: its width on the page is anybody's guess; use spaces" \
    sh -c 'printf "\tint x;\n" >>ref/half.h'
refuses 'recall before the home' \
    "chapters/00-start/chapter.md:10: recall of region 'sum' of ref/half.c before it was shown" \
    sh -c 'printf "\n\`\`\` {recall=\"ref/half.c sum\"}\n\`\`\`\n" >>chapters/00-start/chapter.md'
refuses 'missing image' "$one:31: missing image 'none.svg'" on $one 's/picture.svg/none.svg/'
refuses 'image from elsewhere' \
    "$more:$last: image 'https://example.org/a.png' comes from elsewhere; the book must work alone" \
    add 'An ![image](https://example.org/a.png) here.'
refuses 'figure without alternative text' \
    "$one:31: figure 'picture.svg' has no alternative text: {alt=\"...\"}" \
    on $one 's/alt="A blue.*high" //'
refuses 'image without alternative text' \
    "$more:$last: image '../01-half/picture.svg' has no alternative text: ![text](file)" \
    add 'An ![](../01-half/picture.svg) image.'
refuses 'raw HTML' "$more:$last: raw html: the book comes in several forms" fence '=html' '<b>x</b>
'
refuses 'raw TeX' "$more:$last: raw latex: the book comes in several forms" add 'So `\bf x`{=latex}.'
refuses 'attributes that pandoc cannot read' \
    "$more:$last: these attributes cannot be read; write {name=\"value\"}, no quotes within: {show=\"a \"b\" c\"}" \
    fence 'show="a "b" c"'
refuses 'dead anchor' "$more:$last: dead link: no anchor '#none' in the book" add 'To [no](#none).'
refuses 'dead anchor in a chapter' \
    "$more:$last: dead link: no anchor '../01-half/chapter.md#none' in the book" \
    add 'To [no](../01-half/chapter.md#none).'
refuses 'dead link' "$more:$last: dead link: '../../ref/none.c' does not exist" \
    add 'To [no](../../ref/none.c).'
refuses 'dead link to a region' \
    "$more:$last: dead link: no anchor '../../ref/half.c#none' in the book" \
    add 'To [no](../../ref/half.c#none).'
refuses 'anchor defined twice' \
    "$more:$last: anchor '#begin' is defined twice, first at chapters/00-start/chapter.md:5" \
    add '## Again {#begin}'
refuses 'TeX that is no MathML' "$more:$last: this TeX does not become MathML: x \\foo{y}" \
    add 'Here $x \foo{y}$ fails.'
refuses 'unknown citation' "$more:$last: citation key '@nobody2020' is not in the bibliography" \
    add 'As shown before [@nobody2020].'
refuses 'output file missing' \
    "$more:$last: output file 'chapters/91-more/results/none.txt' does not exist" \
    fence 'output="results/none.txt"'
refuses 'output without lines' \
    "$one:33: output 'chapters/01-half/results/halves.txt': no line with 'none'" \
    on $one 's/to="large"/from="none"/'
refuses 'inline output without file' \
    "$more:$last: output 'results/none.txt a': 'chapters/91-more/results/none.txt' does not exist" \
    add 'It is []{output="results/none.txt a"}.'
refuses 'inline output without row' "$one:4: output 'results/halves.txt none': no row 'none'" \
    on $one 's/halves.txt total/halves.txt none/'
refuses 'inline output without column' \
    "$one:3: output 'results/halves.txt large none': no column 'none' in row 'large'" \
    on $one 's/large after/large none/'
refuses 'a JSON result without member' "$one:55: output 'results/run.json none': no member 'none'" \
    on $one 's/run.json kl/run.json none/'
refuses 'a result that is out of date' \
    "+chapters/01-half/results/halves.txt:2: this result is stale: 'ref/half.c' has changed since: run its program again" \
    on ref/half.c 's/s += /s -= /'
refuses 'quote without file' "$more:$last: quote: file 'tests/none.c' does not exist" \
    fence 'quote="tests/none.c"'
refuses 'quote without definition' "$more:$last: quote of tests/test_half.c: no definition of 'none'" \
    fence 'quote="tests/test_half.c none"'
refuses 'quote of code with regions' \
    "$more:$last: quote is for files without regions; 'ref/half.c' wants show or recall" \
    fence 'quote="ref/half.c sum"'
refuses 'a block with text' "+$more:$last: a recall block must be empty: the weaver fills it" \
    fence 'recall="ref/half.c sum"' 'int x;
'
refuses 'heading that skips a level' "$more:$last: heading of level 4 under one of level 1" \
    add '#### Deep'
refuses 'second title' "$more:$last: a second title: only the first heading of a chapter has one #" \
    add '# Again'
refuses 'no title' "$more:3: a chapter begins with its title: # Title" on $more '1s/.*/## No title/;1i \\n'

bare() { # NUMBER TEXT: the text must be refused for this number
    refuses "bare number in '$2'" "$more:$last: bare number '$1': a measured one comes from output=, \
a cited one needs [@key] in its sentence, a size goes into \$...\$ or \`...\`" add "$2"
}
bare 37.5 'It fell by 37.5 in all.'
bare 5 'It fell by 5% then.'
bare 5 'It fell by 5 percent.'
bare 5 'It fell by 5 per cent.'
bare 12 'It took 12 ms.'
bare 12 'It took 12ms, no more.'
bare 3 'It is 3× the size.'
bare 3 'It is 3 times faster.'
bare 21 'There are 21 of them.'
bare 1,024 'There are 1,024 of them.'
bare 135 'It has 135M parameters.'
bare 2024 'That was in 2024.'
bare .5 'Take .5 of it.'
bare 22 'Between 2 and 22.'
bare 64 'A range of 4–64 is fine.'
bare 40 '- an item with 40 things'
bare 40 'A **bold 40** one.'
bare 40 '| a | 40 |
|---|----|
| x |  4 |'
refuses 'bare number far down in a paragraph' \
    "$more:$((last + 2)): bare number '99': a measured one comes from output=, a cited one needs [@key] in its sentence, a size goes into \$...\$ or \`...\`" \
    add 'One 990 [@other2023]. And
`99` and x99 then
99.'
refuses 'a citation covers its sentence only' \
    "$more:$last: bare number '40': a measured one comes from output=, a cited one needs [@key] in its sentence, a size goes into \$...\$ or \`...\`" \
    add 'They found 30 [@other2023]. We found 40.'
refuses 'bare number in alternative text' \
    "$one:31: bare number '3.5' in alternative text: say what one sees" on $one 's/A blue box/A 3.5 box/'

fresh
add 'Fine: GPT-2, Q4_1, x86-64, H100, 2-bit, 32-bit, 20 things, chapter 3, `float32` at `3.5`,
$n = 4096$, 1st, 5 times, 8 bits, [30 March 2024]{.year}, 7.25 and 99% [@other2023, e.g. p. 30].
Halves are exact.^[He found 12.5% [@someone2024].]'
check 'numbers that may stand' weave

# ---- all at once --------------------------------------------------------------------------------

fresh
add 'To [no](#none) in 99 ways, $\foo$.'
printf '\tint x;\n' >>ref/half.h
weave >"$place/all" 2>&1
check 'all complaints come together' grep -x '4 complaints: no book was made.' "$place/all"

# ---- in a browser -------------------------------------------------------------------------------

fresh
browser=
for python in "$PYTHON" /usr/bin/python3; do
    [ -n "$browser" ] || ! "$python" -c 'import selenium' 2>/dev/null || browser=$python
done
if [ -n "$browser" ] && command -v chromedriver >/dev/null 2>&1; then
    # the accessibility checker axe comes from PyPI, into a folder of its own
    axe=$top/${BUILD:-build}/axe
    [ -d "$axe" ] || "$browser" -m pip install -q --no-deps --target "$axe" axe-core-python==0.1.0 \
        >/dev/null 2>&1 || rm -rf "$axe"
    if [ ! -d "$axe" ]; then
        skipped=$((skipped + 1))
        echo 'skipped: accessibility (PyPI: axe-core-python)'
    fi
    weave >/dev/null
    check 'in a browser' "$browser" "$top/tests/weave/browser.py" build/book "$axe/axe_core_python/axe.min.js"
else
    skipped=$((skipped + 1))
    echo 'skipped: in a browser (Debian: chromium chromium-driver python3-selenium python3-pip)'
fi

printf 'weave: %d passed, %d failed, %d skipped\n' $passed $failed $skipped
[ $failed -eq 0 ]
