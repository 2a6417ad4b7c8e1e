/* Merging neighbours, best pair first.
 *
 * Both families of tokenizers build tokens in the same way: a text starts as a row of small symbols
 * (bytes or characters); of all neighbours that may join, the pair of the best rank does, the
 * leftmost one among equals; the new symbol makes new pairs with its neighbours; and so on until
 * no pair may join. They differ only in what the rank of a pair is: BPE has a list of merges,
 * SentencePiece takes the score of the token that the pair would make. So that is a function the
 * caller hands in.
 *
 * Looking through all pairs for each join would take quadratic time, and a "word" may be a
 * megabyte of one letter. A priority queue makes it O(n log n): each join adds at most two pairs,
 * and pairs whose symbols have since changed are not removed but recognized when they come up:
 * symbols only ever grow, so the length of an outdated pair is no longer right. */
#include <stdlib.h>
#include <string.h>

#include "vocabulary.h"

/* ------------------------------------------------------------- hash table */

static uint32_t hash(const unsigned char *key, size_t length)
{
    uint64_t h = 14695981039346656037u; /* FNV-1a */
    for (size_t i = 0; i < length; i++)
        h = (h ^ key[i]) * 1099511628211u;
    return (uint32_t)(h ^ h >> 32);
}

int table_make(table *t, size_t keys)
{
    size_t slots = 16;
    while (slots < 2 * keys)
        slots *= 2;
    t->slot = calloc(slots, sizeof *t->slot);
    t->mask = slots - 1;
    return t->slot ? 0 : -1;
}

/* The slot that has the key, or the free one where it belongs. */
static table_slot *table_place(const table *t, const void *key, size_t length, uint32_t h)
{
    size_t i = h & t->mask;
    while (t->slot[i].key && (t->slot[i].hash != h || t->slot[i].length != length ||
                              memcmp(t->slot[i].key, key, length) != 0))
        i = (i + 1) & t->mask;
    return &t->slot[i];
}

int table_add(table *t, const void *key, size_t length, int value)
{
    uint32_t h = hash(key, length);
    table_slot *s = table_place(t, key, length, h);
    if (s->key)
        return s->value;
    *s = (table_slot){key, (uint32_t)length, h, value};
    return -1;
}

int table_find(const table *t, const void *key, size_t length)
{
    const table_slot *s = table_place(t, key, length, hash(key, length));
    return s->key ? s->value : -1;
}

/* ---------------------------------------------------------- growing lists */

/* Makes room for one more element of the given size; the doubled memory, or NULL. */
static void *grown(void *at, size_t *room, size_t size)
{
    size_t more = *room ? 2 * *room : 64;
    void *new = more <= SIZE_MAX / size ? realloc(at, more * size) : NULL;
    if (new)
        *room = more;
    return new;
}

int list_add(id_list *list, int id)
{
    if (list->n == list->room) {
        int *at = grown(list->at, &list->room, sizeof *at);
        if (!at)
            return -1;
        list->at = at;
    }
    list->at[list->n++] = id;
    return 0;
}

int merge_add(merge_work *work, int start, int length, int id)
{
    if (work->n == work->room) {
        symbol *s = grown(work->symbol, &work->room, sizeof *s);
        if (!s)
            return -1;
        work->symbol = s;
    }
    int i = (int)work->n++;
    work->symbol[i] = (symbol){start, length, id, -1, i - 1};
    if (i > 0)
        work->symbol[i - 1].next = i;
    return 0;
}

void merge_free(merge_work *work)
{
    free(work->symbol);
    free(work->heap);
    *work = (merge_work){0};
}

/* --------------------------------------------------------- priority queue */

static int before(const merge_pair *a, const merge_pair *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->left < b->left;
}

static int heap_push(merge_work *w, merge_pair pair)
{
    if (w->n_heap == w->room_heap) {
        merge_pair *heap = grown(w->heap, &w->room_heap, sizeof *heap);
        if (!heap)
            return -1;
        w->heap = heap;
    }
    size_t i = w->n_heap++;
    for (; i > 0 && before(&pair, &w->heap[(i - 1) / 2]); i = (i - 1) / 2)
        w->heap[i] = w->heap[(i - 1) / 2];
    w->heap[i] = pair;
    return 0;
}

static merge_pair heap_pop(merge_work *w)
{
    merge_pair top = w->heap[0], last = w->heap[--w->n_heap];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= w->n_heap)
            break;
        if (child + 1 < w->n_heap && before(&w->heap[child + 1], &w->heap[child]))
            child++;
        if (!before(&w->heap[child], &last))
            break;
        w->heap[i] = w->heap[child];
        i = child;
    }
    w->heap[i] = last;
    return top;
}

/* ----------------------------------------------------------------- merging */

/* Queues the pair of a symbol and its right neighbour, if there is one and they may join. */
static int offer(merge_work *w, const tokenizer *tok, const char *text, merge_rank *rank, int left)
{
    if (left < 0 || w->symbol[left].next < 0)
        return 0;
    const symbol *a = &w->symbol[left], *b = &w->symbol[a->next];
    merge_pair pair = {0, left, -1, a->length + b->length};
    pair.rank = rank(tok, text, a, b, &pair.id);
    return pair.rank < 0 ? 0 : heap_push(w, pair);
}

/* Joins until nothing joins. Symbols of length 0 are left behind. 0, or -1 without memory. */
int merge_all(merge_work *w, const tokenizer *tok, const char *text, merge_rank *rank)
{
    w->n_heap = 0;
    for (size_t i = 0; i + 1 < w->n; i++)
        if (offer(w, tok, text, rank, (int)i))
            return -1;
    while (w->n_heap > 0) {
        merge_pair pair = heap_pop(w);
        symbol *a = &w->symbol[pair.left];
        if (a->length == 0 || a->next < 0 ||
            a->length + w->symbol[a->next].length != pair.length)
            continue; /* outdated */
        symbol *b = &w->symbol[a->next];
        a->length = pair.length;
        a->id = pair.id;
        a->next = b->next;
        b->length = 0;
        if (a->next >= 0)
            w->symbol[a->next].prev = pair.left;
        if (offer(w, tok, text, rank, a->prev) || offer(w, tok, text, rank, pair.left))
            return -1;
    }
    return 0;
}
