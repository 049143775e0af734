#include "io/hdf5_handles.h"

#include <array>
#include <bit>

namespace pvtune::hdf5 {
namespace {

static_assert(std::endian::native == std::endian::little, "stores are little endian and are read without conversion");

std::recursive_mutex& library_mutex() {
    static std::recursive_mutex mutex;
    return mutex;
}

herr_t keep_first(unsigned depth, const H5E_error2_t* entry, void* data) {
    if (depth == 0 && entry->desc != nullptr) *static_cast<std::string*>(data) = entry->desc;
    return 0;
}

/// Sign, exponent and mantissa as one 16-bit little-endian float.
hid_t make_half(std::size_t exponent_bits, std::size_t exponent_bias) {
    const std::size_t mantissa_bits = 15 - exponent_bits;
    const hid_t type = H5Tcopy(H5T_IEEE_F32LE);
    // The fields first: HDF5 refuses a size that the present fields do not fit.
    H5Tset_fields(type, 15, mantissa_bits, exponent_bits, 0, mantissa_bits);
    H5Tset_size(type, 2);
    H5Tset_ebias(type, exponent_bias);
    return type;
}

constexpr std::array all_types = {DType::f32, DType::bf16, DType::f16, DType::f64, DType::u8,
                                  DType::u16, DType::u32,  DType::i32, DType::i64};

}  // namespace

Session::Session() : lock_(library_mutex()) {
    [[maybe_unused]] static const bool once = [] {
        H5dont_atexit();
        H5open();
        H5PLset_loading_state(0);
        return true;
    }();
    // A thread-safe HDF5 keeps one error stack, with its own printing, for every thread.
    thread_local bool quiet = false;
    if (!quiet) quiet = H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr) >= 0;
}

std::string take_message() {
    std::string message;
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, keep_first, &message);
    H5Eclear2(H5E_DEFAULT);
    for (char& c : message)
        if (static_cast<unsigned char>(c) < 0x20) c = ' ';
    return message.empty() ? "no reason given by HDF5" : message;
}

Id file_type(DType type) {
    const auto standard = [](hid_t id) { return Id(H5Tcopy(id), H5Tclose); };
    switch (type) {
        case DType::f32:
            return standard(H5T_IEEE_F32LE);
        case DType::bf16:
            return {make_half(8, 127), H5Tclose};
        case DType::f16:
            return {make_half(5, 15), H5Tclose};
        case DType::f64:
            return standard(H5T_IEEE_F64LE);
        case DType::u8:
            return standard(H5T_STD_U8LE);
        case DType::u16:
            return standard(H5T_STD_U16LE);
        case DType::u32:
            return standard(H5T_STD_U32LE);
        case DType::i32:
            return standard(H5T_STD_I32LE);
        case DType::i64:
            return standard(H5T_STD_I64LE);
    }
    return {};
}

std::optional<DType> recognise(hid_t type) {
    for (const DType candidate : all_types)
        if (H5Tequal(type, file_type(candidate).get()) > 0) return candidate;
    return std::nullopt;
}

}  // namespace pvtune::hdf5
