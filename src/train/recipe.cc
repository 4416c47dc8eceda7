#include "src/train/recipe.h"

#include <numeric>

#include "kernels/common/error.h"
#include "src/base/rng.h"
#include "src/quant/precision_map.h"

namespace qat {
namespace {

enum RecipeDraw : std::uint64_t { kStudents = 0, kFeatures = 1 };

using dist::PlannedWidths;

// A number below n, of a stream's draws.
std::size_t below(kernels::RngKey key, std::uint64_t draw, std::size_t n) {
  return static_cast<std::size_t>(kernels::philox(key, draw).v[0] % n);
}

PlannedWidths planned(const RecipeInput& input, int weight_bits) {
  const LayerPrecision precision = scheduled_precision(input.quant, weight_bits, input.scheduled.gradient);
  return {.weight_bits = precision.weight.bits(),
          .activation_bits = precision.activation.bits(),
          .gradient_bits = precision.gradient.bits()};
}

// blocks: the widths of each, if they differ; `weight_bits` is then what the whole counts as.
PlannedWidths planned_blocks(const RecipeInput& input, int weight_bits, const std::vector<int>& blocks) {
  PlannedWidths map = planned(input, weight_bits);
  if (!blocks.empty()) map.gradient_bits = input.scheduled.gradient;  // some are quantized
  map.block_bits.assign(blocks.begin(), blocks.end());
  return map;
}

std::vector<PlannedWidths> all_maps(const RecipeInput& input) {
  std::vector<PlannedWidths> maps;
  for (std::size_t i = 0; i < input.maps.size(); ++i) maps.push_back(planned_map(input.maps, i));
  if (!maps.empty()) return maps;
  for (const int bits : input.quant.widths) maps.push_back(planned(input, bits));
  return maps;
}

bool is_full(const PlannedWidths& map) { return map.weight_bits == BitWidth::kFull && map.block_bits.empty(); }

std::vector<PlannedWidths> widest_first(std::vector<PlannedWidths> maps) {
  std::stable_sort(maps.begin(), maps.end(),
                   [](const PlannedWidths& a, const PlannedWidths& b) { return a.weight_bits > b.weight_bits; });
  return maps;
}

// What a step of recipe sp trains below 32 bits.
std::vector<PlannedWidths> students_of(const RecipeInput& input) {
  std::vector<PlannedWidths> all = all_maps(input), drawn;
  std::erase_if(all, is_full);
  all = widest_first(std::move(all));
  for (const std::size_t map : drawn_students(all.size(), input.students, input.student_draw, input.seed, input.step))
    drawn.push_back(all[map]);
  return widest_first(std::move(drawn));
}

// Collects a step's maps and passes.
class Planner {
 public:
  Planner(const RecipeInput& input, TeacherChoice teacher)
      : input_(input), teacher_(input.step < input.distill.start_step ? TeacherChoice::kNone : teacher) {}

  // An update of a pass at each in turn, whose losses have equal shares. At 32 bits: by `full` times that.
  void add_update(const std::vector<PlannedWidths>& maps, double full = 1.0) {
    dist::UpdatePlan& update = work_.updates.emplace_back();
    update.learning_rate = input_.learning_rate;
    const double share = 1.0 / static_cast<double>(maps.size());
    std::vector<Trained> before;
    for (const PlannedWidths& map : maps) {
      dist::PassPlan pass{.map = number_of(map), .loss = {.cross_entropy = is_full(map) ? full * share : share}};
      teach(pass, map, share, before, update);
      before.push_back({map, static_cast<std::uint32_t>(update.passes.size())});
      update.passes.push_back(std::move(pass));
    }
  }

  StepWork take() { return std::move(work_); }

 private:
  struct Trained {
    PlannedWidths map;
    std::uint32_t pass;  // of the update
  };

  std::uint32_t number_of(const PlannedWidths& map) {
    const auto found = std::find(work_.maps.begin(), work_.maps.end(), map);
    if (found != work_.maps.end()) return static_cast<std::uint32_t>(found - work_.maps.begin());
    work_.maps.push_back(map);
    return static_cast<std::uint32_t>(work_.maps.size() - 1);
  }

  // The pass of the update that teaches at this map: one that trains, or one for the purpose.
  std::uint32_t teacher_at(const PlannedWidths& map, const std::vector<Trained>& before, dist::UpdatePlan& update) {
    for (const Trained& one : before)
      if (one.map == map && !input_.dropout) return one.pass;
    const std::uint32_t number = number_of(map);
    for (std::uint32_t i = 0; i < update.passes.size(); ++i)
      if (!update.passes[i].trains && update.passes[i].map == number) return i;
    update.passes.push_back({.map = number, .trains = false});
    return static_cast<std::uint32_t>(update.passes.size() - 1);
  }

  void teach(dist::PassPlan& pass, const PlannedWidths& map, double share, const std::vector<Trained>& before,
             dist::UpdatePlan& update) {
    if (teacher_ == TeacherChoice::kNone || is_full(map)) return;
    const DistillConfig& distill = input_.distill;
    pass.teachers.push_back(teacher_at(planned(input_, BitWidth::kFull), before, update));
    if (teacher_ == TeacherChoice::kWider)
      for (const Trained& one : before)
        if (one.map.weight_bits > map.weight_bits && !is_full(one.map))
          pass.teachers.push_back(teacher_at(one.map, before, update));
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
    case Recipe::kCpt: {
      const ScheduledBits& bits = input.scheduled;
      planner.add_update({bits.map < 0 ? planned_blocks(input, bits.weight, input.scheduled_blocks)
                                       : planned_map(input.maps, static_cast<std::size_t>(bits.map))});
      return planner.take();
    }
    case Recipe::kSpnet:
      planner.add_update(all_maps(input));
      return planner.take();
    case Recipe::kPerMap:
      for (const PlannedWidths& map : all_maps(input)) planner.add_update({map});
      return planner.take();
    case Recipe::kSp: {
      std::vector<PlannedWidths> maps = students_of(input);
      if (input.distill.teacher_cross_entropy > 0.0) maps.insert(maps.begin(), planned(input, BitWidth::kFull));
      planner.add_update(maps, input.distill.teacher_cross_entropy);
      return planner.take();
    }
    case Recipe::kInstantnet:
      planner.add_update(widest_first(all_maps(input)));
      return planner.take();
  }
  throw Error(ErrorKind::kInternal, "internal error: a recipe without a plan");
}

std::vector<std::size_t> drawn_students(std::size_t n, int students, StudentDraw draw, std::uint64_t seed,
                                        std::int64_t step) {
  const auto k = static_cast<std::size_t>(students);
  QAT_CHECK(k >= 1 && k <= n, "a step's students are some of the maps, each once");
  if (draw == StudentDraw::kSandwich) {
    std::vector<std::size_t> drawn;
    if (k > 1) drawn = drawn_students(n - 1, students - 1, StudentDraw::kRounds, seed, step);
    drawn.push_back(n - 1);
    return drawn;
  }
  const auto steps = static_cast<std::int64_t>((n + k - 1) / k);  // of a round, in which all come, in a random order
  std::vector<std::size_t> order(n);
  std::iota(order.begin(), order.end(), 0);
  const kernels::RngKey key =
      rng_key(seed, RngPurpose::kRecipe, static_cast<std::uint64_t>(step / steps), 0, kStudents);
  for (std::size_t left = n; left > 1; --left) std::swap(order[left - 1], order[below(key, left, left)]);
  std::vector<std::size_t> drawn;
  const auto first = static_cast<std::size_t>(step % steps) * k;
  for (std::size_t i = first; i < first + k; ++i) drawn.push_back(order[i % n]);  // the last step: its first again
  return drawn;
}

}  // namespace qat
