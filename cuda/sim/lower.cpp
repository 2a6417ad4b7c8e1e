//@ top: Translate CUDA's three departures from C++
/* lower.cpp - CUDA adds to C++ a launch, k<<<grid, block>>>(x), shared arrays,
 * and qualifiers. The qualifiers are macros of kv.cuh; the other two are
 * rewritten here, word by word and line for line, so that line numbers stay:
 *
 *   k<64><<<g, b>>>(x)          sim::launch("k<64>", ...)(x)
 *   __shared__ float t[32][33]; a reference to memory of the block
 *   extern __shared__ float s[];   a pointer to its dynamic memory
 *
 * Nothing else is changed, but that #include lines of CUDA's headers go. On
 * the way the names of kernels' parameters are noted, for naming arrays, and
 * the comment lines "//sim ..." that describe launches. */
#include "lower.h"

#include <cctype>
#include <cstring>

namespace sim {

static size_t skip(const std::string &s, size_t i);

//@ words: Cut words and bracketed pieces
static bool in_word(char c) {
    return isalnum((unsigned char)c) || c == '_';
}

std::string trim(const std::string &text) {
    size_t a = text.find_first_not_of(" \t\r\n");
    size_t b = text.find_last_not_of(" \t\r\n");
    return a == std::string::npos ? "" : text.substr(a, b - a + 1);
}

std::vector<std::string> split(const std::string &text, char at) {
    std::vector<std::string> parts(1);
    int depth = 0;
    for (char c : text) {
        depth += strchr("([{<", c) && c ? 1 : strchr(")]}>", c) && c ? -1 : 0;
        if (c == at && depth <= 0)
            parts.push_back("");
        else
            parts.back() += c;
    }
    return parts;
}

//@ brackets: Find the end of a bracket, and the last word
/* Where the bracket at i ends, or the end of the text. */
static size_t closing(const std::string &s, size_t i) {
    int depth = 0;
    for (; i < s.size(); i++) {
        depth += s[i] == '(' ? 1 : s[i] == ')' ? -1 : 0;
        if (depth == 0)
            break;
    }
    return i;
}

static std::string last_word(const std::string &s) {
    size_t b = s.size();
    while (b && !in_word(s[b - 1]))
        b--;
    size_t a = b;
    while (a && in_word(s[a - 1]))
        a--;
    return s.substr(a, b - a);
}

//@ drop-word: Take a word away
static bool drop_word(std::string &s, const std::string &word) {
    for (size_t i = s.find(word); i != std::string::npos;
         i = s.find(word, i + 1)) {
        size_t end = i + word.size();
        if ((i && in_word(s[i - 1])) || (end < s.size() && in_word(s[end])))
            continue;
        if (end < s.size() && s[end] == '(') /* __align__(16) */
            end = closing(s, end) + 1;
        s.erase(i, end - i);
        return true;
    }
    return false;
}

//@ take-back: Take back what was written too soon
/* The qualifiers that stand before __shared__; of a declaration that names its
 * type there, as in "float __shared__ x[32];", all that stands before. */
static std::string take_back(std::string &out, bool type_too) {
    std::string taken;
    if (type_too) {
        size_t from = out.find_last_of(";{}\n") + 1;
        taken = out.substr(from);
        out.erase(from);
        return taken;
    }
    for (;;) {
        std::string t = trim(out), w = last_word(t);
        if (!t.empty() && t.back() == ')' &&
            last_word(t.substr(0, t.rfind('('))) == "alignas")
            w = out.substr(out.rfind("alignas"));
        else if (t.empty() || !in_word(t.back()) ||
                 (w != "extern" && w != "static" && w != "volatile" &&
                  w != "const"))
            return taken;
        taken += w + " ";
        out.erase(out.rfind(w), w.size());
    }
}

//@ shared: Rewrite a declaration of shared memory
/* In a template the dimensions may depend on its parameters; so the type gets
 * a name, and the array is known by a static variable of the function. */
static std::string shared_array(const std::string &type,
                                const std::string &name,
                                const std::string &dims) {
    std::string t = "sim_type_" + name, key = "sim_key_" + name;
    return "typedef " + type + " " + t + dims + "; static char " + key +
           "; " + t + " &" + name + " = *static_cast<" + t +
           " *>(::sim::shared(&" + key + ", \"" + name + "\", sizeof(" + t +
           "), sizeof(std::remove_all_extents_t<" + t + ">)));";
}

//@ shared-forms: Take a declaration apart
/* Where the first of `what` stands that is in no bracket, or npos. */
static size_t find_outside(const std::string &s, char what, size_t i = 0) {
    int depth = 0;
    for (; i < s.size(); i++) {
        if (s[i] == what && depth == 0)
            return i;
        depth += strchr("([{", s[i]) ? 1 : strchr(")]}", s[i]) ? -1 : 0;
    }
    return std::string::npos;
}

/* Without comments, on one line. */
static std::string flat(const std::string &s) {
    std::string out;
    for (size_t i = 0; i < s.size(); i++) {
        if (s[i] == '/' && skip(s, i) > i)
            i = skip(s, i) - 1;
        else
            out += s[i] == '\n' ? ' ' : s[i];
    }
    return out;
}

//@ shared-declaration: And put it together anew
static std::string shared(std::string text, std::string before) {
    std::string all = flat(before + text), type, out;
    bool dynamic = drop_word(all, "extern");
    drop_word(all, "static");
    while (drop_word(all, "__align__") || drop_word(all, "alignas"))
        ;
    for (const std::string &part : split(all, ',')) {
        size_t at = find_outside(part, '[');
        std::string head = part.substr(0, at);
        std::string dims = at == std::string::npos ? "" : part.substr(at);
        std::string name = last_word(head);
        if (type.empty())
            type = trim(head.substr(0, head.rfind(name)));
        if (dynamic)
            out += type + " *" + name + " = static_cast<" + type +
                   " *>(::sim::dynamic(\"" + name + "\", sizeof(" + type +
                   ")));";
        else
            out += shared_array(type, name, dims);
    }
    for (char c : before + text)
        if (c == '\n')
            out += c;
    return out;
}

//@ kernel: Note the parameters of a kernel
static void note_kernel(Lowered &l, const std::string &s, size_t i) {
    size_t open = s.find('(', i);
    if (open == std::string::npos)
        return;
    if (last_word(s.substr(i, open - i)) == "__launch_bounds__") {
        open = s.find('(', closing(s, open));
        if (open == std::string::npos)
            return;
    }
    std::string name = last_word(s.substr(i, open - i)), list;
    size_t end = closing(s, open);
    for (std::string part : split(s.substr(open + 1, end - open - 1), ','))
        list += (list.empty() ? "" : ",") + last_word(part);
    l.parameters[name] = list;
}

//@ launch: Rewrite a launch
/* The kernel's name, with its template arguments, was written just before. */
static std::string callee(std::string &out) {
    size_t i = out.size();
    while (i && isspace((unsigned char)out[i - 1]))
        i--;
    if (i && out[i - 1] == '>') {
        int depth = 0;
        do {
            i--;
            depth += out[i] == '>' ? 1 : out[i] == '<' ? -1 : 0;
        } while (i && depth);
        while (i && isspace((unsigned char)out[i - 1]))
            i--;
    }
    while (i && (in_word(out[i - 1]) || out[i - 1] == ':'))
        i--;
    std::string name = trim(out.substr(i));
    out.erase(i);
    return name;
}

//@ launch-text: Say the launch in C++
static std::string launch(const Lowered &l, const std::string &name,
                          const std::string &configuration) {
    size_t end = name.find('<');
    auto p = l.parameters.find(last_word(name.substr(0, end)));
    return "::sim::launch(\"" + name + "\", \"" +
           (p == l.parameters.end() ? "" : p->second) +
           "\", ::sim::config(" + configuration +
           "), [=](auto... sim_a) { " + name + "(sim_a...); })";
}

//@ skip: Pass over comments, strings and includes
/* The end of what begins at i and is not to be touched, or i. */
static size_t skip(const std::string &s, size_t i) {
    if (!s.compare(i, 2, "//"))
        return std::min(s.find('\n', i), s.size());
    if (!s.compare(i, 2, "/*")) {
        size_t end = s.find("*/", i + 2);
        return end == std::string::npos ? s.size() : end + 2;
    }
    if (s[i] != '"' && s[i] != '\'')
        return i;
    if (s[i] == '\'' && i && isdigit((unsigned char)s[i - 1]))
        return i; /* 1'000 */
    size_t end = i + 1;
    while (end < s.size() && s[end] != s[i] && s[end] != '\n')
        end += s[end] == '\\' ? 2 : 1;
    return std::min(end + 1, s.size());
}

static bool cuda_include(const std::string &s, size_t i) {
    size_t end = std::min(s.find('\n', i), s.size());
    std::string line = s.substr(i, end - i);
    return line.find("include") != std::string::npos &&
           (line.find("<cuda") != std::string::npos ||
            line.find("\"cuda") != std::string::npos ||
            line.find("<device_") != std::string::npos);
}

//@ lower: Lower what begins with a word
static size_t lower_word(Lowered &l, const std::string &s, size_t i,
                         const std::string &file) {
    size_t end = i;
    while (end < s.size() && in_word(s[end]))
        end++;
    std::string word = s.substr(i, end - i);
    if (word == "__global__")
        note_kernel(l, s, end);
    l.has_main |= word == "main";
    if (word == "__noinline__") /* system headers have their own use of it */
        word = "__attribute__((noinline))";
    if (word != "__shared__" || end >= s.size() ||
        !isspace((unsigned char)s[end])) {
        l.text += word;
        return end;
    }
    size_t stop = std::min(find_outside(s, ';', end), s.size() - 1);
    std::string rest = s.substr(end, stop - end);
    bool bare = trim(rest.substr(0, rest.find_first_of("[,;"))) ==
                last_word(rest.substr(0, rest.find_first_of("[,;")));
    std::string made = shared(rest, take_back(l.text, bare));
    if (made.find(" = ") == std::string::npos)
        l.error = file + ": a __shared__ declaration that cusim cannot read";
    l.text += made;
    return stop + 1;
}

//@ lower-launch: Lower a launch
static size_t lower_launch(Lowered &l, const std::string &s, size_t i,
                           const std::string &file) {
    size_t end = s.find(">>>", i);
    if (end == std::string::npos)
        l.error = file + ": <<< without >>>";
    end = std::min(end, s.size());
    std::string name = callee(l.text);
    l.text += launch(l, name, s.substr(i + 3, end - i - 3));
    return std::min(end + 3, s.size());
}

//@ lower-file: Go through the whole file
Lowered lower(const std::string &s, const std::string &file) {
    Lowered l = {};
    l.text = "#line 1 \"" + file + "\"\n";
    for (size_t i = 0; i < s.size();) {
        size_t end = skip(s, i);
        if (!s.compare(i, 6, "//sim "))
            l.launches.push_back(s.substr(i + 6, end - i - 6));
        if (end > i) {
            l.text += s.substr(i, end - i);
            i = end;
        } else if (s[i] == '#' && cuda_include(s, i)) {
            i = std::min(s.find('\n', i), s.size());
        } else if (!s.compare(i, 3, "<<<")) {
            i = lower_launch(l, s, i, file);
        } else if (in_word(s[i]) && !isdigit((unsigned char)s[i])) {
            i = lower_word(l, s, i, file);
        } else if (isdigit((unsigned char)s[i])) {
            while (i < s.size() && (in_word(s[i]) || s[i] == '.'))
                l.text += s[i++];
        } else {
            l.text += s[i++];
        }
    }
    return l;
}

//@ content: Check what an array is to hold
struct Names {
    std::map<std::string, std::string> array; /* what it is called by now */
    int number;                               /* of the launch */
    std::string before, error;
};

/* A content that is none of the words must be a number. */
static bool good_content(const std::string &how) {
    char *end;
    strtod(how.c_str(), &end);
    return how.empty() || how == "zero" || how == "index" ||
           how == "random" || (end != how.c_str() && !*end);
}

//@ new-array: Make the array
static std::string new_array(const std::string &name, const std::string &type,
                             const std::string &how, Names &n) {
    size_t bracket = type.find('['), end = type.rfind(']');
    if (end == std::string::npos || end < bracket)
        n.error = "\"" + name + ":" + type + "\" has no ]";
    else if (!good_content(how))
        n.error = "\"" + name + "\" is filled with \"" + how +
                  "\": expected zero, index, random, a number or nothing";
    if (!n.error.empty())
        return "";
    std::string variable = name + "_" + std::to_string(n.number);
    n.before += "        auto *" + variable + " = sim::array<" +
                type.substr(0, bracket) + ">(\"" + name + "\", " +
                type.substr(bracket + 1, end - bracket - 1) + ", \"" + how +
                "\");\n";
    return n.array[name] = variable;
}

//@ value: Or into a value, or an array of an earlier launch
static std::string argument(const std::string &text, Names &n) {
    size_t colon = text.find(':');
    if (colon == std::string::npos) {
        if (!n.array.count(text))
            n.error = "no array \"" + text + "\" of an earlier launch";
        return n.array[text];
    }
    std::string name = text.substr(0, colon), type = text.substr(colon + 1);
    size_t equals = type.find('=');
    std::string value =
        equals == std::string::npos ? "" : type.substr(equals + 1);
    type = type.substr(0, equals);
    if (type.find('[') != std::string::npos)
        return new_array(name, type, value, n);
    if (value.empty())
        n.error = "\"" + text + "\" has no value: write NAME:TYPE=VALUE";
    return "static_cast<" + type + ">(" + value + ")";
}

//@ launch-sizes: Check the sizes of a launch line
struct Words {
    std::string kernel, grid, block, smem, args;
};

/* One to three numbers, or words that the compiler is to know. */
static void check_size(const std::string &word, std::string &error) {
    std::string value = word.substr(word.find('=') + 1);
    std::vector<std::string> parts = split(value, ',');
    for (const std::string &part : parts)
        if (trim(part).empty() || part[0] == '-')
            error = "\"" + word + "\": expected numbers from 1 on";
    if (parts.size() > 3)
        error = "\"" + word + "\": expected one to three numbers";
}

//@ launch-word: Read a launch line word by word
/* The type of the last argument goes on: "x:unsigned" before "char[9]". */
static bool unfinished(const std::string &args) {
    size_t comma = args.rfind(',') + 1;
    return !args.empty() &&
           (comma == args.size() ||
            (args.find(':', comma) != std::string::npos &&
             args.find_first_of("=[", comma) == std::string::npos));
}

static Words words_of(const std::string &line, std::string &error) {
    Words w = {"", "1", "32", "0", ""};
    for (const std::string &raw : split(line, ' ')) {
        std::string word = trim(raw);
        if (!word.compare(0, 5, "grid=") || !word.compare(0, 6, "block="))
            check_size(word, error);
        if (!word.compare(0, 5, "grid="))
            w.grid = word.substr(5);
        else if (!word.compare(0, 6, "block="))
            w.block = word.substr(6);
        else if (!word.compare(0, 5, "smem="))
            w.smem = word.substr(5);
        else if (!word.compare(0, 5, "args="))
            w.args = word.substr(5);
        else if (unfinished(w.args))
            w.args += " " + word;
        else if (w.kernel.empty())
            w.kernel = word;
        else if (!word.empty())
            error = "\"" + word + "\" in a launch line";
    }
    return w;
}

//@ fits: See whether the file has such a kernel, with so many parameters
/* A kernel that came with an #include is the compiler's to judge, and so is a
 * parameter with a default value, of which we have noted that as the name. */
static void check_fits(const Lowered &l, const std::string &kernel,
                       size_t given, std::string &error) {
    auto p = l.parameters.find(kernel);
    std::string all;
    for (const auto &item : l.parameters)
        all += " " + item.first;
    if (p == l.parameters.end() && l.text.find("#include \"") > l.text.size())
        error = "no kernel \"" + kernel + "\"; the file has" +
                (all.empty() ? " none" : all);
    if (p == l.parameters.end())
        return;
    size_t needed = 0, most = 0;
    for (const std::string &name : split(p->second, ',')) {
        most += !name.empty();
        needed += !name.empty() && !isdigit((unsigned char)name[0]);
    }
    if (given < needed || given > most)
        error = kernel + " has " + std::to_string(most) + " parameters (" +
                p->second + ") and is given " + std::to_string(given);
}

//@ one-launch: Turn a launch line into a launch
static std::string one_launch(const Lowered &l, const std::string &line,
                              Names &n) {
    Words w = words_of(line, n.error);
    std::string list, call, bare = last_word(w.kernel.substr(
                                      0, w.kernel.find('<')));
    size_t given = 0;
    n.before = "";
    for (const std::string &part : split(w.args, ',')) {
        std::string text = trim(part);
        if (text.empty())
            continue;
        call += (call.empty() ? "" : ", ") + argument(text, n);
        list += (list.empty() ? "" : ",") + text.substr(0, text.find(':'));
        given++;
    }
    if (n.error.empty())
        check_fits(l, bare, given, n.error);
    Lowered named = l;
    if (!named.parameters.count(bare))
        named.parameters[bare] = list;
    n.number++;
    return n.before + "        " +
           launch(named, w.kernel, "dim3(" + w.grid + "), dim3(" + w.block +
                                       "), " + w.smem) +
           "(" + call + ");\n";
}

//@ driver: Write the main function for launch lines
std::string driver(const Lowered &l, const std::vector<std::string> &lines,
                   std::string &error) {
    std::string out = "\n#line 1 \"(launches)\"\n"
                      "int main(int argc, char **argv) {\n"
                      "    sim::options(argc, argv);\n"
                      "    for (int i = 0; i < sim::orders(); i++) {\n"
                      "        sim::use_order(i);\n";
    Names names = {};
    for (const std::string &raw : lines) {
        std::string line = trim(raw);
        if (!line.compare(0, 7, "launch "))
            out += one_launch(l, line.substr(7), names);
        else if (!line.empty())
            names.error = "\"" + line + "\": expected \"launch KERNEL ...\"";
    }
    error = !names.error.empty() ? names.error
            : names.number       ? ""
                                 : "no launch line";
    return out + "    }\n    return sim::report();\n}\n";
}

} // namespace sim
