#include "launch/eval_robustness.h"

#include "dist/comm/agree.h"
#include "launch/number_checks.h"

namespace qat::launch {

void add_robustness_options(CLI::App& app, RobustnessAsk& ask) {
  CLI::Option* asked = app.add_flag(
      "--robustness", ask.asked,
      "also how many next tokens of the held-out text are right while embeddings move and tokens are missing");
  app.add_option("--robustness-epsilon", ask.how.epsilon, "with --robustness: how far a value of an embedding moves")
      ->check(between(1e-9, 1e9))
      ->capture_default_str()
      ->needs(asked);
  app.add_option("--robustness-steps", ask.how.steps, "with --robustness: steps of the attack that has several (PGD)")
      ->check(whole_from(1))
      ->capture_default_str()
      ->needs(asked);
  app.add_option("--robustness-rate", ask.how.rate, "with --robustness: share of tokens that are dropped, or replaced")
      ->check(between(0, 1))
      ->capture_default_str()
      ->needs(asked);
  app.add_option("--robustness-tokens", ask.how.tokens, "with --robustness: the first so many tokens; 0: all")
      ->check(whole_from(0))
      ->capture_default_str()
      ->needs(asked);
}

std::vector<RobustnessFigures> score_robustness(World& world, const Gpt2& model, const RunConfig& config,
                                                const std::vector<EvaluatedAt>& widths, const EvaluationRanges& ranges,
                                                int threads, const TokenSource* held_out, const RobustnessAsk& ask,
                                                dist::StopPoll& poll) {
  std::vector<RobustnessFigures> all;
  if (!ask.asked) return all;
  QAT_CHECK(held_out != nullptr, "a text whose inputs are disturbed");
  RobustnessOptions how = ask.how;
  how.seed = config.run.seed;
  for (const EvaluatedAt& at : widths) {
    const auto own = ranges.find(at);
    const PrecisionMap precision = evaluation_precision(model, config.quant, at);
    all.push_back(*robustness({.model = model,
                               .precision = precision,
                               .threads = threads,
                               .grid = world.comm(),
                               .poll = poll,
                               .ranges = own == ranges.end() ? nullptr : &own->second},
                              *held_out, config.eval, config.data.sequence_length, how));
  }
  return all;
}

}  // namespace qat::launch
