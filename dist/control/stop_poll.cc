#include "dist/control/stop_poll.h"

#include <algorithm>
#include <chrono>
#include <span>
#include <utility>
#include <vector>

namespace qat::dist {
namespace {

constexpr std::int64_t kMostUnits = 1 << 20;
constexpr std::int64_t kGrowth = 16;  // a pace learned from a few quick units is not trusted for very many

}  // namespace

void Pace::learn(std::int64_t units, double seconds) {
  const double fitting =
      seconds > 0.0 ? static_cast<double>(units) * seconds_ / seconds : static_cast<double>(kMostUnits);
  const std::int64_t most = std::min(kMostUnits, units_ * kGrowth);
  units_ = fitting >= static_cast<double>(most) ? most : std::max<std::int64_t>(1, static_cast<std::int64_t>(fitting));
}

StopPoll::StopPoll(Communicator& comm, std::function<int()> requested, Clock clock)
    : comm_(comm), requested_(std::move(requested)), clock_(std::move(clock)), since_(now()) {}

double StopPoll::now() const {
  if (clock_) return clock_();
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void StopPoll::start() { since_ = now(); }

int StopPoll::ask() {
  std::vector<std::int64_t> reason = {requested()};
  comm_.all_reduce(view(std::span(reason)), ReduceOp::kMax);
  return static_cast<int>(reason[0]);
}

int StopPoll::ask(Pace& pace, std::int64_t units) {
  const auto microseconds = static_cast<std::int64_t>((now() - since_) * 1e6);
  std::vector<std::int64_t> words = {requested(), microseconds};
  comm_.all_reduce(view(std::span(words)), ReduceOp::kMax);
  pace.learn(units, static_cast<double>(words[1]) * 1e-6);
  since_ = now();
  return static_cast<int>(words[0]);
}

}  // namespace qat::dist
