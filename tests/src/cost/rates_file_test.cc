#include "src/cost/rates_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "kernels/common/error.h"
#include "src/cost/known_gpus.h"

namespace qat {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class RatesFile : public ::testing::Test {
 protected:
  std::filesystem::path write(const std::string& text) {
    std::ofstream(path_) << text;
    return path_;
  }
  std::string error(const std::string& text) {
    try {
      read_rates(write(text));
    } catch (const Error& thrown) {
      EXPECT_EQ(thrown.kind(), ErrorKind::kConfig);
      return thrown.what();
    }
    return "nothing";
  }
  static std::string replaced(std::string text, const std::string& what, const std::string& with) {
    const std::size_t at = text.find(what);
    return at == std::string::npos ? "not found: " + what : text.replace(at, what.size(), with);
  }
  void TearDown() override { std::filesystem::remove(path_); }

  const std::filesystem::path path_ =
      std::filesystem::temp_directory_path() / ("rates_" + std::to_string(::getpid()) + ".json");
  const MeasuredDevice measured_{.device = "NVIDIA H100 80GB HBM3",
                                 .cuda = true,
                                 .host = "node1",
                                 .made = "2026-11-30",
                                 .memory_bytes = 85'000'000'000,
                                 .cores = 16,
                                 .rates = find_gpu("H100")->rates,
                                 .links = {.node_bytes = 1.25e11, .node_latency_s = 1.2e-5}};
};

TEST_F(RatesFile, ReadsWhatWasWritten) {
  const MeasuredDevice read = read_rates(write(rates_text(measured_)));
  EXPECT_EQ(read.device, measured_.device);
  EXPECT_TRUE(read.cuda);
  EXPECT_EQ(read.memory_bytes, measured_.memory_bytes);
  EXPECT_EQ(read.cores, 16);
  EXPECT_EQ(read.rates.code_products, measured_.rates.code_products);
  EXPECT_EQ(read.rates.part_backward_s, measured_.rates.part_backward_s);
  MeasuredDevice core = measured_;
  core.rates = cpu_rates(1);
  const DeviceRates of_core = read_rates(write(rates_text(core))).rates;
  EXPECT_EQ(of_core.edge_parts, 0.2);
  EXPECT_EQ(of_core.row_backward_s, cpu_rates(1).row_backward_s);
  EXPECT_EQ(read.links.node_bytes, 1.25e11);
  EXPECT_EQ(read.links.network_bytes, 0.0);
  EXPECT_EQ(read.links.node_latency_s, 1.2e-5);
  EXPECT_EQ(read.rates.source, "measured on node1, 2026-11-30");
}

TEST_F(RatesFile, RefusesWhatIsNoRateAndNamesIt) {
  const std::string text = rates_text(measured_);
  EXPECT_THAT(error(replaced(text, "\"bytes\": 2650000000000.0", "\"bytes\": -1")),
              AllOf(HasSubstr("bytes = -1"), HasSubstr("above 0"), HasSubstr(path_.string())));
  EXPECT_THAT(error(replaced(text, "\"bf16_products\"", "\"bf17_products\"")), HasSubstr("bf16_products"));
  EXPECT_THAT(error(replaced(text, "\"cores\"", "\"more\": 1, \"cores\"")), HasSubstr("unknown key \"more\""));
  EXPECT_THAT(error(replaced(text, "\"version\": 2", "\"version\": 1")), HasSubstr("version = 1: expected 2"));
  EXPECT_THAT(error("[1]"), HasSubstr(path_.string()));
}

TEST(KnownGpus, AreFoundByCudasNamesAndByTheirOwn) {
  const auto name = [](const char* of) {
    const KnownGpu* gpu = find_gpu(of);
    return gpu == nullptr ? std::string("none") : gpu->name;
  };
  EXPECT_EQ(name("NVIDIA H100 80GB HBM3"), "H100");
  EXPECT_EQ(name("NVIDIA H100 PCIe"), "H100 PCIe");
  EXPECT_EQ(name("NVIDIA H200"), "H200");
  EXPECT_EQ(name("h200"), "H200");
  EXPECT_EQ(name("NVIDIA A100-SXM4-80GB"), "A100");
  EXPECT_EQ(name("NVIDIA A100-SXM4-40GB"), "A100 40GB");
  EXPECT_EQ(name("NVIDIA A10G"), "A10G");
  EXPECT_EQ(name("NVIDIA L40S"), "L40S");
  EXPECT_EQ(name("NVIDIA GeForce RTX 4090"), "RTX 4090");
  EXPECT_EQ(name("NVIDIA A1000"), "none");
  EXPECT_EQ(find_gpu("H100")->rates.source, "measured");
  EXPECT_THAT(find_gpu("A100")->rates.source, HasSubstr("data sheet"));
  EXPECT_LT(find_gpu("A100")->rates.bf16_products, find_gpu("H100")->rates.bf16_products);
}

}  // namespace
}  // namespace qat
