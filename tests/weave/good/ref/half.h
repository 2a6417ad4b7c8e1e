//@ top: Declare both functions
void halve(float *x, int n);
double sum(const float *x, int n);
