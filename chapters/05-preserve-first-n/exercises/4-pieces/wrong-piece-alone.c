/* Takes the K largest of each piece, without a look at the pieces before. */
#include <math.h>

int kept_in_pieces(int *position, const float *h, int T, int K, int piece)
{
    int n = 0;
    for (int t = 0; t < T; t++) {
        int end = (t / piece + 1) * piece, ahead = 0;
        for (int j = t / piece * piece; j < end && j < T; j++)
            ahead += fabsf(h[j]) > fabsf(h[t]) || (fabsf(h[j]) == fabsf(h[t]) && j < t);
        if (ahead < K)
            position[n++] = t;
    }
    return n;
}
