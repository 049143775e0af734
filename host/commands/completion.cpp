#include "host/commands/commands.h"
#include "host/commands/reference.h"

#include <CLI/CLI.hpp>
#include <iostream>

namespace pvtune {

namespace {

std::string joined(const std::vector<std::string>& words, const std::string& between) {
    std::string text;
    for (const std::string& word : words) text += (text.empty() ? "" : between) + word;
    return text;
}

std::string command_names(const std::vector<CommandReference>& commands) {
    std::string names;
    for (const CommandReference& command : commands) {
        if (!command.name.empty()) names += command.name + " ";
    }
    return names;
}

std::vector<std::string> flag_names(const CommandReference& command) {
    std::vector<std::string> names;
    for (const FlagReference& flag : command.flags) {
        if (!flag.positional) names.insert(names.end(), flag.names.begin(), flag.names.end());
    }
    return names;
}

/// Patterns of a `case` over "command:word before": what may follow it.
std::string bash_values(const CommandReference& command) {
    std::string cases, paths, anything;
    for (const FlagReference& flag : command.flags) {
        if (flag.value.empty() || flag.positional) continue;
        for (const std::string& name : flag.names) {
            const std::string pattern = command.name + ":" + name;
            if (!flag.choices.empty()) {
                cases += "        " + pattern + ") words='" + joined(flag.choices, " ") + "' ;;\n";
            } else {
                std::string& list = flag.takes_path() ? paths : anything;
                list += (list.empty() ? "" : "|") + pattern;
            }
        }
    }
    if (!paths.empty()) cases += "        " + paths + ") paths=1 ;;\n";
    if (!anything.empty()) cases += "        " + anything + ") ;;\n";
    return cases;
}

std::string bash_script(const std::vector<CommandReference>& commands) {
    std::string values, flags;
    for (const CommandReference& command : commands) {
        values += bash_values(command);
        if (command.name.empty()) continue;
        std::string words = joined(flag_names(command), " ");
        std::string more;
        for (const FlagReference& flag : command.flags) {
            if (!flag.positional) continue;
            if (flag.takes_path()) more = " paths=1";
            if (!flag.choices.empty()) words += " " + joined(flag.choices, " ");
        }
        flags += "        " + command.name + ":*) words='" + words + "'" + more + " ;;\n";
    }
    return "# Completion of pvtune for bash: source <(pvtune completion bash)\n"
           "_pvtune() {\n"
           "    local word=${COMP_WORDS[COMP_CWORD]} words= paths=\n"
           "    if ((COMP_CWORD == 1)); then\n"
           "        COMPREPLY=($(compgen -W '" +
           command_names(commands) + joined(flag_names(commands.front()), " ") +
           "' -- \"$word\"))\n"
           "        return\n"
           "    fi\n"
           "    case ${COMP_WORDS[1]}:${COMP_WORDS[COMP_CWORD - 1]} in\n" +
           values + flags +
           "    esac\n"
           "    COMPREPLY=($(compgen -W \"$words\" -- \"$word\"))\n"
           "    if [[ $paths && $word != -* ]]; then\n"
           "        local IFS=$'\\n'\n"
           "        COMPREPLY=($(compgen -f -- \"$word\"))\n"
           "    fi\n"
           "}\n"
           "complete -o filenames -F _pvtune pvtune\n";
}

/// Text between single quotes, for _arguments: a backslash before what it reads itself.
std::string zsh_text(const std::string& text) {
    std::string quoted;
    for (const char c : text) {
        if (c == '\'') {
            quoted += "'\\''";
            continue;
        }
        if (c == '[' || c == ']' || c == ':' || c == '\\') quoted += '\\';
        quoted += c == '\n' ? ' ' : c;
    }
    return quoted;
}

std::string zsh_value(const FlagReference& flag) {
    if (flag.value.empty()) return "";
    std::string action;
    if (!flag.choices.empty()) action = "(" + joined(flag.choices, " ") + ")";
    if (flag.takes_path()) action = "_files";
    return ":" + zsh_text(flag.value) + ":" + action;
}

std::string zsh_script(const std::vector<CommandReference>& commands) {
    std::string list, cases;
    for (const CommandReference& command : commands) {
        if (command.name.empty()) continue;
        list += "        '" + command.name + ":" + zsh_text(command.description) + "'\n";
        cases += "        " + command.name + ") _arguments";
        for (const FlagReference& flag : command.flags) {
            if (flag.positional) cases += " \\\n            '1" + zsh_value(flag) + "'";
            for (const std::string& name : flag.names) {
                if (flag.positional) break;
                cases += " \\\n            '" + name + "[" + zsh_text(flag.help) + "]" + zsh_value(flag) + "'";
            }
        }
        cases += " ;;\n";
    }
    return "#compdef pvtune\n"
           "# Completion of pvtune for zsh: source <(pvtune completion zsh), or save it as _pvtune in a folder of "
           "$fpath\n"
           "_pvtune() {\n"
           "    local -a commands=(\n" +
           list +
           "    )\n"
           "    if ((CURRENT == 2)); then\n"
           "        _describe command commands\n"
           "        compadd -- " +
           joined(flag_names(commands.front()), " ") +
           "\n"
           "        return\n"
           "    fi\n"
           "    shift words\n"
           "    ((CURRENT--))\n"
           "    case $words[1] in\n" +
           cases +
           "    esac\n"
           "}\n"
           "if [[ $funcstack[1] == _pvtune ]]; then _pvtune \"$@\"; else compdef _pvtune pvtune; fi\n";
}

}  // namespace

std::string completion_script(const std::vector<CommandReference>& commands, const std::string& shell) {
    return shell == "zsh" ? zsh_script(commands) : bash_script(commands);
}

void add_completion_command(CLI::App& app) {
    auto shell = std::make_shared<std::string>();
    CLI::App* command = app.add_subcommand("completion", "print a script that completes commands and flags in a shell");
    command->add_option("shell", *shell, "bash or zsh")->check(CLI::IsMember({"bash", "zsh"}))->required();
    command->footer("Example: pvtune completion bash > ~/.local/share/bash-completion/completions/pvtune");
    command->callback([&app, shell] { std::cout << completion_script(reference_of(app), *shell); });
}

}  // namespace pvtune
