/* Exercise 05.4: a prompt of T tokens arrives in pieces of `piece` tokens, the last one perhaps shorter.
 * After each piece its tokens are packed, but for those that are among the K largest |h| of all tokens so
 * far (of equals the lower positions; compare exactly). What has been packed is not kept later, and
 * what is kept stays kept. position: what is kept in the end, ascending; returns how many. */
int kept_in_pieces(int *position, const float *h, int T, int K, int piece)
{
    (void)h, (void)piece; /* yours */
    for (int t = 0; t < K && t < T; t++)
        position[t] = t;
    return K < T ? K : T;
}
