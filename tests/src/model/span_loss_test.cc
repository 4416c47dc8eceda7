#include "src/loss/span_loss.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>

#include "tests/support/tiny_model.h"

namespace qat {
namespace {

// Windows of 6 places: the answer is 3..4 of the context 2..4; none of the context 1..5.
at::Tensor two_targets() { return at::tensor({3, 4, 2, 5, 0, 0, 1, 6}, at::kLong).view({2, 4}); }

at::Tensor random_logits(std::uint64_t seed) {
  torch::manual_seed(seed);
  return at::randn({2, 2, 6}) * 3;
}

double softmax_at(const at::Tensor& logits, std::initializer_list<int> places, int place) {
  double sum = 0.0;
  for (const int one : places) sum += std::exp(logits[one].item<double>());
  return std::exp(logits[place].item<double>()) / sum;
}

TEST(SpanLoss, IsTheMeanOfBothEndsOverThePlacesThatCount) {
  const at::Tensor z = random_logits(1);
  const std::initializer_list<int> first = {0, 2, 3, 4}, second = {0, 1, 2, 3, 4, 5};
  const double one = -(std::log(softmax_at(z[0][0], first, 3)) + std::log(softmax_at(z[0][1], first, 4))) / 2;
  const double two = -(std::log(softmax_at(z[1][0], second, 0)) + std::log(softmax_at(z[1][1], second, 0))) / 2;
  EXPECT_NEAR(span_cross_entropy(z, two_targets()).loss.item<double>(), (one + two) / 2, 1e-6);
  EXPECT_NEAR(span_cross_entropy(z, two_targets(), {.tokens = 8, .weight = 3}).loss.item<double>(), (one + two) / 8,
              1e-6);
  const at::Tensor nll = span_nll(z, two_targets());
  EXPECT_NEAR(nll[0].item<double>(), one, 1e-6);
  EXPECT_NEAR(nll[1].item<double>(), two, 1e-6);
}

TEST(SpanLoss, PlacesThatAreNotLookedAtChangeNothingAndGetNoGradient) {
  at::Tensor z = random_logits(2), other = z.clone();
  for (const int place : {1, 5}) other[0].select(1, place).fill_(50.0);
  EXPECT_EQ(span_cross_entropy(z, two_targets()).loss.item<double>(),
            span_cross_entropy(other, two_targets()).loss.item<double>());
  const at::Tensor gradient = span_cross_entropy(other, two_targets()).logits;
  const at::Tensor distilled = span_distillation(other, z, two_targets(), 2.0).logits;
  for (const int place : {1, 5}) {
    EXPECT_EQ(gradient[0].select(1, place).abs().max().item<double>(), 0.0);
    EXPECT_EQ(distilled[0].select(1, place).abs().max().item<double>(), 0.0);
  }
  EXPECT_NEAR(gradient.sum().item<double>(), 0.0, 1e-6);
}

// The gradient of scale.weight * loss, by finite differences in double... of a loss that is told in fp32.
template <typename Loss>
void expect_gradient_of(const Loss& loss_of, const at::Tensor& z) {
  const LossScale scale{.tokens = 4.0, .weight = 3.0};
  const at::Tensor gradient = loss_of(z, scale).logits;
  constexpr double kStep = 1e-2;
  for (std::int64_t i = 0; i < z.numel(); ++i) {
    const auto moved = [&](double by) {
      at::Tensor at_z = z.clone();
      at_z.view(-1)[i] += by;
      return loss_of(at_z, scale).loss.template item<double>() * scale.weight;
    };
    EXPECT_NEAR(gradient.reshape(-1)[i].template item<double>(), (moved(kStep) - moved(-kStep)) / (2 * kStep), 2e-4)
        << i;
  }
}

TEST(SpanLoss, GradientIsThatOfTheLoss) {
  expect_gradient_of(
      [](const at::Tensor& z, const LossScale& scale) { return span_cross_entropy(z, two_targets(), scale); },
      random_logits(3));
}

TEST(SpanDistillation, IsTheDivergenceOfBothEndsAtTheTemperature) {
  const at::Tensor student = random_logits(4), teacher = random_logits(5);
  constexpr double kTemperature = 3.0;
  double sum = 0.0;
  for (int window = 0; window < 2; ++window) {
    const auto places = window == 0 ? std::vector<int>{0, 2, 3, 4} : std::vector<int>{0, 1, 2, 3, 4, 5};
    for (int end = 0; end < 2; ++end) {
      double p_sum = 0.0, q_sum = 0.0;
      for (const int i : places) {
        p_sum += std::exp(teacher[window][end][i].item<double>() / kTemperature);
        q_sum += std::exp(student[window][end][i].item<double>() / kTemperature);
      }
      for (const int i : places) {
        const double p = std::exp(teacher[window][end][i].item<double>() / kTemperature) / p_sum;
        const double q = std::exp(student[window][end][i].item<double>() / kTemperature) / q_sum;
        sum += p * std::log(p / q);
      }
    }
  }
  const double want = sum / 2 * kTemperature * kTemperature / 2;  // of both ends the mean, and of both windows
  EXPECT_NEAR(span_distillation(student, teacher, two_targets(), kTemperature).loss.item<double>(), want, 1e-5);
  const LossOfSpans same = span_distillation(student, student, two_targets(), kTemperature);
  EXPECT_EQ(same.loss.item<double>(), 0.0);
  EXPECT_EQ(same.logits.abs().max().item<double>(), 0.0);
}

TEST(SpanDistillation, GradientIsThatOfTheLoss) {
  const at::Tensor teacher = random_logits(6);
  for (const double temperature : {1.0, 3.0})
    expect_gradient_of(
        [&](const at::Tensor& z, const LossScale& scale) {
          return span_distillation(z, teacher, two_targets(), temperature, scale);
        },
        random_logits(7));
}

class AnsweringModel : public ::testing::Test {
 protected:
  void SetUp() override {
    tiny_.config.task = ModelTask::kSpanQa;
    tiny_.build();
    tiny_.randomize();
  }
  at::Tensor targets() const { return at::tensor({3, 4, 2, 7, 0, 0, 3, 8}, at::kLong).view({2, 4}); }
  LossAndGradients pass(const ForwardContext& context) const {
    return tiny_.model->loss_and_gradients({.tokens = tiny_.tokens(2, 9)}, targets(), context);
  }
  at::Tensor answers(const at::Tensor& tokens, const ForwardContext& context) const {
    return tiny_.model->answer_logits(tiny_.model->hidden(tokens, context)).detach();
  }
  const at::Tensor& gradient(const LossAndGradients& found, const std::string& name) const {
    const int index = tiny_.model->parameters().info(tiny_.id_of(name)).trainable_index;
    return found.gradients.parameters.at(static_cast<std::size_t>(index));
  }
  test::TinyModel tiny_;
  PrecisionMap full_ = PrecisionMap::uniform(8, BitWidth::kFull, BitWidth::kFull);
};

TEST_F(AnsweringModel, HasTwoOutputsInPlaceOfTheProjectionUnderTransformersNames) {
  const ParameterStore& store = tiny_.model->parameters();
  EXPECT_EQ(store.info(tiny_.id_of("qa_outputs.weight")).shape, (std::vector<std::int64_t>{2, 16}));
  EXPECT_EQ(store.info(tiny_.id_of("qa_outputs.bias")).shape, (std::vector<std::int64_t>{2}));
  for (const ParameterInfo& info : store.infos()) EXPECT_NE(info.name, "lm_head.weight");
  tiny_.model->init_random(3);
  const std::vector<float> weight = store.host_values(tiny_.id_of("qa_outputs.weight"));
  double square = 0.0;
  for (const float value : weight) square += value * value;
  EXPECT_NEAR(std::sqrt(square / static_cast<double>(weight.size())), 0.02, 0.008);
  EXPECT_EQ(store.host_values(tiny_.id_of("qa_outputs.bias")), std::vector<float>(2, 0.0F));
}

// Against autograd, all through the network.
TEST_F(AnsweringModel, GradientsAreAutograds) {
  const ForwardContext context = tiny_.context(full_);
  const LossAndGradients found = pass(context);
  const at::AutoGradMode with_gradients(true);
  const ParameterStore& store = tiny_.model->parameters();
  const at::Tensor h = tiny_.model->hidden(tiny_.tokens(2, 9), context);
  const at::Tensor z =
      at::linear(h, store.tensor(tiny_.id_of("qa_outputs.weight")), store.tensor(tiny_.id_of("qa_outputs.bias")))
          .transpose(1, 2)
          .masked_fill(masked_places(targets(), 9), -INFINITY);
  const at::Tensor log_p = at::log_softmax(z, 2);
  const at::Tensor loss = -(log_p[0][0][3] + log_p[0][1][4] + log_p[1][0][0] + log_p[1][1][0]) / 4;
  EXPECT_NEAR(found.loss.item<double>(), loss.item<double>(), 1e-6);
  const auto want = torch::autograd::grad({loss}, store.trainable_tensors(), {}, false, false, /*allow_unused=*/true);
  for (std::size_t i = 0; i < want.size(); ++i) {
    ASSERT_EQ(found.gradients.parameters[i].defined(), want[i].defined()) << i;
    if (want[i].defined()) {
      EXPECT_TRUE(at::allclose(found.gradients.parameters[i], want[i], 1e-4, 1e-6)) << i;
    }
  }
}

// Teachers' distributions over places and their hidden states, against LibTorch's operators and finite differences.
TEST_F(AnsweringModel, LearnsFromTheLogitsThatItsTeachersHave) {
  const PrecisionMap eight = PrecisionMap::uniform(8, 8, 8), four = PrecisionMap::uniform(8, 4, 4);
  const at::Tensor tokens = tiny_.tokens(2, 9);
  const auto logits = [&](const PrecisionMap& map) { return answers(tokens, tiny_.context(map)).to(at::kDouble); };
  Lesson lesson{.distillation = {.weight = 0.5, .temperature = 3.0, .teachers = {}}, .feature_weight = 2.0};
  const at::Tensor masked = masked_places(targets(), 9);
  const auto log_p = [&](const at::Tensor& z) { return at::log_softmax((z / 3.0).masked_fill(masked, -1e30), 2); };
  double want = 0.0;
  for (const PrecisionMap& map : {full_, eight}) {
    Teaching teaching{.features = {{1, {}}, {2, {}}}};
    tiny_.model->teach({.tokens = tokens}, tiny_.context(map), teaching);
    lesson.distillation.teachers.push_back(tiny_.model->teacher_head(tiny_.context(map))(teaching.output));
    lesson.features = teaching.features;  // the last one's
    const at::Tensor of_teacher = log_p(logits(map));
    // Of both ends the mean, and of both windows.
    want += 9.0 * (of_teacher.exp() * (of_teacher - log_p(logits(four)))).sum().item<double>() / 4;
  }
  Teaching own{.features = {{1, {}}, {2, {}}}};
  tiny_.model->teach({.tokens = tokens}, tiny_.context(four), own);
  double of_features = 0.0;
  for (const auto& [number, state] : own.features) {
    const at::Tensor square = (state - lesson.features.at(number)).square().mean(1);  // by token
    // The first window's tokens end before place 7, the second's before place 8.
    of_features += (square.slice(0, 0, 7).mean().item<double>() + square.slice(0, 9, 17).mean().item<double>()) / 4;
  }
  const LossAndGradients found =
      tiny_.model->loss_and_gradients({.tokens = tokens}, targets(), tiny_.context(four), {.tokens = 2.0}, lesson);
  EXPECT_NEAR(found.distillation.item<double>(), want, 1e-4 * want + 1e-7);
  EXPECT_GT(want, 1e-4);
  EXPECT_NEAR(found.features.item<double>(), of_features, 1e-4 * of_features);
  EXPECT_EQ(found.loss.item<double>(), pass(tiny_.context(four)).loss.item<double>());
}

TEST_F(AnsweringModel, GradientsOfALessonAreThoseOfTheWeightedSum) {
  torch::manual_seed(21);
  const at::Tensor teacher = at::randn({18, 2}) * 2;
  const Lesson lesson{
      .distillation = {.weight = 0.6, .temperature = 2.0, .teachers = {[&](std::int64_t begin, std::int64_t n) {
                                                            return teacher.narrow(0, begin, n);
                                                          }}},
      .feature_weight = 0.8,
      .features = {{0, at::randn({18, 16})}, {2, at::randn({18, 16})}}};
  const LossScale scale{.tokens = 2.0, .weight = 0.3};
  const ForwardContext context = tiny_.context(full_);
  const auto learn = [&] {
    return tiny_.model->loss_and_gradients({.tokens = tiny_.tokens(2, 9)}, targets(), context, scale, lesson);
  };
  const LossAndGradients found = learn();
  const std::vector<at::Tensor>& parameters = tiny_.model->parameters().trainable_tensors();
  std::vector<at::Tensor> direction;
  double slope = 0.0;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    direction.push_back(at::randn(parameters[i].sizes()));
    const at::Tensor& g = found.gradients.parameters[i];
    if (g.defined()) slope += (g * direction[i]).sum().item<double>();
  }
  const auto moved = [&](double by) {
    const at::NoGradGuard no_grad;
    for (std::size_t i = 0; i < parameters.size(); ++i) at::Tensor(parameters[i]).add_(direction[i], by);
  };
  const auto at_distance = [&](double t) {
    moved(t);
    const LossAndGradients there = learn();
    moved(-t);
    return 0.3 * there.loss.item<double>() + 0.6 * there.distillation.item<double>() +
           0.8 * there.features.item<double>();
  };
  EXPECT_NEAR(slope, (at_distance(1e-3) - at_distance(-1e-3)) / 2e-3, 2e-2 * std::abs(slope) + 1e-2);
}

TEST_F(AnsweringModel, PaddingBehindTheWindowChangesNothing) {
  const ForwardContext context = tiny_.context(full_);
  const at::Tensor tokens = tiny_.tokens(2, 9);
  at::Tensor padded = at::full({2, 12}, 28, at::kLong);
  padded.narrow(1, 0, 9).copy_(tokens);
  const at::Tensor z = answers(tokens, context), longer = answers(padded, context);
  EXPECT_TRUE(at::allclose(longer.narrow(2, 0, 9), z, 1e-5, 1e-6));
  EXPECT_NEAR(span_cross_entropy(longer, targets()).loss.item<double>(),
              span_cross_entropy(z, targets()).loss.item<double>(), 1e-5);
}

TEST_F(AnsweringModel, IsTrainedThoughItsBaseIsFrozen) {
  tiny_.config.freeze_base = true;
  tiny_.build();
  const LossAndGradients found = pass(tiny_.context(PrecisionMap::uniform(8, 4, 4)));
  EXPECT_GT(gradient(found, "qa_outputs.weight").abs().max().item<double>(), 0.0);
  EXPECT_FALSE(tiny_.model->parameters().info(tiny_.id_of("transformer.wte.weight")).trainable);
}

TEST_F(AnsweringModel, HeadDropoutIsOfTrainingAloneAndBackwardDropsTheSame) {
  tiny_.config.head_dropout = 0.5;
  tiny_.build();
  tiny_.randomize();
  ForwardContext context = tiny_.context(full_);
  const double without = pass(context).loss.item<double>();
  context.training = true;
  const LossAndGradients once = pass(context), again = pass(context);
  EXPECT_NE(once.loss.item<double>(), without);
  EXPECT_EQ(once.loss.item<double>(), again.loss.item<double>());
  // Along the bias of the last norm the loss changes as the gradient says.
  const at::Tensor bias = tiny_.model->parameters().tensor(tiny_.id_of("transformer.ln_f.bias")).detach();
  const at::Tensor slope = gradient(once, "transformer.ln_f.bias");
  constexpr double kStep = 1e-2;
  for (const int i : {0, 5, 15}) {
    bias[i] += kStep;
    const double above = pass(context).loss.item<double>();
    bias[i] -= 2 * kStep;
    const double below = pass(context).loss.item<double>();
    bias[i] += kStep;
    EXPECT_NEAR(slope[i].item<double>(), (above - below) / (2 * kStep), 1e-3) << i;
  }
}

}  // namespace
}  // namespace qat
