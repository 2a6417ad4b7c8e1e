"""Words of channels, with a budget of one read of each sector of codes."""

import packing
from cases import case, sectors
from exact import Random


def cases(seed):
    random = Random("04.6" + seed)
    for name, tokens, channels, catches in (
        ("one word", 16, 1, ""),
        ("two words a channel", 32, 32, "Words of one channel follow each other."),
        ("33 channels", 48, 33, "Channels need not end where a warp ends."),
        ("a head of 64", 256, 64, "Neighbouring lanes should read neighbouring codes."),
        ("a row of 192", 128, 192, "Neighbouring lanes should read neighbouring codes."),
    ):
        codes = random.many(tokens * channels, random.below, 4)
        codes[0] = codes[-1] = 3
        words = []
        for c in range(channels):
            words += packing.words_of(codes[c::channels], 2)
        least = sectors(tokens * channels, 1)
        # where rows do not begin at a sector, a warp meets two of them, and neighbours share them
        slack = 0 if channels % 32 == 0 else tokens * (channels // 32 * 2 + 2)
        yield case(name, {"codes": codes, "T": tokens, "C": channels}, {"words": words}, catches=catches,
                   loads=least + slack, least=least)
