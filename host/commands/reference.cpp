#include "host/commands/reference.h"

#include <CLI/CLI.hpp>

namespace pvtune {

namespace {

/// "TEXT:{cpu,cuda}" -> cpu, cuda. CLI11 shows its checks behind the name of the type.
std::vector<std::string> choices_of(const std::string& type) {
    const auto begin = type.find(":{");
    if (begin == type.npos || !type.ends_with('}')) return {};
    std::vector<std::string> choices{""};
    for (const char c : type.substr(begin + 2, type.size() - begin - 3)) {
        if (c == ',') {
            choices.emplace_back();
        } else {
            choices.back() += c;
        }
    }
    return choices;
}

FlagReference reference_of(const CLI::Option& option) {
    FlagReference flag;
    flag.positional = !option.nonpositional();
    if (flag.positional) flag.names = {option.get_name(true)};
    for (const std::string& name : option.get_snames()) flag.names.push_back("-" + name);
    for (const std::string& name : option.get_lnames()) flag.names.push_back("--" + name);
    if (option.get_items_expected_max() > 0) {
        const std::string type = option.get_type_name();
        flag.value = type.substr(0, type.find(':'));
        flag.choices = choices_of(type);
    }
    flag.initial = option.get_default_str();
    flag.required = option.get_required();
    flag.help = option.get_description();
    return flag;
}

CommandReference reference_of_command(const CLI::App& app) {
    CommandReference command{app.get_name(), app.get_description(), app.get_footer(), {}};
    for (const CLI::Option* option : app.get_options()) command.flags.push_back(reference_of(*option));
    return command;
}

}  // namespace

std::vector<CommandReference> reference_of(const CLI::App& app) {
    std::vector<CommandReference> commands{reference_of_command(app)};
    commands.front().name.clear();
    for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
        commands.push_back(reference_of_command(*command));
    }
    return commands;
}

}  // namespace pvtune
