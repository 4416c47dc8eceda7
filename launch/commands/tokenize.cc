#include "src/data/tokenize.h"

#include <fmt/format.h>

#include <memory>

#include "launch/command.h"

namespace qat::launch {

Run add_tokenize(CLI::App& app) {
  auto options = std::make_shared<TokenizeOptions>();
  app.add_option("inputs", options->inputs, "text files or globs, each a document; - is standard input")->required();
  app.add_option("-o,--output", options->output_prefix, "PREFIX of PREFIX_train_000.bin ... and PREFIX_val.bin")
      ->required();
  app.add_option("--tokenizer", options->tokenizer, "byte (257 ids) or gpt2 (50257 ids)")->capture_default_str();
  app.add_option("--merges", options->merges, "gpt2: merges.txt");
  app.add_option("--vocab", options->vocab, "gpt2: vocab.json, to be checked against the merges");
  app.add_option("--shard-tokens", options->shard_tokens, "tokens of a training shard")->capture_default_str();
  app.add_option("--val-fraction", options->val_fraction, "held-out share at the end of every document")
      ->capture_default_str();
  app.add_flag("--allow-special", options->allow_special, "<|endoftext|> in the text is the special token");
  app.add_flag("--overwrite", options->overwrite, "replace shards of the same prefix");
  return [options](Invocation) {
    const TokenizeResult result = tokenize_files(*options);
    fmt::print(
        "{} documents, {} bytes -> {} training and {} held-out tokens (vocabulary {}) in {:.2f} s, {:.1f} MB/s\n",
        result.documents, result.bytes, result.train_tokens, result.val_tokens, result.vocab_size, result.seconds,
        result.megabytes_per_second());
    for (const std::string& file : result.train_files) fmt::print("  {}\n", file);
    if (!result.val_file.empty()) fmt::print("  {}\n", result.val_file);
    fmt::print(
        "In a configuration: \"data\": {{\"train\": [\"{}_train_*.bin\"]{}}}, \"model\": {{\"vocab_size\": {}}}\n",
        options->output_prefix, result.val_file.empty() ? "" : fmt::format(", \"val\": [\"{}\"]", result.val_file),
        result.vocab_size);
    return 0;
  };
}

}  // namespace qat::launch
