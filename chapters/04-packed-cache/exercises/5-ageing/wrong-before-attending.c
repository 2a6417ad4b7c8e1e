/* KIVI quantizes before the step attends. */
int first_coded(int t, int values, int R, int G, int kivi)
{
    if (values)
        return t + 1 + R;
    if (kivi) {
        int block = R ? R : G;
        return (t / block + 1) * block;
    }
    return (t / G + 1) * G + R;
}
