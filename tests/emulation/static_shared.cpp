// Finds the __shared__ variables of the kernels. They are the thread_local statics of functions in pvtune::cuda
// (qualifiers.h), so that this program's own symbol table lists them: the loader says where thread-local memory is.
#include "tests/emulation/static_shared.h"

#include <cxxabi.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <string_view>

namespace pvtune::cuda::emulation {
namespace {

/// This program's file in memory.
class Program {
public:
    Program() {
        const int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
        if (file < 0) return;
        struct stat status {};
        if (fstat(file, &status) == 0) {
            bytes_ = static_cast<std::size_t>(status.st_size);
            void* memory = mmap(nullptr, bytes_, PROT_READ, MAP_PRIVATE, file, 0);
            if (memory != MAP_FAILED) data_ = static_cast<const std::byte*>(memory);
        }
        close(file);
    }
    ~Program() {
        if (data_ != nullptr) munmap(const_cast<std::byte*>(data_), bytes_);
    }
    Program(const Program&) = delete;
    Program& operator=(const Program&) = delete;

    template <class T>
    const T* at(std::size_t offset) const {
        return reinterpret_cast<const T*>(data_ + offset);
    }
    bool there() const { return data_ != nullptr; }

private:
    const std::byte* data_ = nullptr;
    std::size_t bytes_ = 0;
};

/// The thread-local memory of the program itself for this OS thread, null if it has none.
std::byte* thread_local_memory() {
    std::byte* memory = nullptr;
    const auto take_first = [](dl_phdr_info* info, std::size_t, void* out) {
        *static_cast<std::byte**>(out) = static_cast<std::byte*>(info->dlpi_tls_data);
        return 1;  // the first is the program
    };
    dl_iterate_phdr(take_first, static_cast<void*>(&memory));
    return memory;
}

std::string readable(const char* symbol) {
    int status = 0;
    char* text = abi::__cxa_demangle(symbol, nullptr, nullptr, &status);
    std::string name = text != nullptr ? text : symbol;
    std::free(text);
    const auto last = name.rfind("::");
    return last == std::string::npos ? name : name.substr(last + 2);
}

std::vector<SharedVariable> find() {
    std::vector<SharedVariable> found;
    std::byte* memory = thread_local_memory();
    const Program program;
    if (memory == nullptr || !program.there()) return found;
    const auto* header = program.at<ElfW(Ehdr)>(0);
    const auto* sections = program.at<ElfW(Shdr)>(header->e_shoff);
    for (int i = 0; i < header->e_shnum; ++i) {
        if (sections[i].sh_type != SHT_SYMTAB) continue;
        const char* names = program.at<char>(sections[sections[i].sh_link].sh_offset);
        const auto* symbols = program.at<ElfW(Sym)>(sections[i].sh_offset);
        for (std::size_t j = 0; j < sections[i].sh_size / sizeof(ElfW(Sym)); ++j) {
            const std::string_view name = names + symbols[j].st_name;
            if (ELF64_ST_TYPE(symbols[j].st_info) != STT_TLS || symbols[j].st_shndx == SHN_UNDEF) continue;
            if (!name.starts_with("_ZZN6pvtune4cuda") || name.starts_with("_ZZN6pvtune4cuda9emulation")) continue;
            found.push_back({memory + symbols[j].st_value, symbols[j].st_size, readable(name.data())});
        }
    }
    std::sort(found.begin(), found.end(),
              [](const SharedVariable& a, const SharedVariable& b) { return a.data < b.data; });
    return found;
}

}  // namespace

const std::vector<SharedVariable>& shared_variables() {
    // One OS thread runs every kernel, but not always the same one.
    static thread_local const std::vector<SharedVariable> variables = find();
    return variables;
}

const SharedVariable* shared_variable_at(const void* address) {
    const auto& variables = shared_variables();
    const auto* byte = static_cast<const std::byte*>(address);
    if (variables.empty() || byte < variables.front().data) return nullptr;
    const auto after =
        std::upper_bound(variables.begin(), variables.end(), byte,
                         [](const std::byte* at, const SharedVariable& variable) { return at < variable.data; });
    const SharedVariable& candidate = *(after - 1);
    return byte < candidate.data + candidate.bytes ? &candidate : nullptr;
}

}  // namespace pvtune::cuda::emulation
