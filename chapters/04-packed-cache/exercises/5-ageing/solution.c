/* Exercise 04.5: ours ages after a token has come and before the step attends, KIVI when the next one
 * comes. A group or a block is complete at its end; without KIVI's block it also has to be R old. */
int first_coded(int t, int values, int R, int G, int kivi)
{
    if (values)
        return t + 1 + R + kivi;
    if (kivi) {
        int block = R ? R : G;
        return (t / block + 1) * block + 1;
    }
    return (t / G + 1) * G + R;
}
