"""The layers of keep.py: a stage's set is one position, its own number, so the sets tell who speaks."""

import keep
from cases import EXACT, case
from exact import Random


def speaks(which, all_layers, at, L):
    stages = [{"layer": layer} for layer in at]
    sets = [[s] for s in range(len(at))]
    kept = keep.kvsink_layers(stages, sets, which, "all" if all_layers else "after", L, "")
    return [int(s in layer) for layer in kept for s in range(len(at))]


def cases(seed):
    random = Random("06.4" + seed)
    for which, all_layers, catches in (
        ("each", 0, "A later stage replaces the earlier one from the layer behind it on."),
        ("join", 0, "A later stage is added to the earlier ones."),
        ("union", 0, "All sets together hold behind the first stage."),
        ("each", 1, "Layers up to the first stage take the first stage's set."),
        ("join", 1, "Layers up to the first stage take the first stage's set."),
        ("union", 1, "With union, late stages hold in early layers as well."),
    ):
        for name, at, L in (
            ("the model of the chapter", [2, 11], 30),
            ("three stages", [1, 4 + random.below(3), 9], 13),
            ("one stage, in the last layer", [6], 7),
        ):
            yield case("%s%s: %s" % (which, "/all" if all_layers else "", name),
                       {"which": which, "all": all_layers, "stages": at, "L": L},
                       {"speaks": speaks(which, all_layers, at, L)}, EXACT, catches)
