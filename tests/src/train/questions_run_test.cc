// Whole runs of a model that answers questions.
#include <gmock/gmock.h>

#include <tuple>

#include "src/data/builtin_questions.h"
#include "src/data/question_sampler.h"
#include "src/eval/held_out_questions.h"
#include "src/train/preflight.h"
#include "tests/support/trainer_fixture.h"

namespace qat {
namespace {

using test::TrainerTest;
using ::testing::HasSubstr;
namespace fs = std::filesystem;

constexpr QuestionLayout kLayout{.sequence_length = 112, .window_advance = 64, .question_tokens = 24};

// The first questions of the built-in ones.
SquadData some_questions(std::size_t count) {
  SquadData data = builtin_questions(Split::kTrain);
  data.questions.resize(count);
  data.contexts.resize(data.questions.back().context + 1);
  return data;
}

class QuestionsRun : public TrainerTest {
 protected:
  TrainerOptions questions(const std::string& dir, std::int64_t steps) const {
    TrainerOptions o = options(dir, steps);
    o.train.batch_size = 8;
    o.quant.widths = {8, 4, 32};
    o.precision = {.cycles = 1, .min_bits = 4, .max_bits = 8};
    o.data = {.sequence_length = kLayout.sequence_length,
              .window_advance = kLayout.window_advance,
              .question_tokens = kLayout.question_tokens};
    o.eval = {.bits = {32, 8, 4}, .batch_size = 4};
    return o;
  }
  End answer(const TrainerOptions& o, int ranks) { return train_on(samples_, held_out_, model_, o, ranks); }

  // Exact match by width in report.json.
  std::vector<double> exact_matches(const std::string& dir) const {
    const Value report = parse_json(read(dir, "report.json"), "report.json");
    std::vector<double> found;
    for (const Value& width : report.at("widths").as_array()) found.push_back(width.at("exact_match").as_double());
    return found;
  }

  Gpt2Config model_{.preset = "",
                    .n_layer = 2,
                    .n_head = 2,
                    .n_embd = 64,
                    .n_positions = 112,
                    .vocab_size = 257,
                    .task = ModelTask::kSpanQa};
  QuestionWindows windows_{some_questions(32), ByteTokenizer(), kLayout};
  QuestionSampler samples_{windows_, /*seed=*/5};
  HeldOutQuestions held_out_{windows_};
};

// The questions that it is trained on, at every width.
TEST_F(QuestionsRun, LearnsItsQuestionsByHeart) {
  TrainerOptions o = questions("run", 120);
  o.train.recipe = Recipe::kSpnet;
  o.eval.at_start = true;
  o.eval.predictions = true;
  o.lr = {.peak = 5e-3, .warmup_steps = 10};
  const End end = answer(o, 2);
  ASSERT_TRUE(end.result.finished);
  EXPECT_THAT(end.result.table, HasSubstr("Exact match"));
  const Value before =
      parse_json(read("run", "eval.jsonl").substr(0, read("run", "eval.jsonl").find('\n')), "eval.jsonl");
  EXPECT_LT(before.at("exact_match").as_double(), 40.0);
  EXPECT_EQ(before.at("questions").as_int(), 32);
  const std::vector<double> exact = exact_matches("run");
  ASSERT_EQ(exact.size(), 3U);
  for (const double percent : exact) EXPECT_GT(percent, 90.0);
  const Value answers = parse_json(read("run", "predictions_4.json"), "predictions");
  EXPECT_EQ(answers.as_object().size(), 32U);
  EXPECT_NE(answers.find("builtin-0-0"), nullptr);
  EXPECT_THAT(read("run", "logs/rank_000.log"), HasSubstr("held-out questions after step 0 at 32 bits: exact match"));
}

TEST_F(QuestionsRun, HasTheSameBitsOnOneAndTwoRanks) {
  for (const Recipe recipe : {Recipe::kCpt, Recipe::kPerMap}) {
    const std::string name = enum_name(recipe);
    TrainerOptions o = questions(name + "1", 4);
    o.train.recipe = recipe;
    const End one = answer(o, 1);
    o.run.dir = (root_ / (name + "2")).string();
    const End two = answer(o, 2);
    EXPECT_EQ(curve(name + "1"), curve(name + "2"));
    EXPECT_EQ(one.parameters, two.parameters);
    EXPECT_EQ(one.result.table, two.result.table);
  }
}

TEST_F(QuestionsRun, PassesLearnFromTeachersWithTheSameBitsOnOneAndTwoRanks) {
  for (const Recipe recipe : {Recipe::kSp, Recipe::kInstantnet}) {
    const std::string name = enum_name(recipe);
    const auto run = [&](int ranks) {
      TrainerOptions o = questions(name + std::to_string(ranks), 4);
      o.train.recipe = recipe;
      o.train.students = 1;  // more passes add up by ranks
      o.distill = {.weight = 0.5, .temperature = 3.0, .features = 0.1, .feature_layers = {1, 2}};
      return answer(o, ranks);
    };
    const End one = run(1);
    ASSERT_TRUE(one.result.finished);
    const std::string first = read(name + "1", "metrics.jsonl").substr(0, read(name + "1", "metrics.jsonl").find('\n'));
    const Value step = parse_json(first, "metrics");
    const Value& taught = step.at("passes").as_array().back();
    EXPECT_GT(taught.at("distillation").as_double(), 0.0) << name;
    EXPECT_GT(taught.at("features").as_double(), 0.0) << name;
    if (recipe == Recipe::kSp) {
      EXPECT_EQ(run(2).parameters, one.parameters);
    }
  }
}

// Each of two stages, of one or two replicas: what is learnt, from hidden states too, and what is answered.
TEST_F(QuestionsRun, StagesHaveTheBitsOfOneRank) {
  model_.n_layer = 4, model_.head_dropout = 0.1;
  const auto run = [&](const std::string& dir, int data, int stages, int chunks) {
    TrainerOptions o = questions(dir, 3);
    o.train.recipe = Recipe::kSp;
    o.train.students = 1;
    o.distill = {.weight = 0.5,
                 .temperature = 3.0,
                 .features = 0.1,
                 .feature_layers = {1, 3, 4},
                 .feature_pick = FeaturePick::kAll};
    o.quant.calibration_batches = 2;
    o.checkpoint.every = 2, o.checkpoint.keep = 0;
    stages_ = stages, chunks_ = chunks;
    if (chunks > 1) o.schedule = dist::PipelineSchedule::kInterleaved;
    return train_on(samples_, held_out_, model_, o, data * stages,
                    {.granularity = Granularity::kTensor, .range = RangeSource::kCalibrated});
  };
  const auto last_passes = [&](const std::string& dir) {
    const std::string lines = read(dir, "metrics.jsonl");
    return to_json(parse_json(lines.substr(lines.rfind('\n', lines.size() - 2) + 1), "metrics").at("passes"));
  };
  const End one = run("1", 1, 1, 1);
  ASSERT_TRUE(one.result.finished);
  for (const auto& [data, stages, chunks] : {std::tuple{1, 2, 1}, {2, 2, 1}, {1, 4, 1}, {1, 2, 2}}) {
    const std::string dir = std::to_string(data) + "x" + std::to_string(stages) + "x" + std::to_string(chunks);
    const End many = run(dir, data, stages, chunks);
    EXPECT_EQ(curve(dir), curve("1")) << dir;
    EXPECT_EQ(last_passes(dir), last_passes("1")) << dir;
    EXPECT_EQ(read(dir, "eval.jsonl"), read("1", "eval.jsonl")) << dir;
    EXPECT_EQ(exact_matches(dir), exact_matches("1")) << dir;
    EXPECT_TRUE(many.parameters == one.parameters) << dir;
  }
  // From stages to one rank.
  fs::create_directories(root_ / "back/checkpoints");
  fs::copy(root_ / "1x4x1/checkpoints/step_00000002", root_ / "back/checkpoints/step_00000002",
           fs::copy_options::recursive);
  EXPECT_TRUE(run("back", 1, 1, 1).parameters == one.parameters);
}

// Each map of layers' widths is a row of the table and has a file of answers.
TEST_F(QuestionsRun, AreAnsweredByMapsOfLayersWidths) {
  TrainerOptions o = questions("run", 2);
  o.quant.maps = {"mine: attn=8,mlp=4", "stripe8&4"};
  o.train.recipe = Recipe::kSpnet;
  o.eval = {.maps = {"mine: attn=8,mlp=4", "stripe8&4"}, .batch_size = 4, .predictions = true};
  const End end = answer(o, 1);
  ASSERT_TRUE(end.result.finished);
  EXPECT_THAT(end.result.table, ::testing::AllOf(HasSubstr("mine"), HasSubstr("Bits KV"), HasSubstr("Exact match")));
  for (const char* file : {"predictions_mine.json", "predictions_stripe8_4.json"})
    EXPECT_EQ(parse_json(read("run", file), file).as_object().size(), 32U) << file;
}

TEST_F(QuestionsRun, AResumedRunIsTheUninterruptedOne) {
  TrainerOptions whole = questions("whole", 6);
  whole.checkpoint.every = 3, whole.checkpoint.keep = 0;
  const End end = answer(whole, 2);
  const TrainerOptions rest = questions("rest", 6);
  fs::create_directories(fs::path(rest.run.dir) / "checkpoints");
  fs::copy(fs::path(whole.run.dir) / "checkpoints/step_00000003", fs::path(rest.run.dir) / "checkpoints/step_00000003",
           fs::copy_options::recursive);
  EXPECT_EQ(answer(rest, 2).parameters, end.parameters);
  EXPECT_EQ(exact_matches("rest"), exact_matches("whole"));
  // Other questions would be other training.
  SquadData other = some_questions(32);
  other.questions[3].text = "Which is it?";
  const QuestionWindows changed(std::move(other), ByteTokenizer(), kLayout);
  const QuestionSampler samples(changed, 5);
  TrainerOptions again = questions("whole", 8);
  try {
    train_on(samples, held_out_, model_, again, 1);
    FAIL() << "went on with other questions";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kData);
    EXPECT_THAT(error.what(), HasSubstr("data.train is not what the checkpoint was trained on"));
  }
}

TEST_F(QuestionsRun, CalibratesItsActivations) {
  TrainerOptions o = questions("run", 2);
  o.quant.calibration_batches = 2;
  const End end = train_on(samples_, held_out_, model_, o, 2,
                           {.granularity = Granularity::kTensor, .range = RangeSource::kCalibrated});
  EXPECT_TRUE(end.result.finished);
}

TEST(QuestionsPreflight, DoubtsScoresOfTextsThatAreTrainedOn) {
  TrainerOptions o;
  o.train = {.steps = 8, .batch_size = 8, .micro_batch_size = 2};
  o.precision = {.cycles = 2};
  o.lr.warmup_steps = 2;
  const Gpt2Config model{.task = ModelTask::kSpanQa};
  const QuestionWindows train(some_questions(32), ByteTokenizer(), kLayout),
      part(some_questions(6), ByteTokenizer(), kLayout);
  const QuestionWindows val(builtin_questions(Split::kVal), ByteTokenizer(), kLayout);
  EXPECT_THAT(check_before_training(o, model, train, val), ::testing::IsEmpty());
  EXPECT_THAT(check_before_training(o, model, train, part),
              ::testing::ElementsAre(HasSubstr("6 of the 6 held-out questions")));
}

}  // namespace
}  // namespace qat
