/* Does not count the query of the key itself. */
static double mean(const double *sum, int H, int T, int t)
{
    return sum[t] / H / (T - t);
}

int most_attended(int *position, const double *sum, int H, int T, int K, int seen)
{
    int n = 0;
    for (int t = 0; t < T && T - t > seen; t++) {
        int before = 0;
        for (int j = 0; j < T && T - j > seen; j++) {
            double a = mean(sum, H, T, j), b = mean(sum, H, T, t);
            before += a > b || (a == b && j < t);
        }
        if (before < K)
            position[n++] = t;
    }
    return n;
}
