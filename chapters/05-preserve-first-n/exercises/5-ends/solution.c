/* Exercise 05.5: eat what is expected or give up, as in ref/keep_text.c. */
#include <stdlib.h>
#include <string.h>

static int number(int *value, const char **text)
{
    char *end;
    if (**text < '0' || **text > '9')
        return 0;
    long v = strtol(*text, &end, 10);
    if (v > 100000000)
        return 0;
    *value = (int)v;
    *text = end;
    return 1;
}

static int word(const char *w, const char **text)
{
    size_t n = strlen(w);
    if (strncmp(*text, w, n))
        return 0;
    *text += n;
    return 1;
}

int keep_ends(int *position, const char *rule, int T)
{
    int first, last, n = 0;
    if (!word("ends:", &rule) || !number(&first, &rule) || !word(":", &rule) ||
        !number(&last, &rule) || *rule)
        return -1;
    for (int t = 0; t < T; t++)
        if (t < first || t >= T - last)
            position[n++] = t;
    return n;
}
