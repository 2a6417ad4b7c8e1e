#!/bin/sh
# measure.sh: make this chapter's small results anew. (norms.tsv, summary.tsv and norms.png are the
# study's: make study.) Run it in the top folder:
#
#   sh chapters/01-softmax-sinks/measure.sh [sinks|idle|cost|scores] ...
#
#   sinks    sinks.txt, sinks.tsv, layers.tsv, sinks.png: the sinks of a real model (make llm) in one text
#   idle     idle.tsv: what a head can do that has nothing to say (idle.c)
#   cost     cost.tsv: what the kernels ask of memory, counted by the simulator (cost.c)
#   scores   scores.tsv: scores of sinks and of other tokens, estimated from norms.tsv
set -eu
here=chapters/01-softmax-sinks
to=$here/results
BUILD=${BUILD:-build}
model=$BUILD/llm/SmolLM2-135M-Instruct.Q4_1.gguf text=$BUILD/texts/jargon.txt

header() { # COMMAND SOURCE...: the first lines of a results file
    echo "# command: $1"
    shift
    printf '# depends: %s\n' "$@"
}

sinks() {
    make -s --no-print-directory "$BUILD/kvsink"
    command="kvsink sinks SmolLM2-135M-Instruct.Q4_1.gguf --file jargon.txt --ctx 256 --png sinks.png"
    about() {
        header "$command" ref/attention.c ref/sinks.c ref/softmax.c ref/transformer.c \
            tinymodels/analysis.c tinymodels/sinks_report.c
        echo "# long: yes"
    }
    "$BUILD/kvsink" sinks "$model" --file "$text" --ctx 256 --png "$here/sinks.png" >"$BUILD/sinks.txt"
    {
        about
        sed '/^picture:/d' "$BUILD/sinks.txt" | sed -e :a -e '/^\n*$/{$d;N;ba' -e '}'
    } >$to/sinks.txt
    # The two tables once more as rows and columns: tokens have spaces, so count from the right or
    # take the token out.
    {
        about
        printf 'position\teps05\teps1\teps2\teps3\talpha\n'
        awk '/^position/ {on = 1; next} on && NF == 0 {exit}
             on {print $1 "\t" $(NF-4) "\t" $(NF-3) "\t" $(NF-2) "\t" $(NF-1) "\t" $NF}' "$BUILD/sinks.txt"
    } >$to/sinks.tsv
    {
        about
        printf 'layer\tposition\talpha\tmost\tq\tk\tv\tcosine\tsinks\n'
        awk '/^layer/ {on = 1; next} on && NF == 0 {exit}
             on {last = $NF; sub(/\047.*\047/, "x"); print $1 "\t" $2 "\t" $4 "\t" $5 "\t" $6 "\t" $7 "\t" $8 \
                 "\t" $9 + 0 "\t" last}' "$BUILD/sinks.txt"
    } >$to/layers.tsv
    sh book/build.sh stamp $to/sinks.txt $to/sinks.tsv $to/layers.tsv
}

idle() {
    make -s --no-print-directory "$BUILD/libkv.a"
    ${CC:-cc} -std=c11 -O1 -ffp-contract=off -Iref $here/idle.c "$BUILD/libkv.a" -lm -o "$BUILD/idle"
    {
        header 'cc -Iref idle.c libkv.a -lm -o idle && ./idle' $here/idle.c ref/softmax.c ref/attention.c
        "$BUILD/idle"
    } >$to/idle.tsv
    sh book/build.sh stamp $to/idle.tsv
}

cost() {
    kernels="$BUILD/cuda/softmax.o $BUILD/cuda/sinks.o $BUILD/cuda/device.o $BUILD/libcusim.a"
    # shellcheck disable=SC2086
    make -s --no-print-directory $kernels
    ${CC:-cc} -std=c11 -O1 -Icuda -Iref -c $here/cost.c -o "$BUILD/cost.o"
    # shellcheck disable=SC2086
    ${CXX:-c++} "$BUILD/cost.o" $kernels -o "$BUILD/cost" -ldl
    {
        header 'cost.c, linked with the kernels and the simulator' $here/cost.c cuda/softmax.cu \
            cuda/sinks.cu cuda/sim/count.cpp cuda/sim/memory.cpp
        printf 'row\trequests\tbytes\tsectors\tsectors_a_request\tused\n'
        "$BUILD/cost" | awk '/^(softmax|sinks) k/ {name = $1 "/" $2}
            $1 == "s" || $1 == "p" || $1 == "rows" || $1 == "part" {
                if ($1 == "part") next
                print name "/" $1 "\t" $2 + $3 "\t" $5 "\t" $6 "\t" $7 "\t" $8}'
    } >$to/cost.tsv
    sh book/build.sh stamp $to/cost.tsv
}

# The mean score of a query with a key of some kind is about cos |q| |k| / sqrt(D), where |q| is that
# of the rest (who asks), and both lengths are those of one head: the layer's, divided by the root of
# the number of heads. 9 query heads, 3 key heads, D = 64.
scores() {
    {
        header 'measure.sh scores, from norms.tsv' $here/results/norms.tsv
        printf 'row\tfirst\tlater\trest\tgap\n'
        awk -F '\t' '/^plain\// {
                split($1, part, "/")
                layer = part[2]
                if (layer + 1 > layers) layers = layer + 1
                k[layer, part[3]] = $4
                cosine[layer, part[3]] = $6
                if (part[3] == "rest") q[layer] = $3
            }
            function score(layer, kind) {
                return cosine[layer, kind] * q[layer] * k[layer, kind] / sqrt(9 * 3 * 64)
            }
            END {
                for (l = 0; l < layers; l++) {
                    f = score(l, "first"); o = score(l, "later"); r = score(l, "rest")
                    printf "plain/%d\t%.3g\t%.3g\t%.3g\t%.3g\n", l, f, o, r, (f > o ? f : o) - r
                }
            }' $to/norms.tsv
    } >$to/scores.tsv
    sh book/build.sh stamp $to/scores.tsv
}

[ $# -gt 0 ] || set -- sinks idle cost scores
for part in "$@"; do $part; done
