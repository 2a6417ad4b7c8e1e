"""Codes in 16 bits, taken apart."""

from cases import case
from exact import Random


def cases(seed):
    random = Random("07.4" + seed)
    upper = "Bits 10 to 14 of a binary16 number are its exponent: a code must not lie there."
    power = "Without exponent bits the mantissa counts units of 2^-24."
    for bits, n, catches in ((2, 1, power), (2, 33, upper), (4, 1, power), (4, 31, upper), (8, 1, power), (8, 13, upper)):
        w = random.many(n, random.below, 1 << 16)
        w[-1] = 0xffff
        half, code = [], []
        for x in w:
            for at in range(0, 16, bits):
                code.append(x >> at & (1 << bits) - 1)
                half.append(code[-1] << at % 8)
        yield case("%d words of codes of %d bits" % (n, bits), {"w": w, "bits": bits}, {"half": half, "code": code},
                   catches=catches)
