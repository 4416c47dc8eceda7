#include "src/train/preflight.h"

#include <utility>

#include "src/data/sampler.h"
#include "src/data/split_check.h"
#include "src/eval/perplexity.h"
#include "src/train/coordinator.h"

namespace qat {

std::vector<std::string> check_before_training(const TrainerOptions& options, const Gpt2Config& model,
                                               const TokenSource& train, const TokenSource& val) {
  const Sampler sampler(train, options.data.sequence_length, options.run.seed);
  (void)Coordinator(options, sampler.windows_per_epoch(), /*start=*/{},
                    configured_maps(model, options.quant, options.precision.most_gradient_bits()));
  (void)tokens_to_read(val, options.eval);
  std::vector<std::string> doubts = check_same_ids(options.data, identity_of(train), identity_of(val));
  for (std::string& line : find_overlaps(train, val)) doubts.push_back(std::move(line));
  return doubts;
}

}  // namespace qat
