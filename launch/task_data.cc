#include "launch/task_data.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <optional>
#include <utility>

#include "dist/comm/agree.h"
#include "launch/setup_run.h"
#include "src/data/builtin_questions.h"
#include "src/data/question_sampler.h"
#include "src/data/sampler.h"
#include "src/eval/held_out_questions.h"
#include "src/eval/perplexity.h"
#include "src/text/tokenizer.h"
#include "src/train/preflight.h"

namespace qat::launch {
namespace {

std::unique_ptr<Tokenizer> open_tokenizer(const RunConfig& config) {
  std::unique_ptr<Tokenizer> tokenizer =
      make_tokenizer(enum_name(config.data.tokenizer), config.data.merges, /*vocab_path=*/"");
  if (tokenizer->vocab_size() > config.model.vocab_size)
    throw Error(ErrorKind::kConfig,
                fmt::format("model.vocab_size = {}: expected at least {}, the ids of data.tokenizer "
                            "\"{}\"",
                            config.model.vocab_size, tokenizer->vocab_size(), tokenizer->name()));
  return tokenizer;
}

// Every rank reads the files for itself; their content must be the same everywhere.
std::unique_ptr<const QuestionWindows> open_questions(World& world, const RunConfig& config, Split split) {
  const bool train = split == Split::kTrain;
  const DataConfig& data = config.data;
  const std::vector<std::string>& patterns = train ? data.train : data.val;
  std::unique_ptr<const QuestionWindows> windows;
  dist::on_every_rank(world.comm(), train ? "training questions" : "held-out questions", [&] {
    SquadData squad = patterns == std::vector<std::string>{"builtin"}
                          ? builtin_questions(split)
                          : open_squad(patterns, train ? "data.train" : "data.val");
    windows = std::make_unique<const QuestionWindows>(std::move(squad), *open_tokenizer(config),
                                                      QuestionLayout{.sequence_length = data.sequence_length,
                                                                     .window_advance = data.window_advance,
                                                                     .question_tokens = data.question_tokens});
    std::uint64_t hash = 0;
    for (const SegmentIdentity& file : windows->identity()) {
      const std::uint64_t words[] = {hash, file.content.hash, static_cast<std::uint64_t>(file.tokens)};
      hash = XXH3_64bits(words, sizeof words);
    }
    return hash;
  });
  return windows;
}

std::unique_ptr<const TokenSource> open_text(World& world, const RunConfig& config, Split split) {
  const std::vector<std::string>& patterns = split == Split::kTrain ? config.data.train : config.data.val;
  return std::make_unique<const TokenSource>(open_agreed_tokens(world, patterns, split, config.model.vocab_size));
}

}  // namespace

std::string describe(const TrainingData& train, const HeldOutData& val) {
  if (train.tokens)
    return fmt::format("{} training tokens, {} held out", train.tokens->total_tokens(), val.tokens->total_tokens());
  const auto counted = [](const QuestionWindows& questions, const char* of) {
    return fmt::format("{} {}questions in {} windows", questions.data().questions.size(), of,
                       questions.windows().size());
  };
  return fmt::format("{}, {}", counted(*train.questions, "training "), counted(*val.questions, "held-out "));
}

HeldOutData open_held_out(World& world, const RunConfig& config) {
  HeldOutData data;
  if (config.model.answers_questions()) {
    data.questions = open_questions(world, config, Split::kVal);
    data.set = std::make_unique<const HeldOutQuestions>(*data.questions);
  } else {
    data.tokens = open_text(world, config, Split::kVal);
    data.set = std::make_unique<const HeldOutText>(*data.tokens);
  }
  return data;
}

TrainingData open_training_data(World& world, const RunConfig& config) {
  TrainingData data;
  if (config.model.answers_questions()) {
    data.questions = open_questions(world, config, Split::kTrain);
    data.samples = std::make_unique<const QuestionSampler>(*data.questions, config.run.seed);
  } else {
    data.tokens = open_text(world, config, Split::kTrain);
    dist::on_every_rank(world.comm(), "training tokens", [&] {
      data.samples = std::make_unique<const Sampler>(*data.tokens, config.data.sequence_length, config.run.seed);
    });
  }
  return data;
}

std::vector<std::string> check_data(const TrainerOptions& options, const Gpt2Config& model, const TrainingData& train,
                                    const HeldOutData& val) {
  return train.tokens ? check_before_training(options, model, *train.tokens, *val.tokens)
                      : check_before_training(options, model, *train.questions, *val.questions);
}

}  // namespace qat::launch
