#include "host/quant/stored_parts.h"

#include "host/common/text.h"
#include "io/error.h"

#include <cmath>

namespace pvtune {

void refuse_part(const StoreReader& store, const std::string& path, const std::string& fault) {
    throw Error(store.path() + ": " + path + ": " + fault + "; the file is damaged, quantise the model again");
}

std::int64_t read_attribute(const StoreReader& store, const std::string& path, const std::string& name,
                            std::int64_t least, std::int64_t most) {
    const std::int64_t value = store.integer(path, name);
    if (value < least || value > most) {
        refuse_part(store, path,
                    "attribute " + name + " is " + std::to_string(value) + ", not within " + std::to_string(least) +
                        " and " + std::to_string(most));
    }
    return value;
}

void check_shape(const StoreReader& store, const std::string& path, const TensorInfo& info,
                 const std::vector<std::int64_t>& shape) {
    if (info.shape == shape) return;
    refuse_part(store, path, "the shape is " + shape_text(info.shape) + ", not " + shape_text(shape));
}

std::vector<float> read_floats(const StoreReader& store, const std::string& path,
                               const std::vector<std::int64_t>& shape) {
    const TensorInfo info = store.info(path);
    check_shape(store, path, info, shape);
    std::vector<float> values(static_cast<std::size_t>(info.elements()));
    if (info.dtype == DType::f32) {
        store.read(path, values.data(), info.bytes());
    } else if (info.dtype == DType::f16) {
        std::vector<f16> halves(values.size());
        store.read(path, halves.data(), info.bytes());
        for (std::size_t i = 0; i < values.size(); ++i) values[i] = to_float(halves[i]);
    } else {
        refuse_part(store, path, "the type is " + std::string(name_of(info.dtype)) + ", not f16 or f32");
    }
    for (std::size_t i = 0; i < values.size(); ++i) {
        if (!std::isfinite(values[i])) refuse_part(store, path, "element " + std::to_string(i) + " is not finite");
    }
    return values;
}

std::vector<std::uint8_t> read_bytes(const StoreReader& store, const std::string& path,
                                     const std::vector<std::int64_t>& shape) {
    const TensorInfo info = store.info(path);
    check_shape(store, path, info, shape);
    if (info.dtype != DType::u8) {
        refuse_part(store, path, "the type is " + std::string(name_of(info.dtype)) + ", not u8");
    }
    std::vector<std::uint8_t> bytes(static_cast<std::size_t>(info.elements()));
    store.read(path, bytes.data(), info.bytes());
    return bytes;
}

void round_to_halves(Backend& backend, Tensor values) {
    std::vector<float> host(static_cast<std::size_t>(values.elements()));
    backend.download(host.data(), values);
    for (float& value : host) value = round_to_f16(value);
    backend.upload(values, host.data());
}

void save_floats(Backend& backend, StoreWriter& store, const std::string& path, Tensor values, bool exact) {
    std::vector<float> host(static_cast<std::size_t>(values.elements()));
    backend.download(host.data(), values);
    if (exact) return store.write(path, DType::f32, values.extents(), host.data());
    std::vector<f16> halves(host.size());
    for (std::size_t i = 0; i < host.size(); ++i) {
        halves[i] = from_float<f16>(host[i]);
        if (!std::isfinite(to_float(halves[i]))) {
            throw Error(path + ": element " + std::to_string(i) + " is " + std::to_string(host[i]) +
                        ", beyond 16 bits: use a lower --lr (tune) or --block-lr (quantize)");
        }
    }
    store.write(path, DType::f16, values.extents(), halves.data());
}

}  // namespace pvtune
