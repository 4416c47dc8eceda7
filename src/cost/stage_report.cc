#include "src/cost/stage_report.h"

#include <fmt/format.h>

#include "src/report/numbers.h"

namespace qat {
std::string stage_contents(const StagePart& part) {
  if (part.is_whole()) return "the whole model";
  std::string text;
  std::int64_t blocks = 0;
  for (const BlockRange& chunk : part.chunks) {
    text += text.empty() ? "" : " and ";
    text +=
        chunk.last - chunk.first == 1 ? std::to_string(chunk.first) : fmt::format("{}-{}", chunk.first, chunk.last - 1);
    blocks += chunk.last - chunk.first;
  }
  return fmt::format("{} {}{}{}", blocks == 1 ? "block" : "blocks", text, part.embeds ? ", embeddings" : "",
                     part.heads ? ", head" : "");
}

std::vector<std::string> describe_stages(const RunConfig& config, const RankLayout& layout, const ModelTimes& times,
                                         const dist::StageCut& cut) {
  const std::vector<double> shares = stage_shares(config, times, cut);
  const std::int64_t micro_batches = config.train.batch_size / (config.train.micro_batch_size * layout.ranks);
  std::vector<std::string> lines;
  for (int stage = 0; stage < config.parallel.pipeline; ++stage) {
    RankLayout of_stage = layout;
    of_stage.part = stage_part(config, cut, stage, micro_batches);
    const ParameterCount count = count_parameters(config.model, config.lora, config.quant, of_stage.part);
    const MemoryEstimate memory = layout.cuda ? gpu_memory_needed(config, of_stage)
                                              : host_memory_needed(config, of_stage, program_bytes(/*cuda=*/false));
    lines.push_back(
        fmt::format("stage {}: {}; {:.1f} M parameters; {:.1f} % of the time; {} of memory; {} {} in "
                    "flight",
                    stage, stage_contents(of_stage.part), static_cast<double>(count.trained + count.frozen) * 1e-6,
                    shares[static_cast<std::size_t>(stage)] * 100.0, byte_size(memory.total()), of_stage.part.in_flight,
                    of_stage.part.in_flight == 1 ? "pass" : "passes"));
  }
  return lines;
}

}  // namespace qat
