//@ top: Say what went wrong in a way a person can act on
/* Functions of this project that can be handed bad input return an error code
 * and describe the problem in a kv_error the caller owns. Nothing in ref/
 * prints or exits: a library that prints cannot be used inside another
 * program, and one that exits cannot be tested. The codes are the exit
 * statuses of the command line, so that main() can pass them on unchanged. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>

#include "kv.h"

//@ fail: Fill in the message and hand the code back
int kv_fail(kv_error *err, int code, const char *format, ...)
{
    if (err) {
        va_list args;
        va_start(args, format);
        vsnprintf(err->text, sizeof err->text, format, args);
        va_end(args);
        err->code = code;
    }
    return code;
}

//@ check-finite: Refuse NaN and infinity where they enter
int kv_check_finite(const float *x, size_t n, const char *what, kv_error *err)
{
    for (size_t i = 0; i < n; i++)
        if (!isfinite(x[i]))
            return kv_fail(err, KV_FAIL_RUN, "%s: element %zu is %s; only "
                           "finite numbers can be used", what, i,
                           isnan(x[i]) ? "NaN" : "infinite");
    return KV_OK;
}
