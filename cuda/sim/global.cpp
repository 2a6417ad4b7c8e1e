//@ top: Know the variables of the program
/* global.cpp - a kernel may use variables of its file, __device__ ones and
 * __constant__ ones. No call of cudaMalloc tells of them, but the program file
 * has a table of its symbols, with address and size. Each variable that a
 * kernel touches becomes an array like others, judged in the same way.
 *
 * __constant__ variables are static (kv.cuh) and so are local symbols; they
 * have a cache of their own on a device, and their requests are not counted.
 * What type a variable has the table does not say: an index counts pieces of
 * the size of the first access. */
#include "state.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <cxxabi.h>
#include <deque>
#include <elf.h>
#include <fstream>
#include <link.h>

namespace sim {

//@ variable: Keep what is known about each
struct Variable {
    const char *at;
    size_t bytes;
    std::string name;
    bool constant;
    Array *array;      /* once it has been touched */
    std::string first; /* what it held then */
};

static std::vector<Variable> variables; /* by address */

static std::string readable(const char *symbol) {
    int status = 0;
    char *text = abi::__cxa_demangle(symbol, nullptr, nullptr, &status);
    std::string name = text ? text : symbol;
    free(text);
    return name;
}

//@ no-memory: Leave out what is a register on a device
static bool is_register(const char *at) {
    for (const void *p : {(const void *)&threadIdx, (const void *)&blockIdx,
                          (const void *)&blockDim, (const void *)&gridDim})
        if (at == p)
            return true;
    return false;
}

//@ symbols: Read the table of symbols
/* The program comes first in the list of what is loaded. */
static int first_module(dl_phdr_info *info, size_t, void *data) {
    *static_cast<uintptr_t *>(data) = info->dlpi_addr;
    return 1;
}

static void add_symbols(const char *symbols, size_t bytes, const char *names) {
    uintptr_t base = 0;
    dl_iterate_phdr(first_module, &base);
    for (size_t i = 0; i + sizeof(Elf64_Sym) <= bytes;
         i += sizeof(Elf64_Sym)) {
        const Elf64_Sym &s =
            *reinterpret_cast<const Elf64_Sym *>(symbols + i);
        const char *at = reinterpret_cast<const char *>(base + s.st_value);
        if (ELF64_ST_TYPE(s.st_info) != STT_OBJECT || !s.st_size ||
            is_register(at))
            continue;
        variables.push_back(
            Variable{at, s.st_size, readable(names + s.st_name),
                     ELF64_ST_BIND(s.st_info) == STB_LOCAL, nullptr, ""});
    }
    std::sort(variables.begin(), variables.end(),
              [](const Variable &a, const Variable &b) { return a.at < b.at; });
}

//@ program-file: Find the table in the program file
static void read_symbols() {
    std::ifstream in("/proc/self/exe", std::ios::binary);
    std::string file((std::istreambuf_iterator<char>(in)),
                     std::istreambuf_iterator<char>());
    const char *f = file.data();
    if (file.size() < sizeof(Elf64_Ehdr) || f[EI_CLASS] != ELFCLASS64)
        return;
    const Elf64_Ehdr *h = reinterpret_cast<const Elf64_Ehdr *>(f);
    const Elf64_Shdr *s =
        reinterpret_cast<const Elf64_Shdr *>(f + h->e_shoff);
    for (int i = 0; h->e_shoff && i < h->e_shnum; i++)
        if (s[i].sh_type == SHT_SYMTAB)
            add_symbols(f + s[i].sh_offset, s[i].sh_size,
                        f + s[s[i].sh_link].sh_offset);
}

//@ make-array: Make an array of a variable
static Array *make_array(const Variable &v, size_t bytes) {
    static std::deque<Array> arrays;
    Array a = {};
    a.base = const_cast<char *>(v.at);
    a.bytes = v.bytes;
    a.element = bytes;
    a.grain = uintptr_t(v.at) % 4 || v.bytes % 4 ? 1 : 4;
    a.name = v.name;
    a.label = label_of(a.name);
    a.constant = v.constant;
    know_all(a);
    arrays.push_back(a);
    return &arrays.back();
}

//@ look-up: Find the variable at an address
Array *variable_at(const void *p, size_t bytes) {
    static bool read = false;
    if (!read)
        read_symbols();
    read = true;
    const char *c = static_cast<const char *>(p);
    auto after = std::upper_bound(
        variables.begin(), variables.end(), c,
        [](const char *at, const Variable &v) { return at < v.at; });
    if (after == variables.begin())
        return nullptr;
    Variable &v = after[-1];
    if (c >= v.at + v.bytes)
        return nullptr;
    if (!v.array) {
        v.array = make_array(v, bytes);
        v.first = std::string(v.at, v.bytes);
    }
    return v.array;
}

//@ reset: Begin each order of threads with the same values
void reset_variables() {
    for (Variable &v : variables)
        if (v.array)
            memcpy(v.array->base, v.first.data(), v.bytes);
}

} // namespace sim
