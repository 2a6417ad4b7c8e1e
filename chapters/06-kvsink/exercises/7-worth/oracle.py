"""What the study found."""

from cases import case, result, within

RULES = "chapters/06-kvsink/results/rules.tsv"


def cases(seed):
    yield case("plain", {}, {"plain": result(RULES, "dkl", row="all-layers/plain/k2v2/kvsink:5@11/all")},
               within(0.05), "Both rules keep the first token; what else is there to keep behind layer 11?")
    yield case("packed", {}, {"packed": result(RULES, "dkl", row="all-layers/packed/k2v2/kvsink:5@11/all")},
               within(0.05), "The first five tokens of a window are no sinks but for one.")
    yield case("random", {}, {"random": result(RULES, "dkl", row="published/plain/k2v2/random:5:1")},
               within(0.1), "Five tokens by chance are hardly ever sinks.")
    yield case("early", {}, {"early": result(RULES, "dkl", row="early-layers/plain/k2v2/kvsink:5@11")},
               within(0.05), "The model has two stages.")
    yield case("seventeen", {},
               {"seventeen": result("chapters/06-kvsink/results/packed.tsv", "kept",
                                    row="packed/seventeen/k2v2/kvsink:auto@11/all")},
               within(2), "Every passage begins with a sink.")
