#!/bin/sh
# choices.sh: which tokens of one small text do rules choose? Run it in the top folder, behind
# `make study`, whose model and profile it uses.
#
#   choices.txt  what attention:5 keeps, layer by layer: the text as it is, and with an end-of-text
#                token in front of each passage
#   marks.tsv    every token of both, and which of them pass the threshold of each stage
set -eu
here=chapters/05-preserve-first-n
model=build/llm/SmolLM2-135M-Instruct.Q4_1.gguf profile=build/study/profile.txt
packed=build/chapters/05-preserve-first-n/packed.txt
mkdir -p "$(dirname $packed)"
awk 'BEGIN { RS = ""; ORS = "" } { printf "<|endoftext|>%s", $0 }' $here/passages.txt >$packed

header() { # COMMAND: the first lines of a results file
    echo "# command: $1"
    echo "# model: SmolLM2-135M-Instruct Q4_1"
    echo "# text: passages.txt, ours"
    echo "# long: yes"
    for source in $here/choices.sh $here/passages.txt ref/attention.c ref/keep.c ref/keep_score.c \
        ref/kvsink.c ref/softmax.c ref/transformer.c tinymodels/cmd_predict.c tinymodels/evidence.c; do
        echo "# depends: $source"
    done
}

ask() { # NAME COMMAND...: kvsink COMMAND on the text as it is, or packed
    name=$1
    shift
    if [ "$name" = plain ]; then set -- "$@" --file $here/passages.txt --bos yes
    else set -- "$@" --file $packed --special --bos no; fi
    command=$1
    shift
    build/kvsink "$command" $model "$@"
}

chosen() { # NAME: what the rule of the stages and attention:5 choose
    ask "$1" predict --profile $profile --keep attention:5 --threads 1
}

marks() { # NAME: rows of marks.tsv
    json=$(ask "$1" predict --profile $profile --keep kvsink:auto@union/all --threads 1 --json)
    found() { # LAYER: the stage's positions
        printf '%s\n' "$json" | sed -n "s/.*\"layer\":$1,\"channel\":[0-9]*,\"positions\":\[\([0-9,]*\)\].*/\1/p"
    }
    ask "$1" tokens | awk -v name="$1" -v early="$(found 2)" -v late="$(found 11)" '
        function has(list, at) { return index("," list ",", "," at ",") > 0 }
        NR > 1 && /\047/ {
            from = index($0, "\047")
            text = substr($0, from)
            sub(/\047[^\047]*$/, "\047", text)
            printf "%s/%d\t%d\t%s\t%d\t%d\n", name, $1, $2, text, has(early, $1), has(late, $1)
        }'
}

{
    header 'kvsink predict MODEL --file passages.txt --profile PROFILE --keep attention:5'
    echo 'The text as it is'
    echo
    chosen plain
    echo
    echo 'The same passages, each behind an end-of-text token'
    echo
    chosen packed
} >$here/results/choices.txt
{
    header 'sh chapters/05-preserve-first-n/choices.sh'
    printf 'row\tid\tpiece\tstage2\tstage11\n'
    marks plain
    marks packed
} >$here/results/marks.tsv
sh book/build.sh stamp $here/results/choices.txt $here/results/marks.tsv
