"""Keep rules that look at more than one channel: the arrays they read, the sets they choose.

All arrays come from the unquantized pass over the same tokens.

    toph:K        score[t] = max |X[t, c]|, X the input of the layer; the K largest
    rotatekv      the 20 largest entries of |X| (ties: the lower flat index), mapped to their tokens
    attention:K   score[t] = mean over heads of alpha[t], alpha[t] = mean of A[i, t] over the
                  queries i >= t that can see t; the K largest.  `-sinks`: the tokens that any
                  stage's `auto` set holds are not eligible
    bigkeys:K, smallkeys:K     score[t] = norm of t's key over all KV heads; K largest, K smallest
    random:K:SEED              splitmix64 from SEED; position = draw mod T, again if taken; the same
                               in every layer
    criterion:M   score[t] = mean over layers of a[l, t] - M times their population standard
                  deviation, a[l, t] the attention score; the 5 largest; one set for all layers

Ties of `toph`, `attention` and `bigkeys` are those of keep.top: within a thousandth of the K-th
largest values are equal, and the lower positions win; `smallkeys` is the mirror of it.  `criterion`
orders exactly, equals by position.
"""

import math

from exact import f32

MISTAKES = {
    "layer-output": (
        "toph and rotatekv read the output of the layer instead of its input, so each layer gets "
        "the next one's set."
    ),
    "toph-signed": "The largest value is taken instead of the largest magnitude.",
    "toph-norm": "The norm of the hidden state is taken instead of its largest magnitude.",
    "rotatekv-twenty-tokens": (
        "Twenty tokens are kept; the rule takes twenty entries, which usually lie in a few tokens."
    ),
    "rotatekv-once": "One layer's tokens are kept in all layers.",
    "alpha-by-all-queries": (
        "A key's attention is divided by T instead of by the number of queries that can see it, so "
        "late keys seem to get less."
    ),
    "alpha-without-itself": "The query of the key itself does not count.",
    "alpha-largest-head": "The largest head is taken instead of the mean over heads.",
    "sinks-eligible": "`-sinks` does not take the sinks out.",
    "sinks-of-one-stage": "`-sinks` takes out only the sinks of the largest stage.",
    "kth-before-exclusion": (
        "`-sinks` chooses K tokens first and then drops the sinks among them, so fewer remain."
    ),
    "keys-other-way-round": "bigkeys and smallkeys are exchanged.",
    "keys-largest-channel": "A key's largest magnitude is taken instead of its norm.",
    "keys-first-head": "The norm is taken over the first KV head instead of over all of them.",
    "smallkeys-tie": "Equal small norms are ordered by their last bits instead of by position.",
    "random-with-repeats": "A position that is drawn twice counts twice, so fewer are kept.",
    "random-per-layer": "Every layer draws its own positions.",
    "random-seed-hashed": "The first output is left out, or the state starts one step later.",
    "random-scaled": "position = draw * T / 2**64 instead of draw mod T.",
    "sample-deviation": "The deviation divides by layers - 1 instead of by layers.",
    "variance": "The variance is subtracted instead of the deviation.",
    "multiplier-ignored": "M is always 1.",
    "criterion-per-layer": "Each layer has a set of its own instead of one set for all.",
    "after-means-all": (
        "`/after` of a rule other than kvsink keeps in all layers; it means those behind the "
        "profile's largest stage."
    ),
    "after-first-stage": "`/after` takes the first stage instead of the one of largest ratio.",
}
DESCRIPTIONS = {
    "outlier-channel": "One channel is far larger than the others, at the sinks.",
    "sinks-elsewhere": "The attention sits on other tokens than the outliers.",
    "fewer-than-k": "Fewer tokens than K are eligible.",
    "no-stage": "A profile without stages.",
}

MASK = (1 << 64) - 1


def rows_of(flat, *shape):
    """A nested list of the given shape from a flat one."""
    if len(shape) == 1:
        return list(flat)
    size = len(flat) // shape[0]
    return [rows_of(flat[i * size : (i + 1) * size], *shape[1:]) for i in range(shape[0])]


# ---- scores ----


def row_peak(row, wrong=""):
    if wrong == "toph-signed":
        return max(row)
    if wrong == "toph-norm":
        return math.sqrt(sum(v * v for v in row))
    return max(abs(v) for v in row)


def row_norm(row, wrong=""):
    if wrong == "keys-largest-channel":
        return max(abs(v) for v in row)
    if wrong == "keys-first-head":
        row = row[: len(row) // 2]
    return math.sqrt(sum(v * v for v in row))


def alphas(rows, seen, wrong=""):
    """Mean attention of each of the first `seen` keys; rows [T][T] of one head, as far as seen."""
    out = []
    for t in range(seen):
        queries = range(t + 1 if wrong == "alpha-without-itself" and t + 1 < seen else t, seen)
        total = sum(rows[i][t] for i in queries)
        out.append(total / (seen if wrong == "alpha-by-all-queries" else len(queries)))
    return out


def attention_scores(heads, seen, wrong=""):
    """[t]: mean over heads of alpha."""
    each = [alphas(rows, seen, wrong) for rows in heads]
    if wrong == "alpha-largest-head":
        return [max(one[t] for one in each) for t in range(seen)]
    return [sum(one[t] for one in each) / len(each) for t in range(seen)]


def criterion_scores(a, multiplier, wrong=""):
    """a [L][t] -> [t]."""
    if wrong == "multiplier-ignored":
        multiplier = 1.0
    out = []
    for values in zip(*a):
        mean = sum(values) / len(values)
        squares = sum((v - mean) ** 2 for v in values)
        count = len(values) - 1 if wrong == "sample-deviation" and len(values) > 1 else len(values)
        spread = squares / count
        out.append(mean - multiplier * (spread if wrong == "variance" else math.sqrt(spread)))
    return out


# ---- sets ----


def five_best(scores):
    order = sorted(range(len(scores)), key=lambda t: (-scores[t], t))
    return sorted(order[:5])


def smallest(norms, k, wrong=""):
    if k >= len(norms):
        return list(range(len(norms)))
    if k == 0:
        return []
    if wrong == "smallkeys-tie":
        return sorted(sorted(range(len(norms)), key=lambda t: (norms[t], t))[:k])
    pivot = sorted(norms)[k - 1]
    equal = [t for t, v in enumerate(norms) if abs(v - pivot) <= 0.001 * pivot]
    below = [t for t, v in enumerate(norms) if v < pivot and t not in equal]
    return sorted(below + equal[: k - len(below)])


def rotatekv_tokens(x, width, wrong=""):
    """x [T*C] of one layer."""
    order = sorted(range(len(x)), key=lambda i: (-abs(x[i]), i))
    if wrong == "rotatekv-twenty-tokens":
        tokens = []
        for i in order:
            if i // width not in tokens:
                tokens.append(i // width)
        return sorted(tokens[:20])
    return sorted({i // width for i in order[:20]})


def random_positions(seed, tokens, k, wrong=""):
    state, found, draws = seed, [], 0
    if wrong == "random-seed-hashed":
        state = (state + 0x9E3779B97F4A7C15) & MASK
    while len(found) < min(k, tokens):
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        z ^= z >> 31
        position = z * tokens >> 64 if wrong == "random-scaled" else z % tokens
        draws += 1
        if position not in found:
            found.append(position)
        elif wrong == "random-with-repeats" and draws >= k:
            break
    return sorted(found)


def criterion_oracle(inputs, wrong=""):
    """Running sums: the score after each append, of the tokens so far."""
    tokens = inputs["tokens"]
    a = rows_of(inputs["A"], inputs["layers"], inputs["heads"], tokens, tokens)
    scores, positions, seen = [], [], 0
    for count in inputs["appends"]:
        seen += count
        each = [attention_scores(heads, seen, wrong) for heads in a]
        now = criterion_scores(each, inputs["multiplier"], wrong)
        scores.append([float(v) for v in now])
        positions.append(five_best(now))
    return {"scores": scores, "positions": positions}


# ---- inputs for cases ----


def attention_rows(random, layers, heads, tokens, sinks):
    """Causal rows that sum to about one; `sinks` maps (layer, token), or (layer, token, head) for
    one head alone, to a share."""
    out = []
    for layer in range(layers):
        for head in range(heads):
            for i in range(tokens):
                row = [0.02 + 0.98 * random.below(1000) / 1000 for _ in range(i + 1)]
                total = sum(row)
                row = [0.5 * v / total for v in row]
                for t in range(i + 1):
                    row[t] += sinks.get((layer, t), 0.0) * (1 - 0.1 * head)
                    row[t] += sinks.get((layer, t, head), 0.0)
                total = sum(row)
                out += [f32(round(v / total, 4)) for v in row] + [0.0] * (tokens - i - 1)
    return out


def hidden(random, layers, tokens, width, outliers):
    """Residuals with outliers {(layer, token, channel): value}."""
    out = [random.uniform(-0.9, 0.9) for _ in range(layers * tokens * width)]
    for (layer, token, channel), value in outliers.items():
        out[(layer * tokens + token) * width + channel] = f32(value)
    return out
