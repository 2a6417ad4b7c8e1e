/* sscanf takes signs and blanks, and does not mind what follows. */
#include <stdio.h>

int keep_ends(int *position, const char *rule, int T)
{
    int first, last, n = 0;
    if (sscanf(rule, "ends:%d:%d", &first, &last) != 2)
        return -1;
    for (int t = 0; t < T; t++)
        if (t < first || t >= T - last)
            position[n++] = t;
    return n;
}
