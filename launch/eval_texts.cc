#include "launch/eval_texts.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <filesystem>
#include <utility>

#include "dist/comm/agree.h"
#include "launch/eval_tasks.h"
#include "launch/named_files.h"
#include "launch/setup_run.h"
#include "launch/terminal.h"
#include "src/base/file.h"
#include "src/data/text_check.h"
#include "src/eval/perplexity.h"

namespace qat::launch {
namespace {

constexpr std::int64_t kQuickTokens = 10000;

void require_two(const NamedFile& file, std::int64_t tokens) {
  if (tokens < 2)
    throw Error(ErrorKind::kData, fmt::format("{} has {} token{}; perplexity needs at least 2, since the first has "
                                              "nothing to be predicted from",
                                              file.path, tokens, tokens == 1 ? "" : "s"));
}

void require_text(const NamedFile& file, std::string_view text) {
  TextCheck check;
  check.feed(text);
  const std::optional<NotText> found = check.verdict();
  if (!found) return;
  const std::string advice =
      found->filter.empty() ? found->advice : fmt::format("make UTF-8 text of it first (`{}`)", found->filter);
  throw Error(ErrorKind::kData, fmt::format("{} {}: {}", file.path, found->what, advice));
}

std::uint64_t read_text(const NamedFile& file, const Tokenizer& tokenizer, TokenSource& tokens, bool is_root) {
  const std::string text = read_file(file.path, ErrorKind::kData);
  require_text(file, text);
  if (is_root && text.starts_with("\xEF\xBB\xBF"))
    warn(fmt::format("{} begins with a byte order mark (U+FEFF), which is scored, as text", file.path));
  std::vector<std::uint16_t> ids;
  for (const int id : tokenizer.encode(text)) ids.push_back(static_cast<std::uint16_t>(id));
  require_two(file, std::ssize(ids));
  tokens.add_tokens(file.path, std::move(ids));
  return XXH3_64bits(text.data(), text.size());
}

bool holds_tokens(const NamedFile& file) { return std::filesystem::path(file.path).extension() == ".bin"; }

OpenedText open_one_text(World& world, const RunConfig& config, const Tokenizer* tokenizer, const NamedFile& file) {
  OpenedText opened{.name = file.name, .file = file.path, .tokens = std::make_unique<TokenSource>(), .error = {}};
  try {
    if (holds_tokens(file)) {
      *opened.tokens = open_agreed_tokens(world, {file.path}, Split::kVal, config.model.vocab_size, "--text");
      dist::on_every_rank(world.comm(), fmt::format("text {}", file.name),
                          [&] { require_two(file, opened.tokens->total_tokens()); });
    } else {
      dist::on_every_rank(world.comm(), fmt::format("text {}", file.name),
                          [&] { return read_text(file, *tokenizer, *opened.tokens, world.is_root()); });
    }
  } catch (const dist::AgreedError& error) {
    if (error.kind() != ErrorKind::kData) throw;
    opened.error = error.what();
  }
  return opened;
}

}  // namespace

std::vector<OpenedText> open_texts(World& world, const RunConfig& config, const TextOptions& options) {
  std::vector<NamedFile> files;
  std::unique_ptr<Tokenizer> tokenizer;
  dist::on_every_rank(world.comm(), "texts", [&] {
    if (config.model.answers_questions())
      throw Error(ErrorKind::kConfig,
                  "--text is for language models, and this one answers questions (model.task is \"span_qa\")");
    files = named_files(options.files, "--text", ".txt");
    const bool all_tokens = std::all_of(files.begin(), files.end(), holds_tokens);
    if (!all_tokens) tokenizer = open_text_tokenizer(config, options.merges);
    std::uint64_t hash = files.size();
    for (const NamedFile& file : files) hash = hash * 31 + XXH3_64bits(file.name.data(), file.name.size());
    return hash;
  });
  std::vector<OpenedText> texts;
  for (const NamedFile& file : files) texts.push_back(open_one_text(world, config, tokenizer.get(), file));
  return texts;
}

std::optional<std::vector<std::vector<TextFigures>>> score_texts(World& world, const Gpt2& model,
                                                                 const RunConfig& config,
                                                                 const std::vector<OpenedText>& texts,
                                                                 const std::vector<EvaluatedAt>& widths,
                                                                 const EvaluationRanges& ranges, int threads,
                                                                 const TextOptions& options, dist::StopPoll& poll) {
  EvalConfig how = config.eval;
  how.max_tokens = options.tokens;
  const std::int64_t window = config.data.sequence_length;
  if (options.quick) {
    how.stride = window;
    how.max_tokens = kQuickTokens + 1;  // of which all but the first are scored
  }
  std::vector<std::vector<TextFigures>> all;
  for (const EvaluatedAt& at : widths) {
    const auto own = ranges.find(at);
    const PrecisionMap precision = evaluation_precision(model, config.quant, at);
    const EvaluationJob job{.model = model,
                            .precision = precision,
                            .threads = threads,
                            .grid = world.comm(),
                            .poll = poll,
                            .ranges = own == ranges.end() ? nullptr : &own->second,
                            .token_ranks = options.token_accuracy};
    std::vector<TextFigures> found;
    for (const OpenedText& text : texts) {
      TextFigures figures{.text = text.name,
                          .file = text.file,
                          .window = window,
                          .stride = how.stride > 0 ? how.stride : window,
                          .quick = options.quick,
                          .error = text.error};
      if (text.error.empty()) {
        const auto score = held_out_score(job, *text.tokens, how, window);
        if (!score) return std::nullopt;
        figures.nll = score->nll_sum, figures.tokens_scored = score->tokens;
        if (score->ranks) figures.likeliest = score->ranks->likeliest, figures.in_top_5 = score->ranks->in_top_5;
      }
      found.push_back(std::move(figures));
    }
    all.push_back(std::move(found));
  }
  return all;
}

}  // namespace qat::launch
