/* wanted: crashed: it read or wrote where there is no array (SIGSEGV), in case 'one key' */
void window_softmax(float *p, const float *s, int n, int pinned, int window)
{
    (void)pinned, (void)window;
    p[n] = s[0];
}
