"""Numbers that come out the same on every machine.

SPEC 0.5 asks for float32 arithmetic, binary16 scales and rounding half to even.  Python only
has doubles, so this module says how the smaller formats are reached from them:

* float32.  For + - * / and square root, computing in double and rounding once to float32 gives
  the correctly rounded float32 result, because 53 >= 2 * 24 + 2 (double rounding is innocuous).
  So `f32(a + b)` *is* the float32 sum of two float32 numbers.
* binary16 and bfloat16.  Rounded here by hand: scale by a power of two (exact), let Python round
  half to even (exact), scale back.  `self_test` compares with exact rationals and with the
  struct module, so two writings agree before any vector is written.
* exp, log, cos, sin.  The C library's last bit differs between machines, so none is used;
  Python's decimal module rounds correctly at any precision, and sine and cosine are summed here.

The random numbers are splitmix64 (Steele, Lea, Flood 2014): three lines, no state but a counter.
"""

import decimal
import math
import struct
from fractions import Fraction

INFINITY = float("inf")
NAN = float("nan")
DIGITS = decimal.Context(prec=50, Emin=-999999, Emax=999999)
decimal.setcontext(DIGITS)


class Refused(Exception):
    """The input is bad: `kind` is 'run' (file or data) or 'usage' (argument)."""

    def __init__(self, kind, reason):
        super().__init__(reason)
        self.kind = kind
        self.reason = reason


def f32(x):
    """The float32 nearest to a double, ties to even; beyond the range, infinity."""
    try:
        return struct.unpack("<f", struct.pack("<f", x))[0]
    except OverflowError:
        return math.copysign(INFINITY, x)


def f32_bits(x):
    return struct.unpack("<I", struct.pack("<f", x))[0]


def f32_from_bits(bits):
    return struct.unpack("<f", struct.pack("<I", bits))[0]


def round_even(x):
    """Nearest integer, ties to even (what float.__round__ does, exactly)."""
    return round(x)


def round_away(x):
    """Nearest integer, ties away from zero: the commonest mistake of quantizers."""
    return int(math.copysign(math.floor(abs(x) + 0.5), x))


def small_float(x, precision, lowest, highest, rounding=round_even):
    """Round to `precision` bits, no finer than 2**lowest; 2**highest and above is infinity."""
    if x == 0 or math.isnan(x) or math.isinf(x):
        return x
    exponent = math.frexp(x)[1]
    quantum = max(exponent - precision, lowest)
    units = rounding(math.ldexp(x, -quantum))
    result = math.copysign(math.ldexp(abs(units), quantum), x)
    return math.copysign(INFINITY, x) if abs(result) >= 2.0**highest else result


def half(x, rounding=round_even):
    """Binary16: 11 bits, finest step 2**-24, largest finite 65504."""
    return small_float(x, 11, -24, 16, rounding)


def half_bits(x):
    """Bit pattern of a value that binary16 holds exactly."""
    sign = 0x8000 if math.copysign(1.0, x) < 0 else 0
    x = abs(x)
    if math.isnan(x):
        return sign | 0x7E00
    if math.isinf(x):
        return sign | 0x7C00
    if x < 2.0**-14:
        return sign | int(x * 2**24)
    fraction, exponent = math.frexp(x)
    return sign | ((exponent + 14) << 10) | (int(fraction * 2048) - 1024)


def half_from_bits(bits):
    sign = -1.0 if bits & 0x8000 else 1.0
    exponent, fraction = (bits >> 10) & 31, bits & 1023
    if exponent == 31:
        return NAN if fraction else sign * INFINITY
    if exponent == 0:
        return sign * math.ldexp(fraction, -24)
    return sign * math.ldexp(1024 + fraction, exponent - 25)


def stored_half(x, where):
    """The binary16 of a value that has to be stored; refuses what half cannot hold (SPEC 0.5)."""
    if math.isnan(x) or math.isinf(x):
        raise Refused("run", "%s is not finite" % where)
    result = half(x)
    if math.isinf(result):
        raise Refused("run", "%s is %.9g, beyond what binary16 holds" % (where, x))
    return result


def bfloat16(x, rounding=round_even):
    """The upper half of a float32: 8 bits, same exponents."""
    return small_float(x, 8, -133, 128, rounding)


def bfloat16_bits(x):
    return f32_bits(x) >> 16


def big(x):
    """A double as an exact decimal."""
    return decimal.Decimal(x)


def exp(x):
    return DIGITS.exp(x)


def root(x):
    return DIGITS.sqrt(decimal.Decimal(x))


PI = decimal.Decimal(
    "3.14159265358979323846264338327950288419716939937510582097494459230781640628620899"
)


def cos_sin(angle):
    """Cosine and sine of a decimal angle: reduce by 2 pi, then the two power series."""
    with decimal.localcontext(DIGITS) as context:
        context.prec = 70
        turns = (angle / (2 * PI)).to_integral_value()
        x = angle - turns * 2 * PI
        term, cosine, sine, n = decimal.Decimal(1), decimal.Decimal(0), decimal.Decimal(0), 0
        while abs(term) > decimal.Decimal("1e-60") or n < 8:
            if n % 2 == 0:
                cosine += term if n % 4 == 0 else -term
            else:
                sine += term if n % 4 == 1 else -term
            n += 1
            term = term * x / n
        return cosine, sine


class Random:
    """splitmix64 and the few distributions the cases need."""

    MASK = (1 << 64) - 1

    def __init__(self, name):
        self.state = 0
        for byte in name.encode():
            self.state = (self.state * 0x100000001B3 + byte + 1) & self.MASK

    def bits(self):
        self.state = (self.state + 0x9E3779B97F4A7C15) & self.MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & self.MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & self.MASK
        return z ^ (z >> 31)

    def below(self, n):
        return self.bits() % n

    def uniform(self, low, high):
        """A float32 between low and high with three decimals (short in the files)."""
        return f32(round(low + (high - low) * self.below(1 << 24) / (1 << 24), 3))

    def noise(self, width=1.0):
        """Bell-shaped, about within +-3.5 width; three decimals."""
        total = sum(self.below(1 << 20) for _ in range(4)) / (1 << 20) - 2.0
        return f32(round(total * 1.732 * width, 3))

    def fine(self, low, high):
        """A float32 with all its digits."""
        return f32(low + (high - low) * self.below(1 << 40) / (1 << 40))

    def many(self, n, draw, *args):
        return [draw(*args) for _ in range(n)]


def rational_round(x, precision, lowest):
    """The slow, obvious way to do what small_float does: exact rationals, ties to even."""
    x = Fraction(x)
    if x == 0:
        return x
    size, quantum = abs(x), lowest
    quantum = max(
        lowest, size.numerator.bit_length() - size.denominator.bit_length() - precision - 1
    )
    while size >= Fraction(2) ** (quantum + precision):
        quantum += 1
    step = Fraction(2) ** quantum
    return round(x / step) * step


def self_test():
    """Two writings of every rounding agree on hard and on random inputs."""
    random = Random("self test")
    samples = [65504.0, 65519.996, 2.0**-24, 2.0**-25, 2.0**-14, 0.1, 1 / 3, 2049.0, 2051.0]
    for _ in range(300):
        samples.append(random.fine(-1, 1) * 2.0 ** (random.below(38) - 22))
    for x in samples:
        x = f32(x)
        h = half(x)
        assert Fraction(h) == rational_round(x, 11, -24), x
        assert half_bits(h) == struct.unpack("<H", struct.pack("<e", x))[0], x
        assert half_from_bits(half_bits(h)) == h, x
        assert Fraction(bfloat16(x)) == rational_round(x, 8, -133), x
        y = f32(random.fine(0.5, 3.0))
        for double, exact in (
            (x + y, Fraction(x) + Fraction(y)),
            (x - y, Fraction(x) - Fraction(y)),
            (x * y, Fraction(x) * Fraction(y)),
            (x / y, Fraction(x) / Fraction(y)),
        ):
            assert Fraction(f32(double)) == rational_round(exact, 24, -149), (x, y)
    assert math.isinf(half(65520.0)) and half(65519.996) == 65504.0
    cosine, sine = cos_sin(decimal.Decimal(1000))
    assert abs(cosine * cosine + sine * sine - 1) < decimal.Decimal("1e-48")
    assert abs(float(cosine) - 0.5623790762907029) < 1e-15
