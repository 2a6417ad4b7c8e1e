#include "answer.h"

int most_attended(int *position, const double *sum, int H, int T, int K, int seen);

void answer(void)
{
    int T;
    const double *sum = in_doubles("sum", &T);
    int *position = out_ints("position", T);
    out_length("position", most_attended(position, sum, in_int("H"), T, in_int("K"), in_int("seen")));
}
