/* Exercise 06.5: a prompt comes in pieces; remember just enough of it to know the K largest, ties included.
 *
 * size and position hold n candidates, in the order of their positions. h[length] are the values of the
 * next positions, seen, seen+1, ...; update the candidates and return how many there are now. After each
 * call, kv_top_magnitudes is asked for the K largest of size[], and they must be those of the whole
 * prompt so far. There is room for the candidates that the chapter describes and for one piece behind
 * them, and for no more. You may call kv_top_magnitudes yourself. */
#include <math.h>

#include "kv.h"

int add_piece(float *size, int *position, int n, const float *h, int length, int seen, int K)
{
    (void)K; /* yours: this one remembers everything */
    for (int i = 0; i < length; i++) {
        size[n] = fabsf(h[i]);
        position[n++] = seen + i;
    }
    return n;
}
