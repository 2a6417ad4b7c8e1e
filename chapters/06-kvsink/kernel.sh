#!/bin/sh
# kernel.sh: what prediction asks of memory, counted by the simulator (results/kernel.tsv). Run it in
# the top folder.
set -eu
here=chapters/06-kvsink
BUILD=${BUILD:-build}
make --no-print-directory "$BUILD/libkvcuda-sim.a" "$BUILD/libkv.a" >/dev/null
cc -std=c11 -Wall -Wextra -O2 -Icuda -Iref -c $here/kernel.c -o "$BUILD/kernel-06.o"
c++ "$BUILD/kernel-06.o" "$BUILD/libkvcuda-sim.a" "$BUILD/libkv.a" -o "$BUILD/kernel-06" -lm -ldl
{
    echo "# command: $here/kernel.sh"
    echo "# depends: cuda/kvsink.cu"
    echo "# depends: $here/kernel.c"
    "$BUILD/kernel-06"
} >$here/results/kernel.tsv
sh book/build.sh stamp $here/results/kernel.tsv
