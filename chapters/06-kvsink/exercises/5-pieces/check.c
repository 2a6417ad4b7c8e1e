#include "answer.h"
#include "kv.h"

int add_piece(float *size, int *position, int n, const float *h, int length, int seen, int K);

void answer(void)
{
    int T, K = in_int("K"), room = in_int("room"), pieces;
    const float *h = in_floats("h", &T);
    const int *length = in_ints("lengths", &pieces);
    float *size = scratch((size_t)room * sizeof *size);
    int *position = scratch((size_t)room * sizeof *position);
    int *chosen = scratch((size_t)room * sizeof *chosen);
    int *out = out_ints("positions", in_int("answers")), many = in_int("answers");
    int n = 0, seen = 0, told = 0;
    for (int i = 0; i < pieces; i++) {
        n = add_piece(size, position, n, h + seen, length[i], seen, K);
        seen += length[i];
        if (n < 0 || n > room) break;
        int found = kv_top_magnitudes(chosen, size, n, K, scratch((size_t)n * sizeof(float)));
        for (int j = 0; j < found && told < many; j++) out[told++] = position[chosen[j]];
    }
}
