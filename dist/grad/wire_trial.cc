#include "dist/grad/wire_trial.h"

#include <algorithm>
#include <chrono>
#include <memory>

#include "dist/grad/cuda_flat_memory.h"
#include "dist/grad/grad_reducer.h"
#include "dist/grad/norm_block.h"
#include "kernels/common/error.h"

namespace qat::dist {
namespace {

class Trial {
 public:
  Trial(Communicator& group, const NodeGroups* nodes, const kernels::Exec& exec)
      : group_(group),
        nodes_(nodes),
        exec_(exec),
        memory_(exec.device == Device::kCuda ? cuda_flat_memory(exec.stream) : host_flat_memory()) {}

  // Whole blocks for every rank.
  std::int64_t rounded(std::int64_t elems) const {
    const std::int64_t unit = kNormBlock * group_.size();
    return (elems + unit - 1) / unit * unit;
  }

  double seconds(const GradWire& wire, std::int64_t elems, int rounds) {
    const std::shared_ptr<float> full = memory_->allocate(elems);
    const bool keeps = !wire.is_exact();
    const std::int64_t shard = elems / group_.size();
    const std::shared_ptr<float> residual = memory_->allocate(keeps ? elems : 0),
                                 left = memory_->allocate(keeps ? shard : 0);
    GradReducer reducer(
        group_, elems,
        {.exec = exec_, .wire = wire, .nodes = nodes_, .staging = std::make_shared<WireStaging>(memory_)});
    const auto size = static_cast<std::size_t>(elems);
    const Feedback feedback =
        keeps ? Feedback{.residual = {residual.get(), size}, .own_left = {left.get(), static_cast<std::size_t>(shard)}}
              : Feedback{};
    std::vector<double> times;
    for (int round = -1; round < rounds; ++round) {
      memory_->wait();
      group_.barrier();
      const auto begin = std::chrono::steady_clock::now();
      reducer.reduce_scatter({full.get(), size}, feedback);
      memory_->wait();
      std::vector<double> took = {std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count()};
      group_.all_reduce(view(std::span(took)), ReduceOp::kMax);
      if (round >= 0) times.push_back(took[0]);
    }
    const auto middle = times.begin() + std::ssize(times) / 2;
    std::nth_element(times.begin(), middle, times.end());
    return *middle;
  }

 private:
  Communicator& group_;
  const NodeGroups* nodes_;
  kernels::Exec exec_;
  std::shared_ptr<FlatMemory> memory_;
};

}  // namespace

double WireTrial::rate(int ranks) const {
  return 4.0 * static_cast<double>(elems) * (ranks - 1) / ranks / seconds.at(0);
}

WireTrial try_wires(Communicator& group, const NodeGroups* nodes, const kernels::Exec& exec,
                    std::span<const GradWire> wires, std::int64_t elems) {
  constexpr std::int64_t kFirst = 64;  // of so many parts of what is asked for, the first to be exchanged
  QAT_CHECK(elems > 0 && !wires.empty() && wires[0].is_exact(), "something to exchange, in fp32 and otherwise");
  Trial trial(group, nodes, exec);
  WireTrial found{.elems = trial.rounded(elems)};
  const std::int64_t few = trial.rounded(elems / kFirst);
  const double times = static_cast<double>(found.elems) / static_cast<double>(few);
  if (times > 1.0 && trial.seconds(wires[0], few, /*rounds=*/3) * times > kMostTrialSeconds) found.elems = few;
  for (const GradWire& wire : wires) found.seconds.push_back(trial.seconds(wire, found.elems, kTrialRounds));
  return found;
}

}  // namespace qat::dist
