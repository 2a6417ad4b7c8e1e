/* KIVI's keys leave the window one group at a time, as ours do. */
int first_coded(int t, int values, int R, int G, int kivi)
{
    if (values)
        return t + 1 + R + kivi;
    return (t / G + 1) * G + R + kivi;
}
