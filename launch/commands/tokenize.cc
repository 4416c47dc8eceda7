#include "src/data/tokenize.h"

#include <fmt/format.h>

#include <memory>
#include <string>
#include <string_view>

#include "launch/command.h"
#include "src/base/json.h"

namespace qat::launch {
namespace {

std::string counted(std::int64_t count, const char* one, const char* more) {
  return fmt::format("{} {}", count, count == 1 ? one : more);
}

// "30 whole documents and the last 10 % of 1 longer one: 10.1 % of the bytes".
std::string held_out_text(const TokenizeResult& result, double val_fraction) {
  std::string text = result.held_out > 0 ? counted(result.held_out, "whole document", "whole documents") : "";
  if (result.tails > 0) {
    text += fmt::format("{}the last {:.4g} % of {}", text.empty() ? "" : " and ", 100 * val_fraction,
                        result.held_out > 0
                            ? counted(result.tails, "longer one", "longer ones")
                            : (result.tails > 1 ? "each of " : "") + counted(result.tails, "document", "documents"));
  }
  if (text.empty()) return "nothing";
  return fmt::format("{}: {:.3g} % of the bytes", text,
                     100 * static_cast<double>(result.val_bytes) / static_cast<double>(result.bytes));
}

// The pattern that matches this text alone.
std::string as_pattern(const std::string& text) {
  std::string pattern;
  for (const char c : text) {
    const bool is_home = c == '~' && pattern.empty();
    if (is_home || std::string_view("*?[]{}\\").find(c) != std::string_view::npos) pattern += '\\';
    pattern += c;
  }
  return pattern;
}

void report(const TokenizeResult& result, const TokenizeOptions& options) {
  fmt::print("{}{}, {} bytes -> {} training and {} held-out tokens (vocabulary {}) in {:.2f} s, {:.1f} MB/s\n",
             counted(result.documents, "document", "documents"),
             result.empty > 0 ? fmt::format(" ({} empty)", result.empty) : "", result.bytes, result.train_tokens,
             result.val_tokens, result.vocab_size, result.seconds, result.megabytes_per_second());
  fmt::print("held out: {}\n", held_out_text(result, options.val_fraction));
  if (result.byte_order_marks > 0) {
    fmt::print("{} with a byte order mark (U+FEFF), which is kept, as text\n",
               counted(result.byte_order_marks, "document begins", "documents begin"));
  }
  for (const std::string& file : result.train_files) fmt::print("  {}\n", file);
  if (!result.val_file.empty()) fmt::print("  {}\n", result.val_file);
  fmt::print("In a configuration: \"data\": {{\"train\": [{}]{}}}, \"model\": {{\"vocab_size\": {}}}\n",
             to_json(as_pattern(options.output_prefix) + "_train_*.bin"),
             result.val_file.empty() ? "" : fmt::format(", \"val\": [{}]", to_json(result.val_file)),
             result.vocab_size);
}

}  // namespace

Run add_tokenize(CLI::App& app) {
  auto options = std::make_shared<TokenizeOptions>();
  app.add_option("inputs", options->inputs, "UTF-8 text files or globs, each file a document; - is standard input")
      ->required();
  app.add_option("-o,--output", options->output_prefix,
                 "PREFIX of PREFIX_train_000.bin ... and PREFIX_val.bin; its folder is made")
      ->required();
  app.add_option("--tokenizer", options->tokenizer, "byte (257 ids) or gpt2 (50257 ids)")->capture_default_str();
  app.add_option("--merges", options->merges, "gpt2: merges.txt");
  app.add_option("--vocab", options->vocab, "gpt2: vocab.json, to be checked against the merges");
  app.add_option("--shard-tokens", options->shard_tokens, "tokens of a training shard")->capture_default_str();
  app.add_option("--val-fraction", options->val_fraction,
                 "share of the bytes to hold out: whole documents, spread over all, where there are many short ones; "
                 "the end of each longer one; 0: none")
      ->capture_default_str();
  app.add_flag("--allow-special", options->allow_special, "<|endoftext|> in the text is the special token");
  app.add_flag("--allow-binary", options->allow_binary,
               "take files that are not UTF-8 text (archives, UTF-16, more than 1 % broken UTF-8) as bytes");
  app.add_flag("--overwrite", options->overwrite, "replace shards of the same prefix");
  return [options](Invocation) {
    report(tokenize_files(*options), *options);
    return 0;
  };
}

}  // namespace qat::launch
