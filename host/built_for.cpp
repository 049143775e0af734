// The program is built with -march=native. On a CPU that lacks what the building one had it would die of an illegal
// instruction, perhaps before main(): the constructors of globals come first. So this comes before those, in
// instructions that every x86-64 has.

#if defined(__x86_64__)

#include <unistd.h>
#include <cstring>

namespace {

__attribute__((target("arch=x86-64"))) void write_error(const char* text) {
    if (write(STDERR_FILENO, text, strlen(text)) < 0) return;
}

// A macro, for the builtin takes literals only.
#define REQUIRE(feature) \
    if (!__builtin_cpu_supports(feature)) missing = feature

__attribute__((constructor(101), target("arch=x86-64"))) void refuse_lesser_cpu() {
    __builtin_cpu_init();
    const char* missing = nullptr;
#ifdef __FMA4__
    REQUIRE("fma4");
#endif
#ifdef __AVX512BF16__
    REQUIRE("avx512bf16");
#endif
#ifdef __AVX512VNNI__
    REQUIRE("avx512vnni");
#endif
#ifdef __AVX512VBMI__
    REQUIRE("avx512vbmi");
#endif
#ifdef __AVX512BW__
    REQUIRE("avx512bw");
#endif
#ifdef __AVX512F__
    REQUIRE("avx512f");
#endif
#ifdef __FMA__
    REQUIRE("fma");
#endif
#ifdef __AVX2__
    REQUIRE("avx2");
#endif
    if (missing == nullptr) return;
    write_error("pvtune: built for a CPU with ");
    write_error(missing);
    write_error(", which this one lacks: run `make build` on this machine\n");
    _exit(2);
}

}  // namespace

#endif
