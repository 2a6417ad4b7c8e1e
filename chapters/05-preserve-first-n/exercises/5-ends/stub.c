/* Exercise 05.5: the rule `ends:N:R` keeps the first N tokens and the last R of a text of T >= 1 tokens.
 * N and R are written with digits only, one or more, and are at most 100000000.
 * keep_ends reads it and applies it: position ascending, each once; returns how many, or -1 if the text is
 * no such rule (then position is not looked at). */
int keep_ends(int *position, const char *rule, int T)
{
    (void)position, (void)rule, (void)T; /* yours */
    return 0;
}
