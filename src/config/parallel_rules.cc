#include "src/config/parallel_rules.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <string>
#include <utility>

namespace qat {
namespace {

using dist::PipelineSchedule;

// As many blocks in each piece as can be.
std::vector<int> even_cut(std::int64_t pieces, std::int64_t blocks) {
  std::vector<int> cut;
  for (std::int64_t i = 0; i < pieces; ++i) cut.push_back(static_cast<int>(i * blocks / pieces));
  return cut;
}

}  // namespace

std::vector<int> nearest_cut(const std::vector<int>& cut, std::int64_t blocks) {
  const auto pieces = std::ssize(cut);
  std::vector<int> valid(cut.size());
  for (std::ptrdiff_t i = 0; i < pieces; ++i) {
    const auto at = static_cast<std::size_t>(i);
    const int least = i == 0 ? 0 : valid[at - 1] + 1;
    const int most = i == 0 ? 0 : static_cast<int>(blocks - (pieces - i));
    valid[at] = std::max(least, std::min(cut[at], most));
  }
  return valid;
}

void check_pipeline(const RunConfig& config, Findings& found) {
  const ParallelConfig& p = config.parallel;
  const std::int64_t blocks = config.model.n_layer;
  if (p.pipeline == 1 || p.pipeline > blocks) return;  // nothing is cut; or an error of its own
  const auto error = [&](std::string path, std::string rule, std::vector<std::string> also) {
    found.errors.push_back({std::move(path), std::move(rule), std::move(also), "", ""});
  };
  const std::int64_t most = blocks / p.pipeline;  // chunks a stage
  if (p.schedule != PipelineSchedule::kInterleaved) {
    if (p.chunks != 1) {
      error("parallel.chunks",
            fmt::format("must be 1 for parallel.schedule \"{}\": only \"interleaved\" goes through several chunks a "
                        "stage",
                        enum_name(p.schedule)),
            {"parallel.schedule"});
      return;
    }
  } else if (most < 2) {
    error("parallel.schedule",
          fmt::format("must not be \"interleaved\", which needs two blocks a stage: take \"1f1b\", or a "
                      "parallel.pipeline of at most {}",
                      std::max<std::int64_t>(1, blocks / 2)),
          {"parallel.pipeline", "model.n_layer"});
    return;
  } else if (p.chunks < 2 || p.chunks > most) {
    error("parallel.chunks",
          p.chunks < 2 ? fmt::format("must be 2 to {} for parallel.schedule \"interleaved\": with one chunk a stage it "
                                     "is \"1f1b\"",
                                     most)
                       : fmt::format("must be at most {}: each chunk of each stage has at least one block", most),
          {"parallel.schedule", "parallel.pipeline", "model.n_layer"});
    return;
  }
  const std::int64_t pieces = std::int64_t{p.pipeline} * p.chunks;
  if (p.cut.empty()) return;
  if (std::ssize(p.cut) != pieces) {
    error("parallel.cut",
          fmt::format("must name the first block of each of the {} pieces, or nothing for a cut by cost; for example "
                      "[{}]",
                      pieces, fmt::join(even_cut(pieces, blocks), ", ")),
          {"parallel.pipeline", "parallel.chunks"});
  } else if (const std::vector<int> valid = nearest_cut(p.cut, blocks); valid != p.cut) {
    error("parallel.cut",
          fmt::format("must begin with 0, rise and end below model.n_layer, so that every piece has a block; nearest: "
                      "[{}]",
                      fmt::join(valid, ", ")),
          {"model.n_layer"});
  }
}

void check_staged_run(const RunConfig& config, Findings& found) {
  const ParallelConfig& p = config.parallel;
  if (p.pipeline == 1) return;
  const auto refuse = [&](bool wrong, std::string path, std::string rule) {
    if (wrong) found.errors.push_back({std::move(path), std::move(rule), {"parallel.pipeline"}, "", ""});
  };
  refuse(p.threads_per_rank > 1, "parallel.threads_per_rank",
         "must be 0 or 1 with several stages, which take one micro-batch at a time: start more ranks");
  refuse(config.comm.ranks_per_node % p.pipeline != 0, "comm.ranks_per_node",
         "must be a multiple of parallel.pipeline: a replica's stages are on one node");
}

}  // namespace qat
