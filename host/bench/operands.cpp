#include "host/bench/operands.h"

#include <algorithm>
#include <random>
#include <stdexcept>

namespace pvtune {

namespace {
constexpr std::int64_t noise_elements = Operands::noise_bytes / size_of(DType::f32);
constexpr std::int64_t alignment = 256;

Tensor flat(Tensor tensor) { return tensor.reshaped({tensor.elements()}); }
}  // namespace

Operands::Operands(Backend& backend, std::int64_t bytes)
    : backend_(&backend),
      pool_(backend.arena().allocate("operands", DType::u8, {bytes})),
      noise_(backend.arena().allocate("operands", DType::f32, {noise_elements})) {
    std::mt19937 generator(0);  // NOLINT(cert-msc51-cpp): the same values in every run
    constexpr float unit = 0x1p-31F;
    std::vector<float> values(noise_elements);
    for (float& value : values) value = static_cast<float>(static_cast<std::int32_t>(generator())) * unit;
    backend.upload(noise_, values.data());
    backend.synchronize();
}

void Operands::clear() {
    reset();
    backend_->ops().fill_zero(pool_);
}

Tensor Operands::fresh(DType dtype, Extents shape) {
    Tensor tensor(nullptr, dtype, shape);
    if (backend_ != nullptr) tensor.data = pool_.data + used_;
    used_ += (tensor.bytes() + alignment - 1) / alignment * alignment;
    most_ = std::max(most_, used_);
    if (backend_ != nullptr && used_ > pool_.bytes()) throw std::logic_error("an entry took more than its plan");
    return tensor;
}

Tensor Operands::zeros(DType dtype, Extents shape) {
    const Tensor tensor = fresh(dtype, shape);
    if (backend_ != nullptr) backend_->ops().fill_zero(tensor);
    return tensor;
}

template <class Next>
void Operands::upload(Tensor to, Next next) {
    if (backend_ == nullptr) return;
    const auto fill = [&]<class T>(T) {
        std::vector<T> values(static_cast<std::size_t>(to.elements()));
        for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<T>(next(static_cast<std::int64_t>(i)));
        backend_->upload(to, values.data());
        backend_->synchronize();
    };
    if (to.dtype == DType::u8) return fill(std::uint8_t{});
    if (to.dtype == DType::u16) return fill(std::uint16_t{});
    if (to.dtype == DType::u32) return fill(std::uint32_t{});
    fill(float{});
}

Tensor Operands::constant(float value, Extents shape) {
    const Tensor tensor = fresh(DType::f32, shape);
    upload(tensor, [=](std::int64_t) { return value; });
    return tensor;
}

Tensor Operands::random(DType dtype, Extents shape) {
    const Tensor tensor = fresh(dtype, shape);
    if (backend_ == nullptr) return tensor;
    for (std::int64_t first = 0; first < tensor.elements(); first += noise_elements) {
        const std::int64_t count = std::min(noise_elements, tensor.elements() - first);
        backend_->ops().convert(flat(tensor).rows(first, count), noise_.rows(0, count));
    }
    return tensor;
}

Tensor Operands::positive(Extents shape) {
    const Tensor tensor = fresh(DType::f32, shape);
    std::mt19937 generator(2);  // NOLINT(cert-msc51-cpp): the same values in every run
    upload(tensor, [&](std::int64_t) { return (static_cast<double>(generator()) + 1) * 0x1p-32; });
    return tensor;
}

Tensor Operands::integers(DType dtype, Extents shape, std::int64_t limit) {
    const Tensor tensor = fresh(dtype, shape);
    std::mt19937 generator(1);  // NOLINT(cert-msc51-cpp): the same values in every run
    upload(tensor, [&](std::int64_t) { return static_cast<std::uint64_t>(limit) * generator() >> 32; });
    return tensor;
}

Tensor Operands::ascending(std::int64_t count, std::int64_t limit) {
    const Tensor tensor = fresh(DType::u32, {count});
    upload(tensor, [&](std::int64_t i) { return i * limit / count; });
    return tensor;
}

Tensor Operands::scattered(std::int64_t count, std::int64_t limit) {
    const Tensor tensor = fresh(DType::u32, {count});
    constexpr std::int64_t prime = 16777259;  // beyond every size, so that its multiples meet each number below `limit`
    upload(tensor, [&](std::int64_t i) { return i * prime % limit; });
    return tensor;
}

}  // namespace pvtune
