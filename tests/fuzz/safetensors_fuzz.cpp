// Any bytes as a .safetensors file: an Error, or tensors whose every byte can be read.
#include "io/error.h"
#include "io/safetensors.h"
#include "tests/fuzz/input_file.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const InputFile input(data, size);
    try {
        const pvtune::SafetensorsFolder folder(input.path());
        volatile unsigned sum = 0;
        for (const auto& name : folder.names()) {
            const auto bytes = folder.info(name).bytes();
            const std::byte* tensor = folder.data(name);
            for (std::int64_t i = 0; i < bytes; ++i) sum = sum + static_cast<unsigned>(tensor[i]);
            if (folder.info(name).elements() * size_of(folder.info(name).dtype) != bytes) std::abort();
        }
    } catch (const pvtune::Error&) {
    }
    return 0;
}
