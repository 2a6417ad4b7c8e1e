#!/bin/sh
# figures.sh: run the short programs of chapters again whose results the book quotes. Run it in the top
# folder; `make figures` sees to the model, the texts and the profile. (What takes hours is the study's.)
#
#   figures.sh [NN ...]    of all chapters, or of these; afterwards git diff shows what has changed
set -eu
BUILD=${BUILD:-build} PYTHON=${PYTHON:-python3}
model=$BUILD/llm/SmolLM2-135M-Instruct.Q4_1.gguf profile=$BUILD/study/profile.txt
export BUILD

measure() { # NN
    case $1 in
    00) sh chapters/00-start/demo.sh ;;
    01) sh chapters/01-softmax-sinks/measure.sh ;;
    02) sh chapters/02-outlier-evolution/anatomy.sh ;;
    04) sh chapters/04-packed-cache/weigh.sh ;;
    05) sh chapters/05-preserve-first-n/choices.sh ;;
    06) sh chapters/06-kvsink/kernel.sh
        "$PYTHON" chapters/06-kvsink/kept.py "$BUILD/kvsink" "$model" "$profile" ;;
    07) make -s --no-print-directory cusim-lib "$BUILD/test-cuda/decode_counts"
        "$PYTHON" chapters/07-fused-decode/counts.py "$BUILD" ;;
    91) sh chapters/91-simulator/first.sh ;;
    *) echo "figures.sh: no short programs in chapter '$1'; expected 00, 01, 02, 04, 05, 06, 07 or 91" >&2
        exit 2 ;;
    esac
}

for chapter in ${*:-00 01 02 04 05 06 07 91}; do
    start=$(date +%s)
    measure "$chapter" >/dev/null
    printf 'chapter %s  measured in %d s\n' "$chapter" $(($(date +%s) - start))
done
