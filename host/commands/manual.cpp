#include "host/commands/commands.h"
#include "host/commands/reference.h"

#include <CLI/CLI.hpp>
#include <iostream>

namespace pvtune {

namespace {

/// Plain text as roff: its backslashes, hyphens that can be copied, and no line that starts like a request.
std::string roff(const std::string& text) {
    std::string escaped;
    bool line_start = true;
    for (const char c : text) {
        if (line_start && (c == '.' || c == '\'')) escaped += "\\&";
        if (c == '\\') {
            escaped += "\\e";
        } else if (c == '-') {
            escaped += "\\-";
        } else {
            escaped += c;
        }
        line_start = c == '\n';
    }
    return escaped;
}

/// Lines as they are.
std::string verbatim(const std::string& text) { return ".nf\n" + roff(text) + "\n.fi\n"; }

std::string flag_text(const FlagReference& flag) {
    std::string head;
    for (const std::string& name : flag.names) head += (head.empty() ? "" : ", ") + ("\\fB" + roff(name) + "\\fR");
    std::string values;
    for (const std::string& choice : flag.choices) values += (values.empty() ? "" : "|") + choice;
    if (!flag.value.empty() && !flag.positional) {
        head += " \\fI" + roff(values.empty() ? flag.value : values) + "\\fR";
    }
    std::string text = roff(flag.help);
    if (flag.positional && !values.empty()) text += " (" + roff(values) + ")";
    if (flag.required) text += " (required)";
    if (!flag.initial.empty()) text += " [" + roff(flag.initial) + "]";
    return ".TP\n" + head + "\n" + text + "\n";
}

std::string section(const std::string& name, const std::string& text) { return ".SH " + name + "\n" + text + "\n"; }

}  // namespace

std::string manual_page(const std::vector<CommandReference>& commands, const std::string& version) {
    const CommandReference& program = commands.front();
    std::string page = ".TH PVTUNE 1 \"\" \"" + roff(version) + "\" \"User Commands\"\n";
    page += section("NAME", "pvtune \\- " + roff(program.description));
    page += section("SYNOPSIS", "\\fBpvtune\\fR \\fICOMMAND\\fR [\\fIFLAGS\\fR]");
    page += section("DESCRIPTION", verbatim(program.footer));
    page += ".SH OPTIONS\n";
    for (const FlagReference& flag : program.flags) page += flag_text(flag);
    page += ".SH COMMANDS\n";
    for (const CommandReference& command : commands) {
        if (command.name.empty()) continue;
        page += ".SS \"pvtune " + roff(command.name) + "\"\n" + roff(command.description) + "\n";
        for (const FlagReference& flag : command.flags) page += flag_text(flag);
        page += ".PP\n" + verbatim(command.footer);
    }
    page += section("EXIT STATUS",
                    "0: done. 1: a fault of the program. 2: something a user can mend, said in one line on standard "
                    "error. 130: interrupted.");
    page += section("ENVIRONMENT",
                    ".TP\n\\fBOMP_NUM_THREADS\\fR\nthreads, where \\fB\\-\\-threads\\fR is not given\n"
                    ".TP\n\\fBPVTUNE_SCRIPTS\\fR, \\fBPVTUNE_PYTHON\\fR\nthe folder scripts/ and the Python that text "
                    "commands use, where they are not where the program was built");
    return page;
}

void add_manual_command(CLI::App& app) {
    CLI::App* command = app.add_subcommand("manual", "print the manual page");
    command->footer("Example: pvtune manual > pvtune.1 && man ./pvtune.1");
    command->callback([&app] { std::cout << manual_page(reference_of(app), app.version()); });
}

}  // namespace pvtune
