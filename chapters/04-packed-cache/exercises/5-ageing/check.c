#include "answer.h"

int first_coded(int t, int values, int R, int G, int kivi);

void answer(void)
{
    int T = in_int("T"), R = in_int("R"), G = in_int("G"), kivi = in_int("kivi");
    int *keys = out_ints("keys", T), *values = out_ints("values", T);
    for (int t = 0; t < T; t++) {
        keys[t] = first_coded(t, 0, R, G, kivi);
        values[t] = first_coded(t, 1, R, G, kivi);
    }
}
