#include "src/report/event_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "src/base/json.h"
#include "src/report/tensorboard.h"
#include "tests/src/base/scratch_folder.h"

namespace qat {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::string bytes(std::initializer_list<int> values) {
  std::string text;
  for (const int value : values) text.push_back(static_cast<char>(value));
  return text;
}

// RFC 3720, B.4, and the usual check value of CRC-32C.
TEST(EventFile, TheChecksumIsCastagnolis) {
  EXPECT_EQ(crc32c("123456789"), 0xE3069283U);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAU);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62A8AB43U);
  std::string rising;
  for (int i = 0; i < 32; ++i) rising.push_back(static_cast<char>(i));
  EXPECT_EQ(crc32c(rising), 0x46DD794EU);
  // 0xE3069283 turned right by 15: 0x2507C60D; and with 0xA282EAD8: 0xC78AB0E5.
  EXPECT_EQ(masked_crc32c("123456789"), 0xC78AB0E5U);
}

// The first record of every event file that TensorFlow has ever written, but for its time (here 0).
TEST(EventFile, AFileBeginsAsTensorFlowsDo) {
  const std::string event = version_event(0.0);
  EXPECT_EQ(event, bytes({0x09, 0, 0, 0, 0, 0, 0, 0, 0, 0x1a, 13}) + "brain.Event:2");
  const std::string record = framed_record(event);
  EXPECT_EQ(record.size(), 12 + 24 + 4);
  // TensorFlow's files begin with these twelve bytes: length 24 and its checksum.
  EXPECT_EQ(record.substr(0, 12), bytes({0x18, 0, 0, 0, 0, 0, 0, 0, 0xa3, 0x7f, 0x4b, 0x22}));
}

TEST(EventFile, AScalarIsASummaryOfAnEvent) {
  EventSummary summary;
  summary.scalar("loss", 1.5);
  EXPECT_EQ(summary_event(2.0, 300, summary),
            bytes({0x09, 0, 0, 0, 0, 0, 0, 0, 0x40, 0x10, 0xac, 0x02}) +  // wall_time 2.0, step 300
                bytes({0x2a, 13, 0x0a, 11, 0x0a, 4}) + "loss" +           // summary, value, tag
                bytes({0x15, 0, 0, 0xc0, 0x3f}));                         // simple_value 1.5f
  EXPECT_EQ(step_of_event(summary_event(2.0, 300, summary)), 300);
  EXPECT_EQ(start_event(2.0, 5), bytes({0x09, 0, 0, 0, 0, 0, 0, 0, 0x40, 0x10, 5, 0x3a, 2, 0x08, 1}));
}

TEST(EventFile, AHistogramHasItsBucketsPacked) {
  EventSummary summary;
  summary.histograms.push_back(
      {"w", {.min = 0, .max = 2, .sum = 2, .sum_squares = 2, .count = 1, .limits = {2}, .counts = {1}}});
  const std::string two = bytes({0, 0, 0, 0, 0, 0, 0, 0x40}), one = bytes({0, 0, 0, 0, 0, 0, 0xf0, 0x3f}),
                    zero(8, '\0');
  const std::string histogram = "\x09" + zero + "\x11" + two + "\x19" + one + "\x21" + two + "\x29" + two +
                                bytes({0x32, 8}) + two + bytes({0x3a, 8}) + one;
  EXPECT_EQ(histogram.size(), 65U);
  EXPECT_EQ(summary_event(0.0, 0, summary),
            "\x09" + zero + bytes({0x2a, 72, 0x0a, 70, 0x0a, 1}) + "w" + bytes({0x2a, 65}) + histogram);
}

std::vector<std::int64_t> steps_in(const std::filesystem::path& dir) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(dir)) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  std::vector<std::int64_t> steps;
  for (const auto& path : files) {
    const std::string content = read_file(path);
    const ReadRecords records = read_records(content);
    EXPECT_EQ(records.good_bytes, content.size());
    for (const std::string_view data : records.data)
      if (data.find("loss") != std::string_view::npos) steps.push_back(step_of_event(data).value());
  }
  return steps;
}

void write_events(const std::filesystem::path& dir, std::int64_t begin, std::int64_t end) {
  EventFiles files(dir, begin);
  EventSummary summary;
  summary.scalar("loss", 1.0);
  for (std::int64_t step = begin; step < end; ++step) files.write(step, summary);
}

TEST(EventFile, AResumedRunHasEveryStepOnce) {
  const ScratchFolder folder;
  const auto dir = folder.path() / "tensorboard";
  write_events(dir, 0, 5);
  write_events(dir, 3, 6);
  EXPECT_THAT(steps_in(dir), ElementsAre(0, 1, 2, 3, 4, 5));
  write_events(dir, 6, 7);
  EXPECT_THAT(steps_in(dir), ElementsAre(0, 1, 2, 3, 4, 5, 6));
  write_events(dir, 0, 1);  // anew
  EXPECT_THAT(steps_in(dir), ElementsAre(0));
}

TEST(EventFile, ATornOrDamagedEndIsTakenOff) {
  const ScratchFolder folder;
  const auto dir = folder.path() / "tensorboard";
  write_events(dir, 0, 3);
  const auto path = std::filesystem::directory_iterator(dir)->path();
  const std::string whole = read_file(path);
  for (const std::size_t cut : {1U, 5U, 17U}) {
    EXPECT_EQ(read_records(std::string_view(whole).substr(0, whole.size() - cut)).data.size(), 3U) << cut;
  }
  std::string damaged = whole;
  damaged[damaged.size() - 6] ^= 1;
  EXPECT_EQ(read_records(damaged).data.size(), 3U);
  write_file_atomic(path, damaged);
  write_events(dir, 3, 4);
  EXPECT_THAT(steps_in(dir), ElementsAre(0, 1, 3));
  EXPECT_EQ(step_of_event("\xff"), std::nullopt);
  EXPECT_THAT(read_records("").data, IsEmpty());
}

std::vector<std::string> tags(const EventSummary& summary) {
  std::vector<std::string> found;
  for (const EventSummary::Scalar& one : summary.scalars) found.push_back(one.tag);
  return found;
}

TEST(TensorBoard, AStepsScalarsAreByWidth) {
  StepMetrics metrics{.loss = 2.5, .weight_bits = 4};
  EXPECT_THAT(
      tags(step_summary(metrics)),
      ElementsAre("loss/all", "loss/4bit", "train/learning_rate", "train/grad_norm", "train/skipped", "bits/weights",
                  "bits/activations", "bits/gradients", "bits/bitops_ratio", "speed/tokens_per_s", "speed/step_ms"));
  metrics.passes = {{.weight_bits = 8, .loss = 3.5}, {.weight_bits = 2, .distillation = 0.5, .map = "stripe8&4"}};
  metrics.memory = {.bytes = 3 << 20, .reserved_bytes = 4 << 20};
  const EventSummary several = step_summary(metrics);
  EXPECT_THAT(tags(several), ElementsAre("loss/all", "loss/8bit", "distillation/stripe8&4", "train/learning_rate",
                                         "train/grad_norm", "train/skipped", "bits/gradients", "bits/bitops_ratio",
                                         "speed/tokens_per_s", "speed/step_ms", "memory/MiB", "memory/reserved_MiB"));
  EXPECT_EQ(several.scalars[1].value, 3.5);
  EXPECT_EQ(several.scalars[10].value, 3.0);
}

TEST(TensorBoard, AnEvaluationsScalarsAreByWidth) {
  const auto record = [](const char* text) { return evaluation_summary(parse_json(text, "record")); };
  EXPECT_THAT(tags(record(R"({"step": 8, "bits": 4, "nll": 2.0, "perplexity": 7.4, "tokens": 100})")),
              ElementsAre("perplexity/4bit", "held_out_loss/4bit"));
  EXPECT_THAT(tags(record(R"({"step": 8, "map": "W4A8", "nll": null, "exact_match": 50.0, "f1": 60.0})")),
              ElementsAre("exact_match/W4A8", "f1/W4A8"));
}

}  // namespace
}  // namespace qat
