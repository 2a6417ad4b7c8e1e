#!/bin/sh
# window.sh: one window of two texts through the real packed cache: a prompt of 256 tokens, then token by
# token. Needs make llm and make study's profile; about ten minutes. Run it in the top folder. (streams.sweep
# is the same on more windows, with their errors.)
set -eu
here=chapters/04-packed-cache
KVSINK=${KVSINK:-build/kvsink}
model=build/llm/SmolLM2-135M-Instruct.Q4_1.gguf profile=build/study/profile.txt

member() { # JSON NAME
    printf '%s\n' "$1" | tr ',{' '\n\n' | sed -n "s/.*\"$2\": *\"\{0,1\}\([^\"}]*\).*/\1/p" | head -n 1
}

row() { # NAME eval-arguments...
    name=$1
    shift
    json=$("$KVSINK" eval $model --profile $profile --windows 1 --stream 256 --json "$@" 2>/dev/null)
    printf '%s\t%.4g\t%.4g\t%.4g\t%.4g\t%s\n' "$name" "$(member "$json" ppl16)" "$(member "$json" ppl)" \
        "$(member "$json" kl)" "$(member "$json" bits)" "$(member "$json" kept)"
}

{
    echo "# command: sh $here/window.sh"
    printf '# depends: %s\n' ref/cache.c ref/cache_setup.c ref/cache_read.c ref/quantize.c ref/kivi.c \
        ref/kvsink.c tinymodels/memory.c tinymodels/eval.c
    echo "# model: SmolLM2-135M-Instruct Q4_1"
    echo "# text: jargon.txt, packed-5.txt"
    echo "# long: yes"
    printf 'row\tppl16\tppl\tkl\tbits\tkept\n'
    for text in plain packed; do
        file='--file build/texts/jargon.txt'
        [ $text = plain ] || file='--file build/texts/packed-5.txt --join eot:101'
        for keep in none kvsink:best; do
            # shellcheck disable=SC2086
            row $text/kivi-2/$keep $file --cache kivi-2 --keep $keep
            # shellcheck disable=SC2086
            row $text/recent-0/$keep $file --keys 2:channel:32 --values 2:token:32 --recent 0 --keep $keep
        done
    done
} >$here/results/window.tsv
sh book/build.sh stamp $here/results/window.tsv
