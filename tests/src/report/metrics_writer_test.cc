#include "src/report/metrics_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <clocale>
#include <limits>
#include <locale>
#include <nlohmann/json.hpp>
#include <sstream>

#include "src/base/file.h"
#include "tests/src/base/scratch_folder.h"

namespace qat {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::vector<nlohmann::json> lines_of(const std::filesystem::path& path) {
  std::vector<nlohmann::json> lines;
  std::istringstream text(read_file(path));
  for (std::string line; std::getline(text, line);) lines.push_back(nlohmann::json::parse(line));
  return lines;
}

std::vector<int> steps_of(const std::filesystem::path& path) {
  std::vector<int> steps;
  for (const nlohmann::json& line : lines_of(path)) steps.push_back(line.at("step").get<int>());
  return steps;
}

StepMetrics metrics_of(std::int64_t step) {
  StepMetrics metrics;
  metrics.step = step;
  metrics.loss = 3.25;
  return metrics;
}

void write_steps(const std::filesystem::path& path, std::int64_t begin, std::int64_t end) {
  MetricsWriter writer(path, begin);
  for (std::int64_t step = begin; step < end; ++step) writer.write(metrics_of(step));
}

TEST(MetricsWriter, WritesEveryFieldOfAStep) {
  const ScratchFolder folder;
  MetricsWriter writer(folder.path() / "metrics.jsonl", 0);
  const StepMetrics::Wire wire{
      .bytes = 300, .fp32_bytes = 1000, .weight_bytes = 70, .exposed_ms = 0.5, .weight_exposed_ms = 0.25};
  writer.write({.step = 7,
                .loss = 3.5,
                .lr = 6e-4,
                .weight_bits = 4,
                .act_bits = 8,
                .grad_bits = 6,
                .grad_norm = 1.25,
                .clipped = true,
                .tokens = 8192,
                .tokens_per_s = 1234.5,
                .step_ms = 20.5,
                .bitops = 1e15,
                .bitops_ratio = 0.0625,
                .skipped = true,
                .skips_in_a_row = 2,
                .saving = true,
                .wire = wire,
                .time = "2026-11-22T01:37:45.123Z"});
  const auto expected = nlohmann::json::parse(R"({"step": 7, "loss": 3.5, "lr": 0.0006, "weight_bits": 4, "act_bits": 8,
      "grad_bits": 6, "grad_norm": 1.25, "clipped": true, "tokens": 8192, "tokens_per_s": 1234.5, "step_ms": 20.5,
      "bitops": 1e15, "bitops_ratio": 0.0625, "skipped": true, "skips_in_a_row": 2, "saving": true,
      "wire": {"bytes": 300, "fp32_bytes": 1000, "weight_bytes": 70, "exposed_ms": 0.5, "weight_exposed_ms": 0.25},
      "time": "2026-11-22T01:37:45.123Z"})");
  EXPECT_THAT(lines_of(folder.path() / "metrics.jsonl"), ElementsAre(expected));  // while the writer is open
}

TEST(MetricsWriter, AStepOfSeveralPassesHasTheLossOfEach) {
  StepMetrics metrics = metrics_of(0);
  EXPECT_EQ(to_value(metrics).find("passes"), nullptr);
  metrics.passes = {{.weight_bits = 8, .loss = 3.5}, {.weight_bits = 2, .loss = 4.25}};
  EXPECT_EQ(to_json(to_value(metrics).at("passes")), R"([{"weight_bits":8,"loss":3.5},{"weight_bits":2,"loss":4.25}])");
}

TEST(MetricsWriter, NumbersThatAreNotFiniteAreNull) {
  const ScratchFolder folder;
  MetricsWriter writer(folder.path() / "m", 0);
  StepMetrics metrics = metrics_of(0);
  metrics.loss = std::numeric_limits<double>::quiet_NaN();
  metrics.grad_norm = std::numeric_limits<double>::infinity();
  writer.write(metrics);
  const nlohmann::json line = lines_of(folder.path() / "m").at(0);
  EXPECT_TRUE(line.at("loss").is_null());
  EXPECT_TRUE(line.at("grad_norm").is_null());
  EXPECT_FALSE(line.at("time").get<std::string>().empty());
}

TEST(MetricsWriter, AResumedRunHasOneLineAStep) {
  const ScratchFolder folder;
  const auto path = folder.path() / "m";
  write_steps(path, 0, 9);
  write_steps(path, 6, 8);  // resumed from the checkpoint after step 5
  EXPECT_THAT(steps_of(path), ElementsAre(0, 1, 2, 3, 4, 5, 6, 7));
}

TEST(MetricsWriter, DropsTheTornLineOfAKilledProcess) {
  const ScratchFolder folder;
  const auto path = folder.path() / "m";
  write_steps(path, 0, 3);
  const std::string whole = read_file(path);
  for (const std::size_t cut : {1U, 2U, 20U}) {  // 1: only the line end is missing
    write_file_atomic(path, whole.substr(0, whole.size() - cut));
    const MetricsWriter writer(path, 3);
    EXPECT_EQ(writer.file().kept_lines(), 2);
    EXPECT_EQ(writer.file().dropped_lines(), 1);
    EXPECT_THAT(steps_of(path), ElementsAre(0, 1));
  }
}

TEST(MetricsWriter, LeavesAFileWithNothingToDropUntouched) {
  const ScratchFolder folder;
  const auto path = folder.path() / "m";
  write_steps(path, 0, 3);
  const std::string whole = read_file(path);
  const auto time = std::filesystem::last_write_time(path);
  const MetricsWriter writer(path, 3);
  EXPECT_EQ(writer.file().dropped_lines(), 0);
  EXPECT_EQ(read_file(path), whole);
  EXPECT_EQ(std::filesystem::last_write_time(path), time);
}

TEST(MetricsWriter, AFreshRunBeginsTheFileAnew) {
  const ScratchFolder folder;
  write_steps(folder.path() / "m", 0, 3);
  { const MetricsWriter writer(folder.path() / "m", 0); }
  EXPECT_THAT(steps_of(folder.path() / "m"), IsEmpty());
}

// Writes 1234.5 as "1.234,5" wherever a stream of the global locale is used.
class CommaDecimals : public std::numpunct<char> {
  char do_decimal_point() const override { return ','; }
  char do_thousands_sep() const override { return '.'; }
  std::string do_grouping() const override { return "\3"; }
};

TEST(MetricsWriter, ACommaDecimalLocaleChangesNothing) {
  const ScratchFolder folder;
  const std::locale old = std::locale::global(std::locale(std::locale(), new CommaDecimals));
  const std::string old_c = std::setlocale(LC_ALL, nullptr);
  std::setlocale(LC_ALL, "de_DE.UTF-8");  // the C library's too, where it is installed
  write_steps(folder.path() / "m", 123456, 123457);
  std::setlocale(LC_ALL, old_c.c_str());
  std::locale::global(old);
  EXPECT_EQ(lines_of(folder.path() / "m").at(0).at("loss").get<double>(), 3.25);
  EXPECT_THAT(steps_of(folder.path() / "m"), ElementsAre(123456));
}

}  // namespace
}  // namespace qat
