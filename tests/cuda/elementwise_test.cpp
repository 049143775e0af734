#include "host/backend/cpu/cpu_ops.h"
#include "tests/cuda/device_tensors.h"

namespace pvtune::cuda {
namespace {

// One operation an element, rounded once on both sides: the same bits as on the CPU.

template <class T>
void expect_add_agrees(std::int64_t count) {
    const OwnedTensor a = random_tensor(dtype_of<T>, {count}, 1);
    const OwnedTensor b = random_tensor(dtype_of<T>, {count}, 2);
    OwnedTensor expected(dtype_of<T>, {count});
    cpu::add(expected, a, b);
    const DeviceTensor left(a);
    const DeviceTensor right(b);
    const DeviceTensor out(dtype_of<T>, {count});
    add(out.as<T>(), left.as<T>(), right.as<T>(), count, nullptr);
    EXPECT_TRUE(same_bits(out.download(), expected)) << count;
    add(left.as<T>(), left.as<T>(), right.as<T>(), count, nullptr);
    EXPECT_TRUE(same_bits(left.download(), expected)) << count << ", in place";
}

TEST(CudaAdd, AgreesWithTheCpuInPlaceToo) {
    for_each_schedule([] {
        for (const std::int64_t count : {1, 7, 8, 33, 2055}) {
            expect_add_agrees<float>(count);
            expect_add_agrees<bf16>(count);
        }
    });
}

template <class T>
void expect_scale_agrees(std::int64_t count) {
    OwnedTensor expected = random_tensor(dtype_of<T>, {count}, 1);
    const DeviceTensor values(expected);
    cpu::scale(expected, 4.6F);
    scale(values.as<T>(), 4.6F, count, nullptr);
    EXPECT_TRUE(same_bits(values.download(), expected)) << count;
}

TEST(CudaScale, AgreesWithTheCpu) {
    for_each_schedule([] {
        for (const std::int64_t count : {1, 7, 8, 33, 2055}) {
            expect_scale_agrees<float>(count);
            expect_scale_agrees<bf16>(count);
        }
    });
}

template <class To, class From>
void expect_convert_agrees(std::int64_t count) {
    const OwnedTensor in = random_tensor(dtype_of<From>, {count}, 1, 1e3);
    OwnedTensor expected(dtype_of<To>, {count});
    cpu::convert(expected, in);
    const DeviceTensor from(in);
    const DeviceTensor to(dtype_of<To>, {count});
    convert(to.as<To>(), from.as<From>(), count, nullptr);
    EXPECT_TRUE(same_bits(to.download(), expected)) << count;
}

TEST(CudaConvert, AgreesWithTheCpu) {
    for_each_schedule([] {
        for (const std::int64_t count : {1, 3, 4, 1029}) {
            expect_convert_agrees<float, float>(count);
            expect_convert_agrees<float, bf16>(count);
            expect_convert_agrees<bf16, float>(count);
            expect_convert_agrees<bf16, bf16>(count);
        }
    });
}

TEST(CudaConvertByChance, HasTheBitsOfTheCpu) {
    for_each_schedule([] {
        for (const std::int64_t count : {1, 3, 4, 1029}) {
            OwnedTensor in = random_tensor(DType::f32, {count}, 1, 1e3);
            in.set(count / 2, count % 2 == 0 ? INFINITY : NAN);
            OwnedTensor expected(DType::bf16, {count});
            cpu::convert_by_chance(expected, in, 12345);
            const DeviceTensor from(in);
            const DeviceTensor to(DType::bf16, {count});
            convert_by_chance(to.as<bf16>(), from.as<float>(), 12345, count, nullptr);
            EXPECT_TRUE(same_bits(to.download(), expected)) << count;
        }
    });
}

template <class T>
void expect_add_bias_agrees(std::int64_t tokens, std::int64_t width) {
    const OwnedTensor in = random_tensor(dtype_of<T>, {tokens, width}, 1);
    const OwnedTensor bias = random_tensor(DType::f32, {width}, 2);
    OwnedTensor expected = in;
    for (std::int64_t i = 0; i < tokens * width; ++i) {
        T& value = expected->as<T>()[i];
        value = from_float<T>(to_float(value) + bias->as<float>()[i % width]);
    }
    const DeviceTensor out(in);
    add_bias(out.as<T>(), DeviceTensor(bias).as<float>(), tokens, width, nullptr);
    EXPECT_TRUE(same_bits(out.download(), expected)) << tokens << " x " << width;
}

TEST(CudaAddBias, AgreesWithPlainLoops) {
    for_each_schedule([] {
        for (const std::int64_t tokens : {1, 8, 19}) {
            for (const std::int64_t width : {1, 30, 64, 1000, 2056}) {
                expect_add_bias_agrees<float>(tokens, width);
                expect_add_bias_agrees<bf16>(tokens, width);
            }
        }
    });
}

TEST(CudaElementwise, NothingToDoIsNoError) {
    add<float>(nullptr, nullptr, nullptr, 0, nullptr);
    convert<bf16, float>(nullptr, nullptr, 0, nullptr);
    add_bias<float>(nullptr, nullptr, 0, 8, nullptr);
    finish();
}

}  // namespace
}  // namespace pvtune::cuda
