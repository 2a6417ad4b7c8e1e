#!/bin/sh
# anatomy.sh: what chapter 2 quotes besides its experiment: one sentence layer by layer, one outlier
# under the microscope (anatomy.c), the hand-built model with and without sinks, and what the kernels
# of cuda/outliers.cu ask of memory. Run it in the top folder; half a minute, and the real model in
# build/llm (make llm fetches it).
set -eu
here=chapters/02-outlier-evolution
out=$here/results
model=build/llm/SmolLM2-135M-Instruct.Q4_1.gguf
make --no-print-directory build/kvsink build/anatomy/02 build/cusim >/dev/null
mkdir -p build/anatomy

header() { # COMMAND, then the sources that decide the result
    echo "# command: $1"
    shift
    for source; do echo "# depends: $source"; done
}

text='Summer is warm. Winter is cold.'
{
    header "build/kvsink outliers $model --text '$text'" ref/attention.c ref/outliers.c ref/transformer.c
    echo '# model: SmolLM2-135M-Instruct.Q4_1.gguf'
    echo '# long: yes'
    build/kvsink outliers $model --text "$text"
} >$out/summer.txt

build/anatomy/02 $model $out

for sinks in several none; do
    build/kvsink handmade --sinks $sinks -o build/anatomy/$sinks.gguf --write-text build/anatomy/verse.txt >/dev/null
    {
        header "build/kvsink outliers $sinks.gguf --file verse.txt --ctx 127   (a model of build/kvsink handmade --sinks $sinks)" \
            ref/attention.c ref/outliers.c ref/transformer.c tinymodels/handmade.c
        build/kvsink outliers build/anatomy/$sinks.gguf --file build/anatomy/verse.txt --ctx 127
    } >$out/handmade-$sinks.txt
done

# 128 tokens of 576 channels; of the median the first of three rounds.
{
    cat cuda/outliers.cu
    maxima='token:kv_peak[128]=zero,channel:kv_peak[576]=zero'
    x='x:float[73728]=random'
    fault='fault:kv_fault[1]=zero'
    for launch in 'k01 grid=288' 'k02 grid=16' 'k03 grid=5,2'; do
        echo "//sim launch $launch block=256 args=$maxima,$x,rows:int=128,cols:int=576,$fault"
    done
    echo 'struct Zeros : Work { Zeros(double = 0) : Work{} {} };'
    for launch in 'm01 grid=288' 'm02 grid=288' 'm03 grid=72'; do
        echo "//sim launch $launch block=256 args=work:Zeros[1]=zero,$x,n:size_t=73728,shift:int=20,width:int=11,$fault"
    done
} >build/anatomy/outliers.cu
{
    header 'build/cusim outliers.cu --order ascending   (cuda/outliers.cu with launch lines, 128 tokens of 576 channels)' \
        cuda/outliers.cu cuda/sim/count.cpp cuda/sim/memory.cpp cuda/sim/sched.cpp
    build/cusim build/anatomy/outliers.cu --order ascending
} >$out/kernels.txt

sh book/build.sh stamp $out/summer.txt $out/writers.tsv $out/squares.tsv $out/norm.tsv \
    $out/weights.tsv $out/handmade-several.txt $out/handmade-none.txt $out/kernels.txt
