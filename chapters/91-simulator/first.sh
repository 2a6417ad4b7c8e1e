#!/bin/sh
# first.sh: what the simulator says of first.cu (results/first.txt). Run it in the top folder.
set -eu
here=chapters/91-simulator
BUILD=${BUILD:-build}
make -s --no-print-directory "$BUILD/cusim"
{
    echo "# command: build/cusim $here/first.cu"
    printf '# depends: %s\n' $here/first.cu cuda/sim/sched.cpp cuda/sim/memory.cpp cuda/sim/race.cpp \
        cuda/sim/count.cpp cuda/sim/report.cpp
    "$BUILD/cusim" $here/first.cu || [ $? -eq 1 ] # it finds something
} >$here/results/first.txt
sh book/build.sh stamp $here/results/first.txt
