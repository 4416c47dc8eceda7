// Text files to token shards: what `qat_dist tokenize` does.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace qat {

struct TokenizeOptions {
  // Files and globs, each file a document; "-" is standard input. Every document begins with the end-of-text token, as
  // in llm.c's shards, which so stands between any two; a text that starts with its own (allow_special) gets no second.
  std::vector<std::string> inputs;
  std::string output_prefix;                // PREFIX_train_000.bin, PREFIX_train_001.bin, ..., PREFIX_val.bin
  std::string tokenizer = "byte";           // byte | gpt2
  std::string merges;                       // gpt2: merges.txt
  std::string vocab;                        // gpt2: vocab.json, to be compared with the merges; may be empty
  std::int64_t shard_tokens = 100'000'000;  // tokens of a training shard, the last may have fewer
  double val_fraction = 0.1;                // of the bytes at the end of every document: held out; 0: no PREFIX_val.bin
  bool allow_special = false;               // <|endoftext|> in the text is the special token, not plain text
  bool overwrite = false;                   // replace shards of the same prefix; else they are refused
};

struct TokenizeResult {
  std::vector<std::string> train_files;
  std::string val_file;  // empty: none
  std::int64_t documents = 0;
  std::int64_t bytes = 0;  // of text
  std::int64_t train_tokens = 0;
  std::int64_t val_tokens = 0;
  int vocab_size = 0;
  double seconds = 0;  // all of it: reading, encoding, writing

  double megabytes_per_second() const { return seconds > 0 ? static_cast<double>(bytes) / 1e6 / seconds : 0; }
};

// Text is read in blocks of a few MB and never held whole; a document that is no regular file (standard input, a pipe)
// is first copied to a temporary file beside the output when val_fraction > 0, since its length must be known. Blocks
// end where the tokenizer starts a new piece whatever follows, so the tokens are those of the whole document; a
// document without any white space is held whole. The place where the held-out part begins is moved on to the next such
// place too, or, if there is none in 64 KiB, to the next character.
//
// Shards take their names only when all are complete. kConfig for bad options, kData for what is wrong with files.
TokenizeResult tokenize_files(const TokenizeOptions& options);

}  // namespace qat
