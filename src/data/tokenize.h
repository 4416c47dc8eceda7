// Text files to token shards: what `qat_dist tokenize` does.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace qat {

struct TokenizeOptions {
  // Files and globs, each file a document; "-" is standard input. Every document begins with the end-of-text token, as
  // in llm.c's shards, which so stands between any two; a text that starts with its own (allow_special) gets no second.
  // Empty documents give no tokens.
  std::vector<std::string> inputs;
  std::string output_prefix;  // PREFIX_train_000.bin, PREFIX_train_001.bin, ..., PREFIX_val.bin; its folder is made
  std::string tokenizer = "byte";           // byte | gpt2
  std::string merges;                       // gpt2: merges.txt
  std::string vocab;                        // gpt2: vocab.json, to be compared with the merges; may be empty
  std::int64_t shard_tokens = 100'000'000;  // tokens of a training shard, the last may have fewer
  double val_fraction = 0.1;                // of the bytes: held out, see held_out.h; 0: no PREFIX_val.bin
  bool allow_special = false;               // <|endoftext|> in the text is the special token, not plain text
  bool allow_binary = false;                // take documents that are no text (text_check.h); else they are refused
  bool overwrite = false;                   // replace shards of the same prefix; else they are refused
};

struct TokenizeResult {
  std::vector<std::string> train_files;
  std::string val_file;               // empty: none
  std::int64_t documents = 0;         // read: `empty`, `held_out` and `tails` are among them
  std::int64_t empty = 0;             //
  std::int64_t held_out = 0;          // whole
  std::int64_t tails = 0;             // held out their last part
  std::int64_t byte_order_marks = 0;  // begin with one, which is text as any other (U+FEFF)
  std::int64_t bytes = 0;             // of text
  std::int64_t val_bytes = 0;         // of these, held out
  std::int64_t train_tokens = 0;
  std::int64_t val_tokens = 0;
  int vocab_size = 0;
  double seconds = 0;  // all of it: reading, encoding, writing

  double megabytes_per_second() const { return seconds > 0 ? static_cast<double>(bytes) / 1e6 / seconds : 0; }
};

// All that can be wrong with options, inputs (as far as their names tell), tokenizer and outputs is found before the
// first document is read; the documents are then checked, and only if all of them are text is the first one encoded.
// Shards take their names only when all are complete; a run that fails leaves nothing.
//
// Text is read in blocks of a few MB and never held whole. A document that is no regular file (standard input, a pipe)
// can be read once: if val_fraction > 0 it is first copied to a temporary file beside the output, since its length must
// be known; if not, it is checked as it is encoded. Blocks end where the tokenizer starts a new piece whatever follows,
// so the tokens are those of the whole document; a document without any white space is held whole. Files are read as
// long as they were when they were checked.
//
// Text is taken as it is: line ends, NULs, a byte order mark and up to 1 % of broken UTF-8 become tokens.
//
// kConfig for bad options, kData for what is wrong with files.
TokenizeResult tokenize_files(const TokenizeOptions& options);

}  // namespace qat
