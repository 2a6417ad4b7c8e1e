//@ top: Run a reader's kernel file
/* cusim.cpp - the command. It lowers a file, compiles it with what follows,
 * runs the result, and removes both.
 *
 *   cusim my_kernel.cu                     four orders of threads, a table
 *   cusim my_kernel.cu --order strided     one of ascending, descending,
 *                                          strided, shuffled[:SEED], all
 *   cusim my_kernel.cu --json              for programs to read
 *   cusim my_kernel.cu --quiet             findings only
 *   cusim --lower my_kernel.cu             print the C++ and stop
 *   cusim --flags                          print how to compile that, and stop
 *   -I, -D and -O options are handed to the compiler.
 *
 * How to launch is said in comment lines of the file, or in my_kernel.sim
 * beside it (there without the slashes):
 *
 *   //sim launch scale<64> grid=2 block=128 smem=0 args=y:float[256],n:int=256
 *
 * grid and block take one to three numbers (grid=2,3). An argument is
 * NAME:TYPE=VALUE, or NAME:TYPE[COUNT]=HOW for an array on the device; HOW is
 * zero, index (0, 1, 2, ...), random (-1 to 1), a number, or left out for an
 * array that holds nothing yet. NAME alone is an array of an earlier launch.
 * A file with a main function of its own and no such line is run as it is.
 *
 * $CUSIM_CXX names another g++. Exit status: 0 nothing found, 1 findings, 2
 * the file cannot be run, or a launch or copy was refused, or a thread broke
 * off; a main function of one's own has a status of its own. */
//@ includes: Include what a command needs
#include "lower.h"

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <sstream>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef CUSIM_HOME /* the project's folder, and where libcusim.a lies */
#define CUSIM_HOME "."
#define CUSIM_LIB "build/libcusim.a"
#endif

//@ flags: Choose the compiler's options
/* -O1 keeps loads and stores as written; vectors of two loads, loads split
 * into members and stores merged into one are what nvcc would not do. The
 * sanitizer's library is not linked: its callbacks are in memory.cpp. */
static const char *flags =
    " -std=c++17 -O1 -gdwarf-4 -fno-tree-vectorize -fno-tree-sra"
    " -ffp-contract=off -fsanitize=thread -fsanitize=bounds"
    " -fstack-clash-protection"
    " --param=tsan-instrument-func-entry-exit=0"
    " -I'" CUSIM_HOME "/cuda' -I'" CUSIM_HOME "/ref' -include kv.cuh ";

//@ files: Read and write files
static bool read_file(const std::string &path, std::string &text) {
    struct stat about;
    std::ifstream in(path);
    std::stringstream all;
    all << in.rdbuf();
    text = all.str();
    return in.is_open() && !stat(path.c_str(), &about) &&
           !S_ISDIR(about.st_mode);
}

static int failed(const std::string &why) {
    std::cerr << "cusim: " << why << "\n";
    return 2;
}

static std::string quoted(const std::string &s) {
    std::string out = "'";
    for (char c : s)
        out += c == '\'' ? std::string("'\\''") : std::string(1, c);
    return out + "'";
}

//@ arguments: Read the command line
struct Options {
    std::string file, run, compile;
    bool lower_only, flags_only;
};

static bool parse(Options &o, int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        std::string a = argv[i];
        if (a == "--lower")
            o.lower_only = true;
        else if (a == "--flags")
            o.flags_only = true;
        else if (a == "--json" || a == "--quiet")
            o.run += " " + a;
        else if (a == "--order" && i + 1 < argc)
            o.run += " --order " + quoted(argv[++i]);
        else if (a[0] == '-' && (a[1] == 'I' || a[1] == 'D' || a[1] == 'O'))
            o.compile += " " + quoted(a);
        else if (a[0] == '-' || !o.file.empty())
            return false;
        else
            o.file = a;
    }
    return o.flags_only || !o.file.empty();
}

//@ complete: Add what is missing to make a program
/* A program of the reader's own gets its report when it ends: the linker puts
 * this function in front of main. */
static const char *own_main =
    "\n#include <cstdio>\n#include <cstdlib>\n"
    "extern \"C\" int __real_main(int, char **);\n"
    "extern \"C\" int __wrap_main(int argc, char **argv) {\n"
    "    sim::options_from_environment();\n"
    "    atexit([] { fflush(stdout); int r = sim::report();\n"
    "                fflush(stdout); if (r) _Exit(r); });\n"
    "    return __real_main(argc, argv);\n}\n";

//@ launches: Add the launches that the file describes
static std::string complete(const sim::Lowered &l, const std::string &file,
                            std::string &error) {
    std::vector<std::string> lines = l.launches;
    std::string beside = file.substr(0, file.rfind('.')) + ".sim", text, line;
    if (lines.empty() && l.has_main)
        return own_main;
    if (l.has_main)
        error = "launch lines and a main function: which of them is to run?";
    if (lines.empty() && read_file(beside, text)) {
        std::stringstream all(text);
        while (std::getline(all, line))
            lines.push_back(line.compare(0, 6, "//sim ") ? line
                                                         : line.substr(6));
    }
    std::string out;
    if (error.empty())
        out = sim::driver(l, lines, error);
    if (!error.empty())
        error = file + ": " + error +
                "; write //sim launch KERNEL grid=N block=N "
                "args=x:float[100]=random,n:int=100";
    return out;
}

//@ status: Understand how a program ended
static int status_of(int status) {
    if (WIFEXITED(status))
        return WEXITSTATUS(status);
    std::cerr << "cusim: the kernel ended with signal " << WTERMSIG(status)
              << "\n";
    return 2;
}

//@ hint: Say what is beyond us, if a file that fails to compile has it
static std::string hint(const std::string &program) {
    static const char *beyond[][2] = {
        {"cooperative_groups", "cooperative groups"},
        {"asm", "inline PTX: write a twin in C++, as kv.cuh does"},
        {"thrust", "Thrust"}, {"cub::", "CUB"}, {"curand", "cuRAND"},
        {"nvcuda", "nvcuda::wmma"}, {"tex2D", "textures"},
        {"cudaEvent", "events: there is no time to measure"}};
    for (auto &b : beyond)
        if (program.find(b[0]) != std::string::npos)
            return std::string("; the simulator has no ") + b[1];
    return "";
}

//@ run: Compile and run in a folder that is removed afterwards
static int compile_and_run(const Options &o, const std::string &program,
                           bool own) {
    const char *tmp = getenv("TMPDIR"), *cxx = getenv("CUSIM_CXX");
    std::string folder = std::string(tmp ? tmp : "/tmp") + "/cusim.XXXXXX";
    if (!mkdtemp(&folder[0]))
        return failed("cannot make a folder like " + folder);
    std::string source = folder + "/kernel.cpp", exe = folder + "/kernel";
    std::ofstream(source) << program;
    std::string beside = "./" + o.file.substr(0, o.file.rfind('/') + 1);
    beside = o.file[0] == '/' ? beside.substr(2) : beside;
    std::string compiler = cxx && *cxx ? cxx : "g++";
    std::string command = compiler + flags + o.compile + " -iquote " +
                          quoted(beside) + " -c " + quoted(source) + " -o " +
                          quoted(exe + ".o") + " && " + compiler + " " +
                          quoted(exe + ".o") + " " CUSIM_LIB " -ldl -o " +
                          quoted(exe) +
                          (own ? " -Wl,--wrap=main" : "");
    int code = status_of(system(command.c_str()));
    if (code)
        code = failed(o.file + " cannot be compiled" + hint(program));
    else {
        setenv("CUSIM", o.run.c_str(), 1);
        code = status_of(system((quoted(exe) + o.run).c_str()));
        if (code > 128) /* so the shell says that it was a signal */
            code = failed(o.file + " ended with signal " +
                          std::to_string(code - 128));
    }
    for (const char *end : {".cpp", ".o", ""})
        unlink((exe + end).c_str());
    rmdir(folder.c_str());
    return code;
}

//@ main: Do it all
int main(int argc, char **argv) {
    Options o = {};
    std::string text, error;
    if (!parse(o, argc, argv))
        return failed("usage: cusim KERNEL.cu [--order ORDER] [--json] "
                      "[--quiet] [--lower] [-I...] [-D...]");
    if (o.flags_only) {
        std::cout << flags << "\n";
        return 0;
    }
    if (!read_file(o.file, text))
        return failed("cannot read " + o.file);
    sim::Lowered l = sim::lower(text, o.file);
    if (!l.error.empty())
        return failed(l.error);
    if (o.lower_only) {
        std::cout << l.text;
        return 0;
    }
    std::string rest = complete(l, o.file, error);
    if (!error.empty())
        return failed(error);
    return compile_and_run(o, l.text + rest, rest == own_main);
}
