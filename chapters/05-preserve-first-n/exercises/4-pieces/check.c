#include "answer.h"

int kept_in_pieces(int *position, const float *h, int T, int K, int piece);

void answer(void)
{
    int T;
    const float *h = in_floats("h", &T);
    int *position = out_ints("position", T);
    out_length("position", kept_in_pieces(position, h, T, in_int("K"), in_int("piece")));
}
