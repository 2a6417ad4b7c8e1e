"""Numbers that follow from the formulas of the chapter."""

import math

from cases import EXACT, case, within


def cases(seed):
    C = 576
    even = math.sqrt(C)
    mean = (10 * even) ** 2 / C
    yield case("even", {}, {"even": even}, within(0.1), "The norm divides by the root of a mean.")
    yield case("share", {}, {"share": mean / (mean + 1)}, within(0.002))
    yield case("shrunk", {}, {"shrunk": math.sqrt(mean + 1)}, within(0.02),
               "Both terms stand under the root.")
    yield case("bytes", {}, {"bytes": 5 * 2 * 32 * 128 * 2 * 32}, within(1000),
               "A key and a value, of two bytes a number, in every layer.")
    yield case("cap", {}, {"cap": max(5, 139 // 20)}, EXACT, "One in twenty is rounded down.")
