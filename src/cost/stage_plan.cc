#include "src/cost/stage_plan.h"

#include <algorithm>
#include <numeric>

#include "src/model/stage_cut.h"
#include "src/train/recipe.h"

namespace qat {
namespace {

void add_times(ModelTimes& sum, const ModelTimes& more) {
  if (sum.blocks.empty()) sum.blocks.resize(more.blocks.size());
  for (std::size_t i = 0; i < sum.blocks.size(); ++i) sum.blocks[i] += more.blocks[i];
  sum.embedding += more.embedding;
  sum.head += more.head;
}

PassTime over(PassTime time, double count) {
  return {.forward_s = time.forward_s / count, .backward_s = time.backward_s / count};
}

// Of a stage's chunk among the model's pieces.
std::size_t piece_of(int stage, int stages, int chunk) {
  return static_cast<std::size_t>(chunk) * static_cast<std::size_t>(stages) + static_cast<std::size_t>(stage);
}

std::int64_t end_of(const dist::StageCut& cut, std::size_t piece, std::int64_t blocks) {
  return piece + 1 < cut.size() ? cut[piece + 1] : blocks;
}

}  // namespace

ModelTimes run_times(const RunConfig& config, bool cuda, const DeviceRates& rates) {
  ModelTimes sum;
  int count = 0;
  const auto add = [&](const PassShape& pass) {
    add_times(sum, model_times(pass, rates));
    ++count;
  };
  for (const std::string& map : config.quant.maps) add(map_pass(config, cuda, map, /*training=*/true));
  if (config.quant.maps.empty())
    for (const int bits : recipe_widths(config.train.recipe, config.precision, config.distill, config.quant.widths))
      add(training_pass(config, cuda, bits));
  for (PassTime& block : sum.blocks) block = over(block, count);
  sum.embedding = over(sum.embedding, count);
  sum.head = over(sum.head, count);
  return sum;
}

dist::StageCut run_cut(const RunConfig& config, const ModelTimes& times) {
  const ParallelConfig& parallel = config.parallel;
  if (parallel.pipeline == 1) return {0};
  if (!parallel.cut.empty()) return {parallel.cut.begin(), parallel.cut.end()};
  return dist::cut_stages(layer_costs(times), parallel.pipeline, parallel.chunks);
}

StagePart stage_part(const RunConfig& config, const dist::StageCut& cut, int stage, std::int64_t micro_batches) {
  const int stages = config.parallel.pipeline, chunks = static_cast<int>(std::ssize(cut)) / stages;
  const StageRange range = stage_range(cut, stage, stages, config.model.n_layer);
  StagePart part{.chunks = range.chunks, .embeds = range.embeds, .heads = range.heads};
  const auto in_flight = [&](int at) {
    return dist::peak_in_flight(dist::stage_actions(config.parallel.schedule, at, stages, micro_batches, chunks));
  };
  part.in_flight = in_flight(stage);
  if (part.heads && !part.embeds) part.waiting_tables = std::min(in_flight(0), micro_batches);
  return part;
}

std::vector<double> stage_shares(const RunConfig& config, const ModelTimes& times, const dist::StageCut& cut) {
  std::vector<double> shares = dist::stage_costs(layer_costs(times), cut, config.parallel.pipeline);
  const double sum = std::accumulate(shares.begin(), shares.end(), 0.0);
  for (double& share : shares) share /= sum;
  return shares;
}

dist::SimulatedPipeline planned_pipeline(const RunConfig& config, const ModelTimes& times, const dist::StageCut& cut,
                                         std::int64_t micro_batches, bool trains) {
  constexpr double kMicro = 1e6;
  const int stages = config.parallel.pipeline, chunks = static_cast<int>(std::ssize(cut)) / stages;
  dist::SimulatedPipeline pipeline;
  for (int stage = 0; stage < stages; ++stage) {
    pipeline.add_turns(dist::stage_turns(config.parallel.schedule, stage, stages, micro_batches, chunks, trains));
    std::vector<dist::ChunkTime>& of_chunks = pipeline.times.emplace_back();
    for (int chunk = 0; chunk < chunks; ++chunk) {
      const std::size_t piece = piece_of(stage, stages, chunk);
      PassTime time;
      for (std::int64_t block = cut[piece]; block < end_of(cut, piece, config.model.n_layer); ++block)
        time += times.blocks[static_cast<std::size_t>(block)];
      if (piece == 0) time += times.embedding;
      // The last piece goes forward and backward at once, as its head does.
      if (piece + 1 == cut.size()) {
        time += times.head;
        if (trains) time = {.forward_s = time.total(), .backward_s = 0.0};
      }
      of_chunks.push_back({.forward_us = time.forward_s * kMicro, .backward_us = time.backward_s * kMicro});
    }
  }
  return pipeline;
}

}  // namespace qat
