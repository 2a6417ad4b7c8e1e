#!/bin/sh
# texts.sh DIRECTORY: unpack the English texts that experiments run on.
#
# None is committed: they come from Debian packages. There are two sets, and no text is in both:
# thresholds, stages and rules are chosen on the first, figures are reported on the second.
#
#   to choose by  gpl3      a legal text, the same on every Debian and Ubuntu
#                 kjv       old English, which language models know by heart
#                 faq       modern prose: questions and answers about Debian
#                 faq-packed.txt, faq-chat.json: passages and conversations made of it
#   to report on  devref    modern technical prose, the Debian Developer's Reference
#                 jargon    modern essays and stories, the Jargon File without its lexicon
#                 packed-2, -5, -9, -17: passages of devref and jargon in turn, so long that
#                           --join eot:255, eot:101, eot:56, eot:29 (N words are N tokens or more)
#                           puts that many into each window of 512
#                 chat-2.json, -8, -20: conversations of so many messages one behind the
#                           other, each begun by a system message; a conversation is just short
#                           of 512 tokens
set -eu
mkdir -p "$1"

put() { # name: standard input becomes the file, whole or not at all
    cat >"$1.new"
    if [ -s "$1.new" ]; then mv "$1.new" "$1"; else rm -f "$1.new"; fi
}

unpack() { # a compressed file; its no-break spaces become ordinary ones
    gzip -dc "$1" | LC_ALL=C sed "s/$(printf '\302\240')/ /g"
}

# FILE WORDS: a line for each passage: whole paragraphs, as many as make WORDS words. Tables, which have
# the bytes of box drawing, and paragraphs of a few words (headings) are left out.
passages() {
    LC_ALL=C awk -v least="$2" 'BEGIN { RS = "" }
        /\342\224/ || NF < 8 { next }
        {
            $1 = $1
            text = text (n ? " " : "") $0
            n += NF
        }
        n >= least { print text; text = ""; n = 0 }' "$1"
}

# The lines of two files in turn, as far as both reach, an empty line behind each.
in_turn() {
    LC_ALL=C awk 'NR == FNR { first[NR] = $0; n = NR; next }
        FNR <= n { print first[FNR] "\n\n" $0 "\n" }' "$1" "$2"
}

# N WORDS: passages on standard input, cut to WORDS words, become conversations of N messages. The user
# says the first quarter of a passage, the assistant the rest.
conversations() {
    LC_ALL=C sed 's/[\\"]/\\&/g' | LC_ALL=C awk -v messages="$1" -v most="$2" '
        function say(role, from, to,    text, i) {
            for (i = from; i <= to; i++) text = text (i > from ? " " : "") $i
            printf "%s\n{\"role\": \"%s\", \"content\": \"%s\"}", between, role, text
            between = ","
        }
        BEGIN { printf "[" }
        {
            if ((NR - 1) % (messages / 2) == 0) {
                printf "%s\n{\"role\": \"system\", \"content\": \"You are a helpful assistant.\"}", between
                between = ","
            }
            n = NF < most ? NF : most
            cut = int(n / 4) + 1
            say("user", 1, cut)
            say("assistant", cut + 1, n)
        }
        END { print "\n]" }'
}

# ---- whole texts --------------------------------------------------------------------------------

[ -e "$1/gpl3.txt" ] || put "$1/gpl3.txt" </usr/share/common-licenses/GPL-3
reference=/usr/share/developers-reference/developers-reference.txt.gz
if [ ! -e "$1/devref.txt" ] && [ -e $reference ]; then
    # begin with the first chapter: the table of contents is no prose
    gzip -dc $reference | sed -n '/^1\. Scope of This Document/,$p' | put "$1/devref.txt"
fi
if [ ! -e "$1/kjv.txt" ] && command -v bible >/dev/null 2>&1; then
    bible -f -l72 Psa1:1-Psa60:99 2>/dev/null | put "$1/kjv.txt" || true
fi
faq=/usr/share/doc/debian/FAQ/debian-faq.en.txt.gz
if [ ! -e "$1/faq.txt" ] && [ -e $faq ]; then
    unpack $faq | sed -n '/^Chapter 1\. Definitions/,$p' | put "$1/faq.txt"
fi
jargon=/usr/share/doc/jargon-text/jargon.txt.gz
if [ ! -e "$1/jargon.txt" ] && [ -e $jargon ]; then
    # the essays before the lexicon (without a table of versions), and the stories behind it
    unpack $jargon | LC_ALL=C sed -n '/^Chapter 1\. Hacker Slang/,/^ *Part II\. The Jargon/p
        /^Appendix A\. Hacker Folklore/,/^Appendix C\./p' |
        LC_ALL=C grep -v -e "$(printf '\342\224')" -e '^ *Part II\.' -e '^Appendix C\.' |
        put "$1/jargon.txt"
fi

# ---- passages and conversations -----------------------------------------------------------------

if [ -e "$1/devref.txt" ] && [ -e "$1/jargon.txt" ]; then
    for size in 2:255 5:101 9:56 17:29; do
        to=$1/packed-${size%:*}.txt
        [ ! -e "$to" ] || continue
        for text in devref jargon; do passages "$1/$text.txt" "${size#*:}" >"$1/$text.lines"; done
        in_turn "$1/devref.lines" "$1/jargon.lines" | put "$to"
    done
    for size in 2:280 8:70 20:24; do
        to=$1/chat-${size%:*}.json
        [ ! -e "$to" ] || continue
        for text in devref jargon; do passages "$1/$text.txt" "${size#*:}" >"$1/$text.lines"; done
        in_turn "$1/devref.lines" "$1/jargon.lines" | grep . |
            conversations "${size%:*}" "${size#*:}" | put "$to"
    done
    rm -f "$1/devref.lines" "$1/jargon.lines"
fi
if [ -e "$1/faq.txt" ]; then
    [ -e "$1/faq-packed.txt" ] || passages "$1/faq.txt" 56 | sed G | put "$1/faq-packed.txt"
    [ -e "$1/faq-chat.json" ] || passages "$1/faq.txt" 70 | conversations 8 70 |
        put "$1/faq-chat.json"
fi
ls "$1"
