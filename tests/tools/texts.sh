#!/bin/sh
# texts.sh DIRECTORY: unpack the English texts that experiments run on.
#
# None is committed: they come from Debian packages. devref is modern technical prose, kjv is old
# English that language models know by heart, gpl3 is a legal text that every Debian and Ubuntu has in
# the same version, so that its figures can be compared between machines.
set -eu
mkdir -p "$1"

put() { # name: standard input becomes the file, whole or not at all
    cat >"$1.new"
    if [ -s "$1.new" ]; then mv "$1.new" "$1"; else rm -f "$1.new"; fi
}

[ -e "$1/gpl3.txt" ] || put "$1/gpl3.txt" </usr/share/common-licenses/GPL-3
reference=/usr/share/developers-reference/developers-reference.txt.gz
if [ ! -e "$1/devref.txt" ] && [ -e $reference ]; then
    # begin with the first chapter: the table of contents is no prose
    gzip -dc $reference | sed -n '/^1\. Scope of This Document/,$p' | put "$1/devref.txt"
fi
if [ ! -e "$1/kjv.txt" ] && command -v bible >/dev/null 2>&1; then
    bible -f -l72 Psa1:1-Psa60:99 2>/dev/null | put "$1/kjv.txt" || true
fi
ls "$1"
