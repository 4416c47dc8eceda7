// Pipelines on paper: how long a step of GPT-2 would take by each schedule, from the model of times (src/cost), and
// what its stages would hold. Measures nothing and needs no GPU.
//
//   build/pipeline_plan --preset gpt2-xl --gpu H200 --stages 2 --micro-batch 8 --micro-batches 16 [--chunks 2]
//                       [--schedule 1f1b --csv timeline.csv --trace timeline.json]
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "src/base/file.h"
#include "src/config/loader.h"
#include "src/cost/stage_report.h"

namespace {

struct Setting {
  std::string preset = "gpt2", gpu = "H100", schedule, csv, trace;
  int stages = 2, chunks = 2, bits = 8;
  std::int64_t micro_batch = 8, micro_batches = 16, sequence = 1024, rank = 0;
  double transfer_us = 0.0;
};

// With every rule of the configuration; stages are set past the rule that a build may not have them.
qat::RunConfig config_of(const Setting& s) {
  const std::vector<std::string> sets = {"model.preset=" + s.preset,
                                         fmt::format("data.sequence_length={}", s.sequence),
                                         fmt::format("lora.rank={}", s.rank),
                                         "precision.kind=constant",
                                         fmt::format("precision.max_bits={}", s.bits),
                                         fmt::format("train.micro_batch_size={}", s.micro_batch),
                                         fmt::format("train.batch_size={}", s.micro_batch * s.micro_batches),
                                         "data.train=[\"tokens.bin\"]",
                                         "data.val=[\"tokens.bin\"]"};
  qat::RunConfig config = qat::load_run_config(std::nullopt, sets).config;
  config.parallel.pipeline = s.stages;
  return config;
}

void run(const Setting& s) {
  using qat::dist::PipelineSchedule;
  qat::RunConfig config = config_of(s);
  if (s.stages < 1 || s.stages * s.chunks > config.model.n_layer)
    throw qat::Error(qat::ErrorKind::kConfig, fmt::format("--stages {} x --chunks {} must be at most the {} blocks",
                                                          s.stages, s.chunks, config.model.n_layer));
  const qat::DeviceRates rates = qat::gpu_rates(s.gpu);
  const qat::ModelTimes times = qat::run_times(config, /*cuda=*/true, rates);
  const double one_rank = static_cast<double>(s.micro_batches) * times.total();
  fmt::print("{} on {}: {} micro-batches of {} x {} tokens; one rank: {:.1f} ms\n", s.preset, rates.name,
             s.micro_batches, s.micro_batch, s.sequence, one_rank * 1e3);
  for (const auto& name : qat::enum_names<PipelineSchedule>()) {
    config.parallel.schedule = *qat::enum_value<PipelineSchedule>(name);
    config.parallel.chunks = config.parallel.schedule == PipelineSchedule::kInterleaved ? s.chunks : 1;
    if (config.parallel.schedule == PipelineSchedule::kInterleaved && s.chunks < 2) continue;
    const qat::dist::StageCut cut = qat::run_cut(config, times);
    qat::dist::SimulatedPipeline pipeline = qat::planned_pipeline(config, times, cut, s.micro_batches);
    pipeline.transfer_us = s.transfer_us;
    const qat::dist::Timeline timeline = qat::dist::simulate(pipeline);
    double end_us = 0.0, idle = 0.0;
    for (const qat::dist::TimelineSpan& span : timeline) end_us = std::max(end_us, span.end_us);
    for (const qat::dist::RankUse& use : qat::dist::rank_use(timeline)) idle += use.idle_share / s.stages;
    fmt::print("{}: cut [{}], {:.1f} ms, {:.2f} x one rank, idle {:.1f} % (equal stages: {:.1f} %)\n", name,
               fmt::join(cut, ", "), end_us * 1e-3, one_rank * 1e6 / end_us, idle * 100.0,
               100.0 * qat::dist::bubble_fraction(config.parallel.schedule, s.stages, s.micro_batches,
                                                  config.parallel.chunks));
    for (const std::string& line : qat::describe_stages(config, {.cuda = true}, times, cut)) fmt::print("  {}\n", line);
    if (name != s.schedule) continue;
    if (!s.csv.empty()) qat::write_file_atomic(s.csv, qat::dist::to_csv(timeline));
    if (!s.trace.empty()) qat::write_file_atomic(s.trace, qat::dist::to_chrome_trace(timeline));
  }
}

}  // namespace

int main(int argc, char** argv) {
  Setting s;
  CLI::App app{"pipelines on paper"};
  app.add_option("--preset", s.preset)->capture_default_str();
  app.add_option("--gpu", s.gpu, "H100 or H200")->capture_default_str();
  app.add_option("--stages", s.stages)->capture_default_str();
  app.add_option("--chunks", s.chunks, "of the interleaved schedule")->capture_default_str();
  app.add_option("--micro-batch", s.micro_batch, "sequences")->capture_default_str();
  app.add_option("--micro-batches", s.micro_batches)->capture_default_str();
  app.add_option("--sequence", s.sequence)->capture_default_str();
  app.add_option("--bits", s.bits)->capture_default_str();
  app.add_option("--rank", s.rank)->capture_default_str();
  app.add_option("--transfer-us", s.transfer_us, "of a micro-batch between two stages")->capture_default_str();
  app.add_option("--schedule", s.schedule, "whose timeline is written");
  app.add_option("--csv", s.csv);
  app.add_option("--trace", s.trace);
  CLI11_PARSE(app, argc, argv);
  try {
    run(s);
  } catch (const qat::Error& error) {
    fmt::print(stderr, "{}\n", error.what());
    return error.exit_code();
  }
  return 0;
}
