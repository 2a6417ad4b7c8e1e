//@ top: Declare the translation from CUDA to C++
/* lower.h - what cusim does to a kernel file before a C++ compiler sees it. */
#ifndef SIM_LOWER_H
#define SIM_LOWER_H

#include <map>
#include <string>
#include <vector>

//@ lowered: Hold a translated file and what was learnt on the way
namespace sim {

struct Lowered {
    std::string text;
    std::map<std::string, std::string> parameters; /* kernel -> "x,y,n" */
    std::vector<std::string> launches;             /* "//sim" lines */
    bool has_main;
    std::string error; /* empty if all went well */
};

Lowered lower(const std::string &text, const std::string &file);

/* A main function that makes the launches described. */
std::string driver(const Lowered &l, const std::vector<std::string> &lines,
                   std::string &error);

/* Pieces of text between commas that stand in no bracket. */
std::vector<std::string> split(const std::string &text, char at);
std::string trim(const std::string &text);

} // namespace sim

#endif
