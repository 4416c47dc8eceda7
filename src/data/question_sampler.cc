#include "src/data/question_sampler.h"

#include <algorithm>
#include <array>

#include "kernels/common/error.h"
#include "src/base/rng.h"
#include "src/data/sampler.h"

namespace qat {
namespace {

constexpr std::uint64_t kOrderOfQuestions = 2;  // a slot of RngPurpose::kSampling beside Sampler's

}  // namespace

std::size_t QuestionSampler::window_of(std::uint64_t n) const {
  const std::uint64_t windows = windows_.windows().size(), epoch = n / windows;
  return permuted(n % windows, windows, rng_key(seed_, RngPurpose::kSampling, epoch, 0, kOrderOfQuestions));
}

void QuestionSampler::sample(std::uint64_t n, std::span<std::int32_t> inputs, std::span<std::int32_t> targets) const {
  QAT_CHECK(std::ssize(targets) == kSpanTargetNumbers, "a sample fills its targets exactly");
  const QuestionWindows::Window& window = windows_.windows()[window_of(n)];
  windows_.fill(window, inputs);
  const SpanTarget target = windows_.target(window);
  std::ranges::copy(std::array{target.start, target.end, target.context_begin, target.context_end}, targets.begin());
}

}  // namespace qat
