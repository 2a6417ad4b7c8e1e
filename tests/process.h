/* kvsink as a process, in a folder of its own: for suites that judge what a user sees. KV_BUILD names
 * the folder it was built in (default: build). The including file defines _XOPEN_SOURCE 700. */
#ifndef TESTS_PROCESS_H
#define TESTS_PROCESS_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cjson/cJSON.h>
#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "files.h"

static char process_folder[] = "/tmp/kvsink_test_XXXXXX", process_program[4096];
static char *said; /* what the last run printed, standard error behind standard output */

/* Makes the folder and goes there. */
static void process_enter(void)
{
    const char *build = getenv("KV_BUILD");
    char here[2048];
    cr_assert(getcwd(here, sizeof here) != NULL);
    if (!build) build = "build";
    snprintf(process_program, sizeof process_program, "%s%s%s/kvsink", build[0] == '/' ? "" : here,
             build[0] == '/' ? "" : "/", build);
    cr_assert(mkdtemp(process_folder) != NULL);
    cr_assert(chdir(process_folder) == 0);
}

static void process_leave(void)
{
    char line[256];
    snprintf(line, sizeof line, "rm -rf %s", process_folder);
    cr_expect(system(line) == 0);
    free(said);
}

static void write_file(const char *path, const char *text)
{
    kv_error err;
    cr_assert(eq(int, tm_write_text(path, text, &err), 0), "%s", err.text);
}

/* Contents of a file (freed by the caller), "" if it is not there. */
static char *contents(const char *path)
{
    char *data;
    size_t n;
    if (tm_read_file(&data, &n, path, NULL)) data = calloc(1, 1);
    cr_assert_not_null(data);
    return data;
}

/* Exit status of kvsink ARGUMENTS. */
static int run(const char *arguments)
{
    char line[8192];
    snprintf(line, sizeof line,
             "%s %s >out.txt 2>err.txt; s=$?; cat out.txt err.txt >all.txt; exit $s",
             process_program, arguments);
    int status = system(line);
    free(said);
    said = contents("all.txt");
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static cJSON *run_json(const char *arguments)
{
    cr_assert(run(arguments) == 0, "%s: %s", arguments, said);
    char *out = contents("out.txt");
    cJSON *root = cJSON_Parse(out);
    cr_assert(root != NULL, "%s: not one JSON object: %s", arguments, out);
    free(out);
    return root;
}

static double number(const cJSON *o, const char *name)
{
    const cJSON *x = cJSON_GetObjectItem(o, name);
    return cJSON_IsNumber(x) ? x->valuedouble : NAN;
}

#endif
