// The registry of `pvtune bench`, shares of limits, results that are kept and compared.
#include "host/bench/result.h"
#include "host/bench/table.h"
#include "tests/files.h"

#include <set>

namespace pvtune {
namespace {

using namespace pvtune::testing;

constexpr const char* tiny = "width=32,intermediate=48,heads=4,kv_heads=2,head_dim=8,vocabulary=50,tokens=12";

TEST(BenchShapeTest, ModelsAndSizes) {
    const BenchShape model = parse_shape("7b");
    EXPECT_EQ(model.width, 4096);
    EXPECT_EQ(model.head_dim, 128);
    EXPECT_EQ(model.tokens(), 4096);
    const BenchShape fewer = parse_shape("70b,tokens=256,kv_heads=16");
    EXPECT_EQ(fewer.width, 8192);
    EXPECT_EQ(fewer.tokens(), 256);
    EXPECT_EQ(fewer.kv_heads, 16);
    EXPECT_EQ(parse_shape("width=64").heads, parse_shape("smollm2").heads);
    EXPECT_EQ(parse_shape(tiny).name, tiny);
}

TEST(BenchShapeTest, Refused) {
    for (const char* text : {"", "8b", "7b,1b", "width", "depth=3", "width=", "width=x", "width=0", "width=-8",
                             "width=99999999999", "width=12", "heads=4,kv_heads=3", "head_dim=7", "head_dim=512"}) {
        EXPECT_ERROR(parse_shape(text), "--shape", text);
    }
}

BenchSetting cpu_setting(Backend& backend, DType precision) { return {&backend, true, precision, parse_shape(tiny)}; }

TEST(BenchRegistryTest, EveryEntryRunsInTheMemoryOfItsPlan) {
    for (const DType precision : {DType::f32, DType::bf16}) {
        const auto backend = make_cpu_backend({});
        const BenchSetting setting = cpu_setting(*backend, precision);
        const Tensor flush = backend->arena().allocate("flush", DType::f32, {64});
        const Registry registry = bench_registry(setting);
        std::map<std::string, std::int64_t> bytes;
        std::int64_t most = 0;
        for (const BenchEntry& entry : registry) {
            Operands counting;
            entry.make(counting);
            EXPECT_TRUE(bytes.emplace(entry.name(), counting.bytes()).second) << entry.name();
            most = std::max(most, counting.bytes());
        }
        Operands operands(*backend, most);
        for (const BenchEntry& entry : registry) {
            EXPECT_EQ(entry.version.empty(), entry.reason.empty()) << entry.name();
            operands.reset();
            const BenchCall call = entry.make(operands);
            EXPECT_EQ(operands.in_use(), bytes[entry.name()]) << entry.name();
            EXPECT_GT(call.bytes, 0) << entry.name();
            const CallTimes times = time_call(*backend, call, flush, 0);
            EXPECT_GE(times.runs, 3);
            EXPECT_GE(times.median, times.fastest);
        }
    }
}

TEST(BenchRegistryTest, VersionsFollowTheirOperation) {
    Registry registry;
    for (const char* op : {"a", "b", "c"}) registry.push_back({op, "", "", {}});
    add_version(registry, {"b", "x", "slow", {}});
    add_version(registry, {"b", "y", "slow", {}});
    add_version(registry, {"d", "", "", {}});
    std::string names;
    for (const BenchEntry& entry : registry) names += entry.name() + " ";
    EXPECT_EQ(names, "a b b@x b@y c d ");
}

TEST(BenchRegistryTest, BytesAndFlops) {
    const auto backend = make_cpu_backend({});
    const BenchSetting setting = cpu_setting(*backend, DType::bf16);
    std::map<std::string, BenchCall> calls;
    for (const BenchEntry& entry : bench_registry(setting)) {
        Operands counting;
        calls[entry.name()] = entry.make(counting);
    }
    EXPECT_EQ(calls["add"].bytes, 3 * 12 * 32 * 2);
    EXPECT_EQ(calls["linear_forward"].bytes, 2 * (12 * 32 + 12 * 48 + 48 * 32));
    EXPECT_EQ(calls["linear_forward"].flops, 2 * 12 * 32 * 48);
    EXPECT_EQ(calls["linear_forward_one_token"].flops, 2 * 32 * 48);
    EXPECT_EQ(calls["attention_forward"].flops, 2 * 12 * 12 * 4 * 8);
    EXPECT_EQ(calls["attention_backward"].flops, 5 * 12 * 12 * 4 * 8);
    EXPECT_EQ(calls["dequantize_additive_2x8"].bytes, 2 * 48 * 4 + 2 * 256 * 8 * 4 + 48 * 4 + 48 * 32 * 2);
    EXPECT_EQ(calls["assign_additive_1x8"].products, DType::f32);
    EXPECT_EQ(calls["mse_loss"].bytes, 3 * 12 * 32 * 2 + 12 * 4);
    EXPECT_EQ(calls["linear_from_scalar"].bytes, 48 * 32 + 2 * 48 * 4 + (32 + 48) * 2);
    EXPECT_EQ(calls["hessian_accumulate"].bytes, 12 * 32 * 2 + 1.5 * 32 * 32 * 4);
}

TEST(OperandsTest, Values) {
    const auto backend = make_cpu_backend({});
    Operands operands(*backend, 1 << 16);
    const Tensor random = operands.random(DType::f32, {10, 100});
    std::set<float> values(random.as<float>(), random.as<float>() + 1000);
    EXPECT_GT(values.size(), 990U);
    EXPECT_GE(*values.begin(), -1);
    EXPECT_LT(*values.rbegin(), 1);
    const Tensor scores = operands.positive({1000});
    EXPECT_GT(*std::min_element(scores.as<float>(), scores.as<float>() + 1000), 0);
    EXPECT_LE(*std::max_element(scores.as<float>(), scores.as<float>() + 1000), 1);
    const Tensor codes = operands.integers(DType::u16, {500}, 300);
    EXPECT_LT(*std::max_element(codes.as<std::uint16_t>(), codes.as<std::uint16_t>() + 500), 300);
    const Tensor chosen = operands.ascending(7, 50);
    EXPECT_EQ(std::set<std::uint32_t>(chosen.as<std::uint32_t>(), chosen.as<std::uint32_t>() + 7).size(), 7U);
    const Tensor tokens = operands.scattered(50, 50);
    EXPECT_EQ(std::set<std::uint32_t>(tokens.as<std::uint32_t>(), tokens.as<std::uint32_t>() + 50).size(), 50U);
    operands.reset();
    EXPECT_EQ(operands.zeros(DType::f32, {3}).data, random.data);
    EXPECT_EQ(random.as<float>()[2], 0);
}

BenchResult result_of(const std::string& op, double seconds, double bytes, double flops) {
    BenchResult result;
    result.op = op;
    result.shape = parse_shape("1b");
    result.bytes = bytes;
    result.flops = flops;
    result.products = DType::bf16;
    result.times = {seconds, seconds / 2, 5};
    return result;
}

const MachineLimits limits{100e9, 10e12, 1e12};

TEST(ShareTest, TheLimitThatTakesLongerBinds) {
    const Share copy = share_of(result_of("a", 2, 100e9, 0), limits, DType::bf16);
    EXPECT_DOUBLE_EQ(copy.value, 0.5);
    EXPECT_STREQ(copy.limit, "copy");
    const Share product = share_of(result_of("a", 4, 100e9, 30e12), limits, DType::bf16);
    EXPECT_DOUBLE_EQ(product.value, 0.75);
    EXPECT_STREQ(product.limit, "GEMM");
    BenchResult f32 = result_of("a", 4, 100e9, 3e12);
    f32.products = DType::f32;
    EXPECT_DOUBLE_EQ(share_of(f32, limits, DType::bf16).value, 0.75);
    EXPECT_STREQ(share_of(f32, limits, DType::bf16).limit, "f32 GEMM");
    EXPECT_STREQ(share_of(f32, limits, DType::f32).limit, "copy");  // 3e12 / 10e12 < 1: f32 is the precision
}

BenchRun run_of(std::vector<BenchResult> results) {
    return {"a device", "bf16", 2, 1 << 20, limits, std::move(results)};
}

TEST(CompareTest, RatiosOfWhatWasThere) {
    const TemporaryFolder folder;
    const std::string path = folder.file("before.json");
    BenchResult skipped = result_of("large", 1, 1, 0);
    skipped.skipped = "needs more";
    BenchResult version = result_of("op", 4, 1e9, 0);
    version.version = "plain";
    write_file(path, to_json(run_of({result_of("op", 2, 1e9, 0), version, skipped})).dump());
    const EarlierRun earlier = read_earlier_run(path);
    EXPECT_EQ(earlier.device, "a device");
    EXPECT_EQ(earlier.seconds.size(), 2U);
    EXPECT_DOUBLE_EQ(earlier.ratio(result_of("op", 3, 1e9, 0)).value(), 1.5);
    EXPECT_DOUBLE_EQ(earlier.ratio(version).value(), 1);
    EXPECT_FALSE(earlier.ratio(result_of("other", 3, 1e9, 0)).has_value());
    EXPECT_FALSE(earlier.ratio(result_of("large", 3, 1e9, 0)).has_value());
    EXPECT_FALSE(earlier.ratio(skipped).has_value());
    BenchResult resized = result_of("op", 3, 1e9, 0);
    resized.shape.width *= 2;
    EXPECT_FALSE(earlier.ratio(resized).has_value()) << "other sizes under the same name";

    const std::string table =
        table_text(run_of({result_of("op", 2.2, 1e9, 0), result_of("new", 1, 1, 0), skipped}), &earlier);
    EXPECT_NE(table.find(" 1.10  slower\n"), std::string::npos) << table;
    EXPECT_NE(table.find("1 more than 5 % slower"), std::string::npos) << table;
    EXPECT_NE(table.find("skipped: needs more"), std::string::npos) << table;
    EXPECT_EQ(table_text(run_of({result_of("op", 2.05, 1e9, 0)}), &earlier).find("slower\n  "), std::string::npos);
}

TEST(CompareTest, DamagedAndForeignFiles) {
    const TemporaryFolder folder;
    const std::string path = folder.file("before.json");
    EXPECT_ERROR(read_earlier_run(path), path, "no such file");
    const std::string whole = to_json(run_of({result_of("op", 2, 1e9, 0)})).dump();
    const auto refused = [&](std::string content, const char* words) {
        write_file(path, content);
        EXPECT_ERROR(read_earlier_run(path), path, words);
    };
    const auto changed = [&](const std::string& from, const std::string& to) {
        std::string text = whole;
        EXPECT_NE(text.find(from), std::string::npos) << from;
        return text.replace(text.find(from), from.size(), to);
    };
    refused("", "damaged");
    refused("no json", "damaged");
    refused("[1]", "not a result");
    refused("{\"operations\":[]}", "not a result");
    refused(whole.substr(0, whole.size() / 2), "damaged");
    refused(changed("\"pvtune_bench\":1", "\"pvtune_bench\":2"), "newer");
    refused(changed("\"shape\":\"1b\"", "\"shape\":\"2b\""), "damaged");
    refused(changed("\"seconds\":2.0", "\"seconds\":\"2\""), "damaged");
    refused(changed("\"seconds\":2.0", "\"seconds\":0"), "damaged");
    refused(changed("\"entries\":[", "\"entries\":[3,"), "damaged");
}

TEST(CompareTest, AVersionThatBeatsTheStandardIsTold) {
    BenchResult version = result_of("op", 1, 1, 0);
    version.version = "other";
    EXPECT_EQ(faster_versions({result_of("op", 2, 1, 0), version}).size(), 1U);
    EXPECT_TRUE(faster_versions({result_of("op", 1.02, 1, 0), version}).empty());
    EXPECT_TRUE(faster_versions({result_of("another", 2, 1, 0), version}).empty());
    version.skipped = "needs more";
    EXPECT_TRUE(faster_versions({result_of("op", 2, 1, 0), version}).empty());
}

}  // namespace
}  // namespace pvtune
