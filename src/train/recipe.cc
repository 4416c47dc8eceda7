#include "src/train/recipe.h"

#include "kernels/common/bit_width.h"
#include "kernels/common/error.h"
#include "src/base/rng.h"
#include "src/quant/precision_map.h"

namespace qat {
namespace {

enum Draw : std::uint64_t { kStudents = 0, kFeatures = 1 };

// A number below n, of a stream's draws.
std::size_t below(kernels::RngKey key, std::uint64_t draw, std::size_t n) {
  return static_cast<std::size_t>(kernels::philox(key, draw).v[0] % n);
}

// Collects a step's maps and passes.
class Planner {
 public:
  Planner(const RecipeInput& input, TeacherChoice teacher)
      : input_(input), teacher_(input.step < input.distill.start_step ? TeacherChoice::kNone : teacher) {}

  // An update of a pass at each width in turn, whose losses have equal shares. At 32 bits: by `full` times that.
  void add_update(const std::vector<int>& widths, double full = 1.0) {
    dist::UpdatePlan& update = work_.updates.emplace_back();
    update.learning_rate = input_.learning_rate;
    const double share = 1.0 / static_cast<double>(widths.size());
    std::vector<Trained> before;
    for (const int bits : widths) {
      dist::PassPlan pass{.map = map_of(bits),
                          .loss = {.cross_entropy = bits == BitWidth::kFull ? full * share : share}};
      teach(pass, bits, share, before, update);
      before.push_back({bits, static_cast<std::uint32_t>(update.passes.size())});
      update.passes.push_back(std::move(pass));
    }
  }

  StepWork take() { return std::move(work_); }

 private:
  struct Trained {
    int bits;
    std::uint32_t pass;  // of the update
  };

  std::uint32_t map_of(int bits) {
    const LayerPrecision precision = scheduled_precision(input_.quant, bits, input_.scheduled.gradient);
    const dist::PlannedWidths planned{.weight_bits = precision.weight.bits(),
                                      .activation_bits = precision.activation.bits(),
                                      .gradient_bits = precision.gradient.bits()};
    const auto found = std::find(work_.maps.begin(), work_.maps.end(), planned);
    if (found != work_.maps.end()) return static_cast<std::uint32_t>(found - work_.maps.begin());
    work_.maps.push_back(planned);
    return static_cast<std::uint32_t>(work_.maps.size() - 1);
  }

  // The pass of the update that teaches at this width: one that trains, or one for the purpose.
  std::uint32_t teacher_at(int bits, const std::vector<Trained>& before, dist::UpdatePlan& update) {
    const std::uint32_t map = map_of(bits);
    for (const Trained& one : before)
      if (one.bits == bits && !input_.dropout) return one.pass;
    for (std::uint32_t i = 0; i < update.passes.size(); ++i)
      if (!update.passes[i].trains && update.passes[i].map == map) return i;
    update.passes.push_back({.map = map, .trains = false});
    return static_cast<std::uint32_t>(update.passes.size() - 1);
  }

  void teach(dist::PassPlan& pass, int bits, double share, const std::vector<Trained>& before,
             dist::UpdatePlan& update) {
    if (teacher_ == TeacherChoice::kNone || bits == BitWidth::kFull) return;
    const DistillConfig& distill = input_.distill;
    pass.teachers.push_back(teacher_at(BitWidth::kFull, before, update));
    if (teacher_ == TeacherChoice::kWider)
      for (const Trained& one : before)
        if (one.bits > bits && one.bits != BitWidth::kFull)
          pass.teachers.push_back(teacher_at(one.bits, before, update));
    pass.loss = {.cross_entropy = distill.cross_entropy * share,
                 .distillation = distill.weight * share,
                 .temperature = distill.temperature,
                 .features = distill.features * share};
    if (distill.features > 0.0) pass.feature_layers = features(update.passes.size());
  }

  std::vector<std::uint32_t> features(std::size_t pass) const {
    std::vector<std::uint32_t> layers(input_.distill.feature_layers.begin(), input_.distill.feature_layers.end());
    if (layers.empty())
      for (int layer = 0; layer <= input_.layers; ++layer) layers.push_back(static_cast<std::uint32_t>(layer));
    if (input_.distill.feature_pick == FeaturePick::kAll) return layers;
    const kernels::RngKey key =
        rng_key(input_.seed, RngPurpose::kRecipe, static_cast<std::uint64_t>(input_.step), 0, kFeatures);
    return {layers[below(key, 64 * work_.updates.size() + pass, layers.size())]};
  }

  const RecipeInput& input_;
  TeacherChoice teacher_;
  StepWork work_;
};

}  // namespace

StepWork plan_work(Recipe recipe, const RecipeInput& input) {
  Planner planner(input, teacher_of(recipe, input.distill));
  switch (recipe) {
    case Recipe::kCpt:
      planner.add_update({input.scheduled.weight});
      return planner.take();
    case Recipe::kSpnet:
      planner.add_update(input.quant.widths);
      return planner.take();
    case Recipe::kPerMap:
      for (const int bits : input.quant.widths) planner.add_update({bits});
      return planner.take();
    case Recipe::kSp: {
      std::vector<int> widths =
          drawn_students(student_widths(input.quant.widths), input.students, input.seed, input.step);
      if (input.distill.teacher_cross_entropy > 0.0) widths.insert(widths.begin(), BitWidth::kFull);
      planner.add_update(widths, input.distill.teacher_cross_entropy);
      return planner.take();
    }
    case Recipe::kInstantnet:
      planner.add_update(descending_widths(input.quant.widths));
      return planner.take();
  }
  throw Error(ErrorKind::kInternal, "internal error: a recipe without a plan");
}

std::vector<int> drawn_students(const std::vector<int>& widths, int students, std::uint64_t seed, std::int64_t step) {
  const auto n = static_cast<std::int64_t>(widths.size());
  QAT_CHECK(students >= 1 && students <= n, "a step's students are some of the widths, each once");
  const std::int64_t steps = (n + students - 1) / students;  // of a round, in which all widths come, in a random order
  std::vector<int> order = widths;
  const kernels::RngKey key =
      rng_key(seed, RngPurpose::kRecipe, static_cast<std::uint64_t>(step / steps), 0, kStudents);
  for (std::size_t left = order.size(); left > 1; --left) std::swap(order[left - 1], order[below(key, left, left)]);
  std::vector<int> drawn;
  for (std::int64_t i = 0; i < students; ++i)  // the round's last step goes on with its first widths
    drawn.push_back(order[static_cast<std::size_t>((step % steps * students + i) % n)]);
  return descending_widths(std::move(drawn));
}

}  // namespace qat
