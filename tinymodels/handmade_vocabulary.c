/* The hand-built model's vocabulary, its texts, and the rule it follows.
 *
 * The vocabulary is byte-level, as GPT-2 made usual: 256 tokens for the bytes, so that
 * any text can be written, and a word token for each word below, with and without a space in
 * front. There are no merges. The pre-tokenizer `llama-bpe` takes a word that is a token as it
 * is (Llama 3's rule), so the words need no chain of pieces to be merged from; a word that is not
 * in the list falls apart into bytes, which the model copies just as well.
 *
 * Codes. Each token has two code words of +1 and -1. Its address (12 places) is what queries and
 * keys compare; its name (48 places) is what values carry and the output layer reads.
 * - An address has six +1 and six -1. The sum is then zero, so that a query made of addresses
 *   cannot see a constant that all keys share, and two addresses agree in all 12 places or in at
 *   most 10: their product is 12 or at most 8.
 * - Names are drawn at random; one that agrees with an earlier one in more than 34 places is drawn
 *   again, so the product of two names is 48 or at most 20. */
#include "handmade_vocabulary.h"

#include <stdlib.h>
#include <string.h>

#include "handmade.h"

/* The words of the texts below, and a few to play with. */
static const char *const word[] = {
    "The", "She", "a", "all", "an", "and", "asked", "awake", "bell", "bird", "boat", "burned",
    "but", "cold", "day", "door", "fire", "from", "goes", "hall", "his", "house", "hush", "in",
    "is", "its", "lake", "lamp", "lay", "light", "low", "mill", "moon", "night", "of", "old", "on",
    "over", "owl", "rain", "replied", "river", "road", "rose", "said", "sang", "sat", "sea",
    "side", "slow", "snow", "song", "star", "still", "stone", "sun", "that", "the", "then", "to",
    "tonight", "tree", "turns", "under", "wall", "was", "water", "we", "wheel", "who", "wind",
    "with"
};

enum { WORDS = sizeof word / sizeof word[0] };

/* Ids from HM_PIECES on: every word with a space, then those of several letters without. */
static const char *bare_word(int i)
{
    for (int w = 0; w < WORDS; w++)
        if (word[w][1] != '\0' && i-- == 0) return word[w];
    return NULL;
}

int hm_vocabulary(void)
{
    int bare = 0;
    while (bare_word(bare)) bare++;
    return HM_PIECES + WORDS + bare;
}

/* GPT-2's alphabet: bytes that print stand for themselves, the others, in order, for the letters
 * from U+0100 on. */
static int put_byte_letter(char *out, int byte)
{
    int letter = 0x100;
    for (int b = 0; b <= byte; b++) {
        int prints = (b > ' ' && b < 127) || (b > 160 && b != 173);
        if (b == byte && prints) letter = byte;
        else if (b < byte && !prints) letter++;
    }
    if (letter < 128) {
        out[0] = (char)letter;
        return 1;
    }
    out[0] = (char)(0xC0 | letter >> 6); /* UTF-8 of two bytes */
    out[1] = (char)(0x80 | (letter & 0x3F));
    return 2;
}

int hm_piece(char *out, int id)
{
    int n = 0;
    out[0] = '\0';
    if (id == TM_HANDMADE_BEGIN) strcpy(out, "<|begin|>");
    else if (id == HM_END) strcpy(out, "<|end|>");
    else if (id < HM_PIECES) {
        n = put_byte_letter(out, id - HM_BYTES);
        out[n] = '\0';
    } else if (id < HM_PIECES + WORDS) {
        n = put_byte_letter(out, ' ');
        strcpy(out + n, word[id - HM_PIECES]);
    } else {
        strcpy(out, bare_word(id - HM_PIECES - WORDS));
    }
    return (int)strlen(out);
}

/* ------------------------------------------------------------------ codes */

int hm_sign(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (z ^ z >> 31) >> 63 ? 1 : -1;
}

static int product(const int8_t *a, const int8_t *b, int n)
{
    int sum = 0;
    for (int i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

static void draw(int8_t *code, int n, uint64_t *state)
{
    for (int i = 0; i < n; i++) code[i] = (int8_t)hm_sign(state);
}

static int good_address(const int8_t *address, int id)
{
    static const int8_t ones[HM_ADDRESS] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    const int8_t *own = address + id * HM_ADDRESS;
    if (product(own, ones, HM_ADDRESS) != 0) return 0;
    for (int i = 0; i < id; i++)
        if (memcmp(address + i * HM_ADDRESS, own, HM_ADDRESS) == 0) return 0;
    return 1;
}

static int good_name(const int8_t *name, int id)
{
    for (int i = 0; i < id; i++)
        if (product(name + i * HM_NAME, name + id * HM_NAME, HM_NAME) > 20) return 0;
    return 1;
}

void hm_codes(int8_t *address, int8_t *name)
{
    uint64_t state = 1;
    for (int id = 0; id < hm_vocabulary(); id++) {
        do draw(address + id * HM_ADDRESS, HM_ADDRESS, &state);
        while (!good_address(address, id));
        do draw(name + id * HM_NAME, HM_NAME, &state);
        while (!good_name(name, id));
    }
}

/* ------------------------------------------------------------------ texts */

/* Two sentences, 63 tokens; no three tokens in a row occur twice. */
#define LINE_1 "The moon rose over the mill,\n"
#define REST                                                          \
    "its water wheel lay still,\na lamp burned low in the hall,\n"    \
    "and an owl sat on the wall.\nShe asked who was awake,\n"         \
    "the wind sang over the lake,\nbut all that the night replied\n"  \
    "was hush from the river side.\n"
#define VERSE LINE_1 REST

/* No full stop and no word twice. The new line in front is where it starts again. */
#define ROUND "\nslow turns the old mill wheel tonight"

const char *tm_handmade_verse(void) { return VERSE; }
const char *tm_handmade_verse_twice(void) { return VERSE VERSE; }

const tm_handmade_demo *tm_handmade_demo_of(tm_sinks sinks)
{
    static const tm_handmade_demo demo[TM_SINKS_KINDS] = {
        {"none", TM_SINKS_NONE, VERSE "The moon rose over", " the mill,\n" REST, 59,
         "2:channel:64", "2:token:64", "", "none first:5 kvsink:5"},
        {"one", TM_SINKS_ONE, VERSE "The moon rose over", " the mill,\n" REST, 59,
         "2:channel:64", "2:token:64", "none", "first:5 kvsink:5 kvsink:auto"},
        {"several", TM_SINKS_SEVERAL, VERSE "The moon rose over", " the mill,\n" REST, 59,
         "2:channel:64", "2:token:64", "none first:5", "kvsink:5 kvsink:auto"},
        {"born", TM_SINKS_BORN, ROUND, "." ROUND "." ROUND "." ROUND "." ROUND "." ROUND "." ROUND,
         54, "2:channel:32", "2:token:64", "none first:5 kvsink:5",
         "kvsink:5+decode kvsink:auto+decode"},
    };
    return sinks >= 0 && sinks < TM_SINKS_KINDS ? &demo[sinks] : NULL;
}

/* ------------------------------------------------------------------- rule */

/* The token `back` places before position i; in front of the text there is only its first token
 * (layer 0's heads, which look so far back, find nothing nearer to what they seek). */
static int before(const int *tokens, int i, int back)
{
    return tokens[i - back > 0 ? i - back : 0];
}

/* One head of layer 2 or 3: each position r whose tokens r-lag, r-lag-1, ... are the last ones of
 * the text says what stood at r-lag+1. A sink has no key by which it could be found.
 * vote [vocabulary] += weight, shared out. */
static void head_votes(double *vote, double weight, const int *tokens, int n, int lag, int context,
                       tm_sinks sinks)
{
    int found = 0;
    for (int pass = 0; pass < 2; pass++)
        for (int r = 0; r < n; r++) {
            int same = 1;
            if (r == 0 && sinks >= TM_SINKS_ONE) continue;
            if (tokens[r] == TM_HANDMADE_STOP && sinks >= TM_SINKS_SEVERAL) continue;
            for (int i = 0; i < context; i++)
                same &= before(tokens, n - 1, i) == before(tokens, r, lag + i);
            if (same && pass == 0) found++;
            if (same && pass == 1) vote[before(tokens, r, lag - 1)] += weight / found;
        }
}

int tm_handmade_next(double *lead, const int *tokens, int n, tm_sinks sinks)
{
    int vocabulary = hm_vocabulary(), best = TM_HANDMADE_STOP;
    int forgetful = tokens[n - 1] == TM_HANDMADE_STOP && sinks >= TM_SINKS_SEVERAL;
    double second = 0, *vote = calloc((size_t)vocabulary, sizeof *vote);
    if (!vote) return -1;
    vote[TM_HANDMADE_STOP] = 1;
    if (tokens[n - 1] == TM_HANDMADE_STOP) vote[TM_HANDMADE_NEWLINE] = 8;
    for (int lag = 1; lag <= 2 && !forgetful; lag++) {
        head_votes(vote, 4, tokens, n, lag, 3, sinks);
        head_votes(vote, 1.5, tokens, n, lag, 1, sinks);
    }
    for (int id = 0; id < vocabulary; id++)
        if (vote[id] > vote[best]) best = id;
    for (int id = 0; id < vocabulary; id++)
        if (id != best && vote[id] > second) second = vote[id];
    if (lead) *lead = vote[best] - second;
    free(vote);
    return best;
}
