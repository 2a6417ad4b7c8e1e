#!/bin/sh
# weigh.sh: run weigh.c and append.c and store what they print as this chapter's results. Run it in
# the top folder. The second runs in the simulator.
set -eu
here=chapters/04-packed-cache out=build/chapters/04-packed-cache
mkdir -p $out
kernels='build/cuda/append.o build/cuda/layout.o build/cuda/device.o'
# shellcheck disable=SC2086
make --no-print-directory build/libkv.a $kernels build/libcusim.a >/dev/null
cc -std=c11 -Wall -Wextra -O1 -Iref $here/weigh.c build/libkv.a -lm -o $out/weigh
cc -std=c11 -Wall -Wextra -O1 -Iref -Icuda -c $here/append.c -o $out/append.o
# shellcheck disable=SC2086
c++ $out/append.o $kernels build/libcusim.a build/libkv.a -lm -ldl -o $out/append

header() { # COMMAND SOURCE...: the first lines of a results file
    echo "# command: $1"
    shift
    for source in "$@"; do
        echo "# depends: $source"
    done
}

cache='ref/pack.c ref/cache_inside.h ref/cache_setup.c ref/cache.c ref/cache_read.c'
for what in kinds lengths table room; do
    # shellcheck disable=SC2086
    { header "$out/weigh $what" $here/weigh.c $cache; $out/weigh $what; } >$here/results/$what.tsv
done
# shellcheck disable=SC2086
{ header "$out/weigh stream" $here/weigh.c $cache; $out/weigh stream; } >$here/results/stream.txt

layout='cuda/layout.h cuda/layout.cuh cuda/layout.cu'
sources="cuda/append.cu cuda/append.cuh cuda/append_units.cuh cuda/quantize.cuh $layout"
counts='cuda/sim/count.cpp cuda/sim/memory.cpp cuda/sim/sched.cpp'
# shellcheck disable=SC2086
{ header "$out/append traffic" $here/append.c $sources $counts; $out/append traffic; } >$here/results/traffic.tsv
# shellcheck disable=SC2086
{ header "$out/append tile" $here/append.c $layout; $out/append tile; } \
    >$here/results/tile.txt
for version in 1 2 3; do
    # shellcheck disable=SC2086
    { header "$out/append report $version" $here/append.c $sources $counts; $out/append report $version; } \
        >$here/results/k0$version.txt
done
sh book/build.sh stamp $here/results/kinds.tsv $here/results/lengths.tsv $here/results/table.tsv $here/results/room.tsv \
    $here/results/stream.txt $here/results/traffic.tsv $here/results/tile.txt $here/results/k0?.txt
