/* A key ages like a value: nobody waits for the rest of the group. */
int first_coded(int t, int values, int R, int G, int kivi)
{
    (void)values, (void)G;
    return t + 1 + R + kivi;
}
