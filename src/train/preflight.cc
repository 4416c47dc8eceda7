#include "src/train/preflight.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <string_view>
#include <utility>

#include "src/data/sampler.h"
#include "src/data/split_check.h"
#include "src/eval/perplexity.h"
#include "src/schedule/schedule_rules.h"
#include "src/train/coordinator.h"

namespace qat {
namespace {

// A schedule whose bounds are to be found must be possible with all that they can come to.
void check_schedule(TrainerOptions options, const Gpt2Config& model, std::int64_t windows_per_epoch) {
  options.precision = widest_bounds(options.precision, options.quant.widths);
  (void)Coordinator(options, windows_per_epoch, /*start=*/{},
                    configured_maps(model, options.quant, options.precision.most_gradient_bits()));
}

}  // namespace

std::vector<std::string> check_before_training(const TrainerOptions& options, const Gpt2Config& model,
                                               const TokenSource& train, const TokenSource& val) {
  const Sampler sampler(train, options.data.sequence_length, options.run.seed);
  check_schedule(options, model, sampler.windows_per_epoch());
  (void)tokens_to_read(val, options.eval);
  std::vector<std::string> doubts = check_same_ids(options.data, identity_of(train), identity_of(val));
  for (std::string& line : find_overlaps(train, val)) doubts.push_back(std::move(line));
  return doubts;
}

std::vector<std::string> check_before_training(const TrainerOptions& options, const Gpt2Config& model,
                                               const QuestionWindows& train, const QuestionWindows& val) {
  check_schedule(options, model, std::ssize(train.windows()));
  const std::vector<std::string>& known = train.data().contexts;
  const std::set<std::string_view> contexts(known.begin(), known.end());
  const std::vector<SquadQuestion>& questions = val.data().questions;
  const auto both = std::count_if(questions.begin(), questions.end(), [&](const SquadQuestion& question) {
    return contexts.contains(val.data().contexts[question.context]);
  });
  if (both == 0) return {};
  return {
      fmt::format("{} of the {} held-out questions are on texts that data.train has, too: their scores say little "
                  "about texts that the model has never seen",
                  both, questions.size())};
}

}  // namespace qat
