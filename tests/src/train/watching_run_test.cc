// What a run writes for those who watch it: layers.jsonl and event files, which change nothing about it.
#include <cmath>

#include "src/report/event_file.h"
#include "src/report/layer_records.h"
#include "src/train/product_peak.h"
#include "tests/support/trainer_fixture.h"

namespace qat::test {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class WatchingRunTest : public TrainerTest {
 protected:
  std::vector<LayerRecord> layers(const std::string& dir) const {
    std::vector<LayerRecord> found;
    for_each_json_line(root_ / dir / "layers.jsonl",
                       [&](const Value& line) { found.push_back(layer_record_of(line)); });
    return found;
  }
  // Steps of the events that have this tag, over all files of the run in order.
  std::vector<std::int64_t> steps_with(const std::string& dir, const std::string& tag) const {
    std::vector<fs::path> files;
    for (const auto& entry : fs::directory_iterator(root_ / dir / "tensorboard")) files.push_back(entry.path());
    std::sort(files.begin(), files.end());
    std::vector<std::int64_t> steps;
    for (const fs::path& path : files) {
      const std::string bytes = read_file(path);
      const ReadRecords records = read_records(bytes);
      EXPECT_EQ(records.good_bytes, bytes.size()) << path;
      for (const std::string_view event : records.data)
        if (event.find(static_cast<char>(tag.size()) + tag) != std::string_view::npos)
          steps.push_back(step_of_event(event).value());
    }
    return steps;
  }
};

TEST_F(WatchingRunTest, LookingAtLayersChangesNoBit) {
  TrainerOptions o = options("plain", 8);
  o.report.tensorboard = false;
  const End plain = train(o, 2);
  EXPECT_FALSE(fs::exists(root_ / "plain/tensorboard"));
  EXPECT_FALSE(fs::exists(root_ / "plain/layers.jsonl"));
  o = options("watched", 8);
  o.report = {.tensorboard = true, .layers_every = 1, .histograms_every = 2};
  const End watched = train(o, 2);
  EXPECT_EQ(curve("watched"), curve("plain"));
  EXPECT_EQ(watched.parameters, plain.parameters);
  EXPECT_THAT(steps_with("watched", "loss/all"), ElementsAre(0, 1, 2, 3, 4, 5, 6, 7));
  EXPECT_THAT(steps_with("watched", "weights/h.0.attn.c_attn"), ElementsAre(0, 2, 4, 6));
  const std::vector<LayerRecord> records = layers("watched");
  EXPECT_EQ(steps_with("watched", "grad_norm/h.1.mlp.c_proj/3bit").size() +
                steps_with("watched", "grad_norm/h.1.mlp.c_proj/8bit").size(),
            static_cast<std::size_t>(std::count_if(records.begin(), records.end(), [](const auto& one) {
              return one.precision == "3" || one.precision == "8";
            })));
}

// Between two steps ranks have what the second one reads; what is said of the first is that of one rank.
TEST_F(WatchingRunTest, RanksThatSendAheadSayTheSameOfTheStepBefore) {
  lora_.slots = config_.norm_slots = Slots::kPerWidth;
  TrainerOptions o = options("one", 6);
  o.quant.widths = {8, 3, 4};
  o.quant.weight.granularity = Granularity::kTensor;
  o.quant.weight.by_width = {{3, QuantizerKind::kLsq}, {4, QuantizerKind::kLsq}};
  o.precision = {.kind = ScheduleKind::kCyclic, .switch_interval = 1};
  o.eval.bits = {8};
  o.report = {.tensorboard = true, .layers_every = 1, .histograms_every = 2};
  const End one = train(o, 1);
  o.run.dir = (root_ / "two").string();
  const End two = train(o, 2);
  EXPECT_EQ(two.parameters, one.parameters);
  EXPECT_EQ(curve("two"), curve("one"));
  EXPECT_EQ(read("two", "layers.jsonl"), read("one", "layers.jsonl"));
}

TEST_F(WatchingRunTest, LayersSayWhatTheyDo) {
  TrainerOptions o = options("run", 8);
  o.report.layers_every = 4;
  train(o, 1);
  const std::vector<LayerRecord> records = layers("run");
  ASSERT_EQ(records.size(), 2U);
  EXPECT_EQ(records[1].step, 4);
  std::vector<double> norms;  // the whole gradient's
  for_each_json_line(root_ / "run/metrics.jsonl",
                     [&](const Value& line) { norms.push_back(line.at("grad_norm").as_double()); });
  for (const LayerRecord& record : records) {
    EXPECT_EQ(record.layers.front().name, "h.0.attn.c_attn");
    double squares = 0.0;
    for (const LayerFigures& layer : record.layers) {
      EXPECT_EQ(std::to_string(layer.bits), record.precision) << layer.name;
      EXPECT_GT(layer.grad_norm, 0.0) << layer.name;
      EXPECT_GT(layer.zero_codes, 0.0) << layer.name;  // of 3 to 8 bits, some weights are near 0
      EXPECT_LT(layer.zero_codes, 0.9) << layer.name;
      EXPECT_EQ(layer.clipped, 0.0) << layer.name;  // the data's own range
      squares += layer.grad_norm * layer.grad_norm;
    }
    const double whole = norms.at(static_cast<std::size_t>(record.step));
    EXPECT_LT(std::sqrt(squares), whole);  // embeddings and norms are not in it
    EXPECT_GT(std::sqrt(squares), 0.2 * whole);
  }
}

TEST_F(WatchingRunTest, StagesTogetherSayTheSame) {
  TrainerOptions o = options("whole", 5);
  o.report = {.tensorboard = true, .layers_every = 2, .histograms_every = 4};
  train(o, 1);
  o.run.dir = (root_ / "staged").string();
  stages_ = 2;
  train(o, 2);
  EXPECT_EQ(read("staged", "layers.jsonl"), read("whole", "layers.jsonl"));
  for (const char* tag : {"weights/h.0.attn.c_attn", "weights/h.1.attn.c_attn"})
    EXPECT_THAT(steps_with("staged", tag), ElementsAre(0, 4)) << tag;
}

TEST_F(WatchingRunTest, AResumedRunGoesOnInTheCurves) {
  TrainerOptions o = options("run", 12);
  o.checkpoint.every = 4;
  o.eval.every = 4;
  o.report.layers_every = 2;
  train(o, 1);
  o.run.resume = (root_ / "run/checkpoints/step_00000004").string();
  o.config_hash = 78;  // the same command would only print its table
  train(o, 1);
  EXPECT_THAT(steps_with("run", "loss/all"), ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11));
  EXPECT_THAT(steps_with("run", "perplexity/8bit"), ElementsAre(4, 8, 12));
  std::vector<std::int64_t> steps;
  for (const LayerRecord& record : layers("run")) steps.push_back(record.step);
  EXPECT_THAT(steps, ElementsAre(0, 2, 4, 6, 8, 10));
}

TEST(ProductPeak, IsARate) { EXPECT_GT(measured_product_peak({}, {.m = 64, .n = 32, .k = 48}), 1e6); }

}  // namespace
}  // namespace qat::test
