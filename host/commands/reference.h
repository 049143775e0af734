#pragma once

#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace pvtune {

/// A flag or a positional argument, as shell completion and the manual page show it.
struct FlagReference {
    std::vector<std::string> names;  ///< "-h", "--help"; of an argument that is not a flag: its name alone
    bool positional = false;
    std::string value;                 ///< what it takes: FILE, N, ...; empty: nothing
    std::vector<std::string> choices;  ///< the only values it takes; empty: any
    std::string initial;               ///< what it is when it is left out; empty: nothing or not told
    bool required = false;
    std::string help;

    bool takes_path() const { return value == "FILE" || value == "DIR"; }
};

struct CommandReference {
    std::string name;  ///< empty: the program itself
    std::string description;
    std::string footer;
    std::vector<FlagReference> flags;
};

/// The program, then its commands, in the order of --help.
std::vector<CommandReference> reference_of(const CLI::App& app);

/// A script that completes commands, flags and values; shell: bash or zsh.
std::string completion_script(const std::vector<CommandReference>& commands, const std::string& shell);

/// The manual page in the roff language of man(7).
std::string manual_page(const std::vector<CommandReference>& commands, const std::string& version);

}  // namespace pvtune
