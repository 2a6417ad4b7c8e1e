/* Looks only at what came before the token, not at the rest of its piece. */
#include <math.h>

int kept_in_pieces(int *position, const float *h, int T, int K, int piece)
{
    int n = 0;
    (void)piece;
    for (int t = 0; t < T; t++) {
        int end = t, ahead = 0;
        for (int j = 0; j < end && j < T; j++)
            ahead += fabsf(h[j]) > fabsf(h[t]) || (fabsf(h[j]) == fabsf(h[t]) && j < t);
        if (ahead < K)
            position[n++] = t;
    }
    return n;
}
