// Whole runs of the tiny model, on ranks that are threads.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "src/base/json.h"
#include "src/checkpoint/catalog.h"
#include "src/eval/perplexity.h"
#include "src/train/run_state.h"
#include "src/train/trainer.h"
#include "tests/support/tiny_training.h"

namespace qat::test {

namespace fs = std::filesystem;

class TrainerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    at::set_num_threads(1);
    root_ = fs::temp_directory_path() / ("qat trainer é " + std::to_string(getpid()));
    fs::remove_all(root_);
    fs::create_directories(root_);
  }
  void TearDown() override { fs::remove_all(root_); }

  TrainerOptions options(const std::string& dir, std::int64_t steps) const {
    TrainerOptions o;
    o.run = {.dir = (root_ / dir).string(), .seed = 5};
    o.train = {.steps = steps, .batch_size = 16, .micro_batch_size = 2, .max_skips = 3};
    o.quant.widths = {3, 4, 5, 6, 8, 32};
    o.precision = {.cycles = 2, .min_bits = 3, .max_bits = 8};
    o.lr = {.peak = 1e-2, .warmup_steps = 2};
    o.data.sequence_length = 12;
    o.eval = {.bits = {32, 8, 3}, .batch_size = 4};
    o.config_json = R"({"model": {"n_layer": 2}})";
    o.config_hash = 77;
    return o;
  }

  struct End {
    TrainResult result;
    TrainState state;
    std::vector<float> parameters;  // of the whole model
  };
  using Prepare = std::function<void(Trainer&)>;

  // Runs `options` on `ranks` threads, in stages_ stages; what rank 0 ends with.
  End train(const TrainerOptions& options, int ranks,
            const QuantizerConfig& activation = {.granularity = Granularity::kToken}, const Prepare& prepare = {},
            const std::atomic<int>* signal = nullptr) {
    const TokenSource tokens = tiny_tokens(train_tokens_), held_out = tiny_tokens(held_out_tokens_);
    const Sampler samples(tokens, options.data.sequence_length, options.run.seed);
    return train_on(samples, HeldOutText(held_out), config_, options, ranks, activation, prepare, signal);
  }

  // The same on other samples, and for a model of another configuration.
  End train_on(const SampleSource& samples, const HeldOutSet& held_out, const Gpt2Config& config,
               const TrainerOptions& options, int ranks,
               const QuantizerConfig& activation = {.granularity = Granularity::kToken}, const Prepare& prepare = {},
               const std::atomic<int>* signal = nullptr) {
    End end;
    std::mutex mutex;
    std::map<std::string, std::vector<float>> parameters;  // of all stages
    std::vector<std::string> names;                        // in the model's order
    dist::run_local_ranks(ranks, [&](dist::Communicator& comm) {
      TinyModel mine;
      mine.config = config;
      mine.lora = lora_;
      mine.quant = options.quant;
      mine.quant.activation = activation;
      const dist::GridGroups groups =
          dist::make_groups(dist::ProcessGrid::make(ranks, comm.rank(), ranks / stages_, stages_), comm);
      const dist::Grid grid = stages_ == 1 ? dist::Grid(comm) : dist::Grid(comm, groups);
      Gpt2 model(mine.config, mine.lora, mine.quant, StepRunner::padding(grid.data_size()), ComputeMode{},
                 Recompute::kNone, equal_stage(mine.config.n_layer, grid, chunks_));
      model.init_random(options.run.seed);
      fs::create_directories(options.run.dir);
      Logger log({.dir = fs::path(options.run.dir) / "logs", .rank = comm.rank()});
      TrainerOptions own = options;
      own.quant = mine.quant;
      Trainer trainer(own, {.model = model,
                            .samples = samples,
                            .held_out = held_out,
                            .grid = grid,
                            .log = log,
                            .progress = comm.rank() == 0 ? progress_ : nullptr,
                            .signal = signal,
                            .on_progress = comm.rank() == 0 ? on_progress_ : nullptr});
      if (prepare) prepare(trainer);
      TrainResult result = trainer.run();
      model.parameters().gather(std::vector<bool>(model.parameters().groups().size(), true), grid.data());
      const std::lock_guard lock(mutex);
      if (grid.data_rank() == 0)
        for (int id = 0; id < model.parameters().count(); ++id)
          parameters[model.parameters().info(id).name] = model.parameters().host_values(id);
      if (comm.rank() != 0) return;
      end = {std::move(result), trainer.state(), {}};
      for (const ParameterInfo& info : model.whole().parameters().infos()) names.push_back(info.name);
    });
    for (const std::string& name : names)
      end.parameters.insert(end.parameters.end(), parameters.at(name).begin(), parameters.at(name).end());
    return end;
  }

  // metrics.jsonl without what a clock writes.
  std::vector<std::string> curve(const std::string& dir) const {
    std::ifstream in(root_ / dir / "metrics.jsonl");
    std::vector<std::string> lines;
    for (std::string line; std::getline(in, line);) {
      const Value value = parse_json(line, "metrics");
      lines.push_back(to_json(value.at("step")) + " " + to_json(value.at("loss")) + " " +
                      to_json(value.at("grad_norm")) + " " + to_json(value.at("weight_bits")) + " " +
                      to_json(value.at("bitops_ratio")));
    }
    return lines;
  }
  std::string read(const std::string& dir, const std::string& file) const { return read_file(root_ / dir / file); }

  fs::path root_;
  Gpt2Config config_ = TinyModel().config;
  LoraConfig lora_ = TinyModel().lora;
  int stages_ = 1;
  int chunks_ = 1;  // a stage
  std::int64_t train_tokens_ = 4000, held_out_tokens_ = 300;
  std::function<void(std::int64_t, const std::string&)> on_progress_;
  Progress* progress_ = nullptr;  // rank 0's
};

}  // namespace qat::test
