/* idle.c: what can a head do that has nothing to say? It wants the output 0. Four ways, each for
 * ever more keys; what is printed is the length of its output, against that of a value.
 *
 *   keys     how many the query sees
 *   spread   all scores equal, values that have nothing in common
 *   common   the same, but all values share half of their length
 *   sink     one key with the value 0, whose score is 8 above the others' (values as in common)
 *   one      softmax1, all scores 0
 *   one_low  softmax1, all scores -8 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>

#include "kv.h"

enum { D = 64, MOST = 4096 };

static float value[MOST * D], score[MOST], weight[MOST];
static uint64_t seed = 1;

/* The sum of four numbers of -1 to 1, which is nearly normal. */
static double noise(void)
{
    double sum = 0;
    for (int i = 0; i < 4; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        sum += (double)(seed >> 40) / (1 << 23) - 1;
    }
    return sum;
}

/* Values of length 1, of which `common` is the same for all. */
static void make_values(int n, double common)
{
    for (int t = 0; t < n; t++) {
        double x[D], length = 0;
        for (int d = 0; d < D; d++) {
            x[d] = noise();
            length += x[d] * x[d];
        }
        double own = sqrt((1 - common * common) / length);
        for (int d = 0; d < D; d++)
            value[t * D + d] = (float)(own * x[d] + common * (d % 2 ? 1 : -1) / sqrt(D));
    }
}

static double output_length(int n)
{
    float out[D];
    kv_attention_mix(out, weight, value, (kv_shape){1, 1, D}, 1, n);
    return kv_norm(out, D);
}

static void set_scores(int n, float all)
{
    for (int t = 0; t < n; t++) score[t] = all;
}

int main(void)
{
    printf("keys\tspread\tcommon\tsink\tone\tone_low\n");
    for (int n = 4; n <= MOST; n *= 4) {
        set_scores(n, 0);
        kv_softmax(weight, score, n, NULL);
        make_values(n, 0);
        printf("%d\t%.3f", n, output_length(n));
        make_values(n, 0.5);
        printf("\t%.3f", output_length(n));
        kv_softmax1(weight, score, n, NULL);
        double one = output_length(n);
        set_scores(n, -8);
        kv_softmax1(weight, score, n, NULL);
        double one_low = output_length(n);
        set_scores(n, 0);
        score[n / 2] = 8;
        for (int d = 0; d < D; d++) value[n / 2 * D + d] = 0;
        kv_softmax(weight, score, n, NULL);
        printf("\t%.4f\t%.3f\t%.4f\n", output_length(n), one, one_low);
    }
    return 0;
}
