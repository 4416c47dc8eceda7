// A training set-up small enough for a unit test: a two-block model on tokens in memory.
#pragma once

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <memory>
#include <vector>

#include "dist/comm/local_comm.h"
#include "src/data/sampler.h"
#include "src/model/stage_cut.h"
#include "src/train/step_runner.h"
#include "tests/support/tiny_model.h"

namespace qat::test {

// Text with something to learn: a token follows from the last one, but for every seventh.
inline TokenSource tiny_tokens(std::int64_t count = 4000, int vocab = 29) {
  std::vector<std::uint16_t> tokens = {1};
  for (std::int64_t i = 1; i < count; ++i)
    tokens.push_back(static_cast<std::uint16_t>((tokens.back() * 3 + (i % 7 == 0 ? i / 7 : 1)) % vocab));
  TokenSource source;
  source.add_tokens("tiny", std::move(tokens));
  return source;
}

// All parameters' values, in order of declaration.
inline std::vector<float> parameters_of(const Gpt2& model) {
  std::vector<float> all;
  for (int id = 0; id < model.parameters().count(); ++id) {
    const std::vector<float> values = model.parameters().host_values(id);
    all.insert(all.end(), values.begin(), values.end());
  }
  return all;
}

// A stage of as equal numbers of blocks as may be, in so many chunks.
inline StageRange equal_stage(std::int64_t blocks, const dist::Grid& grid, int chunks = 1) {
  const dist::StageCut cut =
      dist::cut_stages({.blocks = std::vector<double>(static_cast<std::size_t>(blocks), 1.0)}, grid.stages(), chunks);
  return stage_range(cut, grid.stage(), grid.stages(), blocks);
}

// One rank of a run, driven step by step. On a grid of stages it has its own, of as equal numbers of blocks as may be.
class TinyRank {
 public:
  TinyRank(TinyModel& spec, const TokenSource& tokens, const dist::Grid& grid, const StepRunnerOptions& options,
           const ComputeMode& mode = {}, int chunks = 1)
      : grid_(grid),
        model_(spec.config, spec.lora, spec.quant, StepRunner::padding(grid.data_size()), mode, Recompute::kNone,
               equal_stage(spec.config.n_layer, grid, chunks)),
        sampler_(tokens, options.sequence_length, options.seed),
        runner_(model_, sampler_, grid, options),
        poll_(grid.world()),
        batch_size_(static_cast<std::uint64_t>(options.train.batch_size)) {
    model_.init_random(options.seed);
  }
  StepOutcome step(std::uint64_t index, int bits, int gradient_bits, float learning_rate = 1e-2F) {
    return run({.step = index,
                .maps = {{.weight_bits = bits, .activation_bits = bits, .gradient_bits = gradient_bits}},
                .updates = {{.passes = {{.map = 0}}, .learning_rate = learning_rate}}});
  }
  // The plan's first sample is put in.
  StepOutcome run(dist::StepPlan plan, const StepOutcome& so_far = {}) {
    plan.first_sample = plan.step * batch_size_;
    const std::vector<PrecisionMap> maps = precision_of(plan.maps), ahead = precision_of(plan.ahead);
    return runner_.run(plan, maps, poll_, {}, so_far, ahead);
  }
  std::vector<PrecisionMap> precision_of(const std::vector<dist::PlannedWidths>& planned) const {
    std::vector<PrecisionMap> maps;
    for (const dist::PlannedWidths& map : planned)
      maps.push_back(
          PrecisionMap::uniform(model_.config().linears(), map.weight_bits, map.activation_bits, map.gradient_bits));
    return maps;
  }
  Gpt2& model() { return model_; }
  StepRunner& runner() { return runner_; }
  dist::StopPoll& poll() { return poll_; }
  const Sampler& sampler() const { return sampler_; }
  // Collective where widths have parameters of their own.
  std::vector<float> parameters() const {
    hold_everything();
    return parameters_of(model_);
  }
  void hold_everything() const {
    model_.parameters().gather(std::vector<bool>(model_.parameters().groups().size(), true), grid_.data());
  }

 private:
  dist::Grid grid_;
  Gpt2 model_;
  Sampler sampler_;
  StepRunner runner_;
  dist::StopPoll poll_;
  std::uint64_t batch_size_;
};

inline StepRunnerOptions tiny_options() {
  return {.seed = 5, .sequence_length = 12, .train = {.batch_size = 16, .micro_batch_size = 2}, .optim = {}};
}

}  // namespace qat::test
