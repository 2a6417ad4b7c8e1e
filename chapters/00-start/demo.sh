#!/bin/sh
# demo.sh: run the demo and store what it prints as this chapter's results, and the figures of its
# table once more as rows and columns. Run it in the top folder.
set -eu
here=chapters/00-start
make --no-print-directory build/kvsink >/dev/null

header() { # COMMAND: the first lines of a results file
    echo "# command: $1"
    for source in ref/*.c tinymodels/handmade.c tinymodels/handmade_vocabulary.c tinymodels/cmd_demo.c; do
        echo "# depends: $source"
    done
}

member() { # JSON NAME
    printf '%s\n' "$1" | tr ',{' '\n\n' | sed -n "s/.*\"$2\": *\"\{0,1\}\([^\"}]*\).*/\1/p" | head -n 1
}

{
    header 'make demo'
    build/kvsink demo --out build/demo
} >$here/results/demo.txt

model=build/demo/handmade.gguf verse=build/demo/verse.txt profile=build/demo/profile.txt
{
    header "kvsink eval $model --file $verse --ctx 127 --keys 2:channel:64 --values 2:token:64 --keep KEEP"
    printf 'keep\ttokens\tkept\tppl16\tppl\n'
    for keep in none first:5 kvsink:5; do
        json=$(build/kvsink eval $model --file $verse --ctx 127 --keys 2:channel:64 \
            --values 2:token:64 --keep $keep --profile $profile --json)
        printf '%s\t%s\t%s\t%s\t%s\n' $keep "$(member "$json" tokens)" "$(member "$json" kept)" \
            "$(member "$json" ppl16)" "$(member "$json" ppl)"
    done
} >$here/results/tour.tsv

sh book/build.sh stamp $here/results/demo.txt $here/results/tour.tsv
cp build/demo/sinks.png $here/demo-sinks.png
cp build/demo/outliers.png $here/demo-outliers.png
