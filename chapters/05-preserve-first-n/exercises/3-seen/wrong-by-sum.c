/* Ranks by the sum, so that old keys win for having been seen by more queries. */
static double mean(const double *sum, int H, int T, int t)
{
    (void)T;
    return sum[t] / H;
}

int most_attended(int *position, const double *sum, int H, int T, int K, int seen)
{
    int n = 0;
    for (int t = 0; t < T && T - t >= seen; t++) {
        int before = 0;
        for (int j = 0; j < T && T - j >= seen; j++) {
            double a = mean(sum, H, T, j), b = mean(sum, H, T, t);
            before += a > b || (a == b && j < t);
        }
        if (before < K)
            position[n++] = t;
    }
    return n;
}
