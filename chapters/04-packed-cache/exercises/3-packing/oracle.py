"""Groups of codes as one long number, as tests/oracle packs them."""

import packing
from cases import case
from exact import Random


def cases(seed):
    random = Random("04.3" + seed)
    for bits, n, stride, catches in (
        (2, 1, 1, ""), (2, 31, 1, ""), (2, 33, 3, "The codes of a group lie `stride` apart."), (4, 32, 1, ""),
        (8, 7, 2, ""),
        (3, 10, 1, "A reader must not look at a word behind the last."),
        (3, 11, 1, "Three bits do not divide a word: code 10 begins in one and ends in the next."),
        (3, 32, 1, "A reader must not look at a word behind the last."),
        (3, 43, 5, "The codes of a group lie `stride` apart, and some of them in two words."),
    ):
        group = random.many(n, random.below, 2 ** bits)
        group[0] = group[-1] = 2 ** bits - 1
        codes = random.many((n - 1) * stride + 1, random.below, 2 ** bits)
        codes[::stride] = group
        words = packing.words_of(group, bits)
        yield case("%d codes of %d bits, %d apart" % (n, bits, stride),
                   {"bits": bits, "stride": stride, "codes": codes},
                   {"size": len(words), "words": words, "back": group}, catches=catches)
