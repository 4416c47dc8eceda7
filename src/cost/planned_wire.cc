#include "src/cost/planned_wire.h"

#include "kernels/common/error.h"
#include "src/train/wire_of.h"

namespace qat {

std::vector<WireFormatName> wire_candidates(const CommConfig& comm) {
  std::vector<WireFormatName> all = {WireFormatName::kFp32, WireFormatName::kBf16};
  if (comm.error_feedback) all.push_back(WireFormatName::kInt8);
  return all;
}

dist::WireQuestion wire_question(const CommConfig& comm, const StepTime& step, bool cuda, bool one_host) {
  dist::WireQuestion question{.compute_s = step.passes_s + step.update_s, .one_host = one_host};
  if (!comm.overlap || !cuda || step.pass_s.empty()) return question;
  double passes_s = 0.0;
  for (const auto& [precision, seconds] : step.pass_s) passes_s += seconds;
  question.hidden_s = 0.5 * step.updates * passes_s / static_cast<double>(step.pass_s.size());
  return question;
}

WireFormatName planned_wire(const RunConfig& config, const RankPlace& place, std::int64_t windows_per_epoch) {
  if (config.comm.wire != WireFormatName::kAuto) return config.comm.wire;
  if (config.parallel.pipeline > 1 || place.ranks == 1) return WireFormatName::kFp32;
  const std::vector<WireFormatName> names = wire_candidates(config.comm);
  dist::WireQuestion question;
  for (const WireFormatName name : names) {
    RunConfig one = config;
    one.comm.wire = name;
    const StepTime step = expected_step(one, place, windows_per_epoch);
    if (question.times.empty()) question = {.compute_s = step.passes_s + step.update_s, .one_host = place.nodes == 1};
    // Without what is hidden.
    question.times.push_back({.format = wire_of(one.comm).format, .seconds = step.exchange_s});
  }
  const dist::WireFormat format = dist::choose_wire(question);
  for (std::size_t i = 0; i < names.size(); ++i)
    if (question.times[i].format == format) return names[i];
  QAT_CHECK(false, "one of them is chosen");
}

}  // namespace qat
