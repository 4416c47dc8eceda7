// Passes that teach and learn: distributions over the vocabulary and hidden states, against LibTorch's operators.
#include "src/model/lesson.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <string>
#include <vector>

#include "kernels/loss/softmax_cross_entropy.h"
#include "tests/support/head_models.h"

namespace qat {
namespace {

using kernels::kIgnoredTarget;
using test::Direction;
using test::Head;
using test::model_with;
using test::TinyModel;

// Two sequences, some targets masked.
struct LessonData {
  explicit LessonData(const TinyModel& tiny) : tokens(tiny.tokens(2, 9)), targets(tiny.tokens(2, 9, 8)) {
    targets.index_put_({0, 3}, kIgnoredTarget);
    targets.index_put_({1, 8}, kIgnoredTarget);
  }
  at::Tensor tokens, targets;
  at::Tensor rows() const { return targets.reshape({-1}).ne(kIgnoredTarget); }
};

at::Tensor whole_logits(const TinyModel& tiny, const at::Tensor& tokens, const PrecisionMap& map) {
  const at::NoGradGuard no_grad;
  const ForwardContext context = tiny.context(map);
  return tiny.model->logits(tiny.model->hidden(tokens, context), context).reshape({-1, tiny.config.vocab_size});
}

// T^2 KL(teacher || student) of the valid rows, by definition.
double divergence(const at::Tensor& teacher, const at::Tensor& student, double temperature, const at::Tensor& valid) {
  const at::Tensor log_p = at::log_softmax(teacher.to(at::kDouble) / temperature, 1);
  const at::Tensor log_q = at::log_softmax(student.to(at::kDouble) / temperature, 1);
  const at::Tensor rows = (log_p.exp() * (log_p - log_q)).sum(1);
  return temperature * temperature * rows.masked_select(valid).mean().item<double>();
}

class Lessons : public ::testing::TestWithParam<Head> {};

TEST_P(Lessons, APassLearnsFromTheLogitsThatItsTeachersHave) {
  const TinyModel tiny = model_with(GetParam());
  const LessonData data(tiny);
  const std::int64_t linears = tiny.config.linears();
  const PrecisionMap full = PrecisionMap::uniform(linears, 32, 32), eight = PrecisionMap::uniform(linears, 8, 8),
                     four = PrecisionMap::uniform(linears, 4, 4);
  Lesson lesson{.distillation = {.weight = 0.5, .temperature = 3.0, .teachers = {}}, .feature_weight = 2.0};
  double of_features = 0.0;
  const at::Tensor student = whole_logits(tiny, data.tokens, four);
  double want = 0.0;
  for (const PrecisionMap* map : {&full, &eight}) {
    Teaching teaching{.features = {{1, {}}, {2, {}}}};
    tiny.model->teach({.tokens = data.tokens}, tiny.context(*map), teaching);
    lesson.distillation.teachers.push_back(tiny.model->teacher_head(tiny.context(*map))(teaching.output));
    lesson.features = teaching.features;  // the last one's
    want += divergence(whole_logits(tiny, data.tokens, *map), student, 3.0, data.rows());
  }
  Teaching own{.features = {{1, {}}, {2, {}}}};
  tiny.model->teach({.tokens = data.tokens}, tiny.context(four), own);
  for (const auto& [number, state] : own.features)
    of_features +=
        (state - lesson.features.at(number)).square().masked_select(data.rows().unsqueeze(1)).mean().item<double>() / 2;

  Teaching left{.features = {{0, {}}, {2, {}}}};
  const LossAndGradients pass = tiny.model->loss_and_gradients({.tokens = data.tokens}, data.targets,
                                                               tiny.context(four), {.tokens = 16.0}, lesson, &left);
  EXPECT_NEAR(pass.distillation.item<double>(), want, 2e-5 * want + 1e-6);
  EXPECT_NEAR(pass.features.item<double>(), of_features, 1e-5 * of_features);
  EXPECT_NEAR(pass.loss.item<double>(),
              at::nll_loss(at::log_softmax(student, 1), data.targets.reshape({-1})).item<double>(), 1e-5);
  // What it leaves is what a pass that only teaches would.
  EXPECT_TRUE(at::equal(left.output, own.output));
  EXPECT_TRUE(at::equal(left.features.at(2), own.features.at(2)));
  EXPECT_FALSE(left.output.requires_grad());
}

// Directional derivative over all parameters of c CE + d KD + f MSE, the teacher fixed: each alone, so that none hides
// in another, and together.
TEST_P(Lessons, GradientsAreThoseOfTheWeightedSum) {
  struct Weights {
    double ce, kd, features;
  };
  for (const Weights weights : {Weights{1, 0, 0}, Weights{0, 1, 0}, Weights{0, 0, 1}, Weights{0.3, 0.6, 0.8}}) {
    const double ce = weights.ce, kd = weights.kd, features = weights.features;
    SCOPED_TRACE(std::to_string(ce) + " " + std::to_string(kd) + " " + std::to_string(features));
    const TinyModel tiny = model_with(GetParam());
    const LessonData data(tiny);
    const PrecisionMap map = PrecisionMap::uniform(tiny.config.linears(), 32, 32);
    const ForwardContext context = tiny.context(map);
    torch::manual_seed(21);
    const at::Tensor teacher = at::randn({18, tiny.config.vocab_size});
    Lesson lesson{
        .distillation = {.weight = kd, .temperature = 2.0, .teachers = {[&](std::int64_t begin, std::int64_t n) {
                                                             return teacher.narrow(0, begin, n);
                                                           }}},
        .feature_weight = features,
        .features = {{0, at::randn({18, 16})}, {1, at::randn({18, 16})}, {2, at::randn({18, 16})}}};
    const LossScale scale{.tokens = 16.0, .weight = ce};
    const LossAndGradients pass =
        tiny.model->loss_and_gradients({.tokens = data.tokens}, data.targets, context, scale, lesson);
    const Direction direction(tiny);
    const double slope = direction.slope(pass.gradients.parameters);
    const double difference = direction.difference(1e-3, [&] {
      const LossAndGradients there =
          tiny.model->loss_and_gradients({.tokens = data.tokens}, data.targets, context, scale, lesson);
      return ce * there.loss.item<double>() + kd * there.distillation.item<double>() +
             features * there.features.item<double>();
    });
    EXPECT_NEAR(slope, difference, 2e-2 * std::abs(slope) + 1e-2);
  }
}

TEST_P(Lessons, ItselfTeachesAPassNothing) {
  const TinyModel tiny = model_with(GetParam());
  const LessonData data(tiny);
  const PrecisionMap map = PrecisionMap::uniform(tiny.config.linears(), 4, 4);
  Teaching teaching{.features = {{2, {}}}};
  tiny.model->teach({.tokens = data.tokens}, tiny.context(map), teaching);
  const Lesson lesson{.distillation = {.weight = 1.0,
                                       .temperature = 3.0,
                                       .teachers = {tiny.model->teacher_head(tiny.context(map))(teaching.output)}},
                      .feature_weight = 1.0,
                      .features = teaching.features};
  const LossAndGradients pass = tiny.model->loss_and_gradients({.tokens = data.tokens}, data.targets, tiny.context(map),
                                                               {.tokens = 16.0, .weight = 0.0}, lesson);
  EXPECT_NEAR(pass.distillation.item<double>(), 0.0, 1e-6);
  EXPECT_EQ(pass.features.item<double>(), 0.0);
  for (const at::Tensor& g : pass.gradients.parameters)
    if (g.defined()) {
      EXPECT_LE(g.abs().max().item<double>(), 1e-5);
    }
}

INSTANTIATE_TEST_SUITE_P(Heads, Lessons, test::all_heads(), test::head_name);

TEST(LessonsByBlock, FeaturesReachTheBlocksBelowUnderEveryRecomputation) {
  for (const Recompute recompute : {Recompute::kNone, Recompute::kBlock}) {
    TinyModel tiny;
    tiny.model = std::make_unique<Gpt2>(tiny.config, tiny.lora, tiny.quant, 8, ComputeMode{}, recompute);
    tiny.randomize();
    const LessonData data(tiny);
    const PrecisionMap map = PrecisionMap::uniform(2 * 4, 8, 8, 32);
    Lesson lesson{.distillation = {}, .feature_weight = 1.0, .features = {{1, at::zeros({18, 16})}}};
    const ForwardContext context = tiny.context(map);
    const LossAndGradients pass = tiny.model->loss_and_gradients({.tokens = data.tokens}, data.targets, context,
                                                                 {.tokens = 16.0, .weight = 0.0}, lesson);
    const auto& infos = tiny.model->parameters().infos();
    for (const ParameterInfo& info : infos) {
      const at::Tensor& g = pass.gradients.parameters[static_cast<std::size_t>(info.trainable_index)];
      const double norm = g.defined() ? g.norm().item<double>() : 0.0;
      if (info.name.find("h.0.attn.c_attn.weight") != std::string::npos) {
        EXPECT_GT(norm, 1e-4) << info.name;
      }
      if (info.name.find("h.1.") != std::string::npos) {
        EXPECT_EQ(norm, 0.0) << info.name << " comes after the state that is learnt";
      }
    }
  }
}

// A frozen model's embeddings: the pass below every adapter has nothing to learn there, and goes through.
TEST(LessonsByBlock, StatesBelowAllThatIsTrainedTeachNothing) {
  TinyModel tiny;
  tiny.config.freeze_base = true;
  tiny.build();
  tiny.randomize();
  const LessonData data(tiny);
  const PrecisionMap map = PrecisionMap::uniform(2 * 4, 8, 8, 32);
  const ForwardContext context = tiny.context(map);
  const LossScale scale{.tokens = 16.0};
  const Lesson lesson{.distillation = {}, .feature_weight = 1.0, .features = {{0, at::zeros({18, 16})}}};
  const LossAndGradients taught =
      tiny.model->loss_and_gradients({.tokens = data.tokens}, data.targets, context, scale, lesson);
  const LossAndGradients plain = tiny.model->loss_and_gradients({.tokens = data.tokens}, data.targets, context, scale);
  EXPECT_GT(taught.features.item<double>(), 0.0);
  for (std::size_t i = 0; i < plain.gradients.parameters.size(); ++i)
    if (const at::Tensor& g = plain.gradients.parameters[i]; g.defined()) {
      EXPECT_TRUE(at::equal(g, taught.gradients.parameters[i]));
    }
}

}  // namespace
}  // namespace qat
