#include "src/data/tokenize.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <memory>
#include <set>
#include <span>

#include "kernels/common/error.h"
#include "src/data/document_reader.h"
#include "src/data/token_file.h"
#include "src/data/token_source.h"
#include "src/text/tokenizer.h"

namespace qat {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void fail_option(const std::string& what) { throw Error(ErrorKind::kConfig, "tokenize: " + what); }

void check_options(const TokenizeOptions& options) {
  if (options.inputs.empty()) fail_option("no input: name text files, globs, or - for standard input");
  if (options.output_prefix.empty()) fail_option("no output prefix: expected a path such as data/my_text");
  if (options.shard_tokens < 1 || options.shard_tokens > kMaxTokensPerFile) {
    fail_option(fmt::format("{} tokens a shard: expected 1 to {}", options.shard_tokens, kMaxTokensPerFile));
  }
  if (!(options.val_fraction >= 0 && options.val_fraction < 1)) {
    fail_option(
        fmt::format("a held-out fraction of {}: expected 0 (none) or more, and less than 1", options.val_fraction));
  }
}

std::vector<std::string> expand_inputs(const std::vector<std::string>& inputs) {
  std::vector<std::string> paths;
  std::set<std::string> seen;
  for (const std::string& input : inputs) {
    for (const std::string& path : input == "-" ? std::vector<std::string>{input} : expand_patterns({input})) {
      if (!seen.insert(path).second) fail_option(fmt::format("the input {} is named twice", path));
      paths.push_back(path);
    }
  }
  return paths;
}

// Training shards, filled one after the other; all of them become files together.
class ShardSet {
 public:
  ShardSet(std::string prefix, std::int64_t shard_tokens) : prefix_(std::move(prefix)), shard_tokens_(shard_tokens) {}

  void append_train(std::span<const int> ids) {
    train_tokens_ += static_cast<std::int64_t>(ids.size());
    while (!ids.empty()) {
      if (train_.empty() || train_.back()->tokens() == shard_tokens_) {
        if (!train_.empty()) train_.back()->complete();
        train_.push_back(std::make_unique<TokenFileWriter>(fmt::format("{}_train_{:03}.bin", prefix_, train_.size())));
      }
      const std::int64_t room = shard_tokens_ - train_.back()->tokens();
      const std::size_t count = std::min(ids.size(), static_cast<std::size_t>(room));
      train_.back()->append(ids.first(count));
      ids = ids.subspan(count);
    }
  }
  void append_val(std::span<const int> ids) {
    if (!val_) val_ = std::make_unique<TokenFileWriter>(prefix_ + "_val.bin");
    val_->append(ids);
  }
  std::int64_t train_tokens() const { return train_tokens_; }
  std::int64_t val_tokens() const { return val_ ? val_->tokens() : 0; }

  void publish(TokenizeResult& result) {
    train_.back()->complete();
    if (val_) val_->complete();
    for (const auto& writer : train_) {
      writer->publish();
      result.train_files.push_back(writer->path());
    }
    if (val_) {
      val_->publish();
      result.val_file = val_->path();
    }
  }

 private:
  std::string prefix_;
  std::int64_t shard_tokens_;
  std::vector<std::unique_ptr<TokenFileWriter>> train_;
  std::unique_ptr<TokenFileWriter> val_;
  std::int64_t train_tokens_ = 0;
};

// Files of an earlier run with this prefix: PREFIX_val.bin, PREFIX_train_<digits>.bin.
std::vector<std::string> existing_shards(const std::string& prefix) {
  const fs::path base(prefix);
  const fs::path folder = base.has_parent_path() ? base.parent_path() : fs::path(".");
  const std::string train = base.filename().string() + "_train_", val = base.filename().string() + "_val.bin";
  std::vector<std::string> found;
  std::error_code missing;  // a folder that cannot be read is reported when the first shard is made
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, missing)) {
    const std::string name = entry.path().filename().string();
    bool is_train = name.starts_with(train) && name.ends_with(".bin") && name.size() > train.size() + 4;
    for (std::size_t i = train.size(); is_train && i + 4 < name.size(); ++i)
      is_train = name[i] >= '0' && name[i] <= '9';
    if (is_train || name == val) found.push_back((base.parent_path() / name).string());
  }
  std::sort(found.begin(), found.end());
  return found;
}

// Encodes the document up to the offset `end` (negative: to its end) and hands the ids over, end-of-text first unless
// the text brings its own; nothing for an empty part.
template <typename Sink>
void encode_part(DocumentReader& document, std::int64_t end, const Tokenizer& tokenizer, EncodeOptions encoding,
                 Sink&& sink) {
  bool at_start = true;
  std::vector<int> ids;
  document.read_to(end, [&](std::string_view text) {
    ids.clear();
    const bool marked = encoding.allow_special && text.starts_with(kEndOfText);
    if (at_start && !marked) ids.push_back(tokenizer.end_of_text());
    at_start = false;
    tokenizer.encode_to(text, ids, encoding);
    sink(ids);
  });
}

}  // namespace

TokenizeResult tokenize_files(const TokenizeOptions& options) {
  const auto begin = std::chrono::steady_clock::now();
  check_options(options);
  const std::vector<std::string> paths = expand_inputs(options.inputs);
  const std::vector<std::string> earlier = existing_shards(options.output_prefix);
  if (!earlier.empty() && !options.overwrite) {
    throw Error(ErrorKind::kData,
                fmt::format("{} exists already ({} such files): choose another output prefix, or allow "
                            "overwriting",
                            earlier.front(), earlier.size()));
  }
  const std::unique_ptr<Tokenizer> tokenizer = make_tokenizer(options.tokenizer, options.merges, options.vocab);
  if (tokenizer->vocab_size() > kMaxTokenId + 1) {
    throw Error(ErrorKind::kData, fmt::format("{}: the vocabulary has {} ids; token shards store 16 bits, at most {}",
                                              options.merges, tokenizer->vocab_size(), kMaxTokenId + 1));
  }
  const EncodeOptions encoding{.allow_special = options.allow_special};
  ShardSet shards(options.output_prefix, options.shard_tokens);
  TokenizeResult result;
  for (const std::string& path : paths) {
    DocumentReader document(path);
    std::int64_t train_end = -1;
    if (options.val_fraction > 0) {
      document.make_sized(options.output_prefix);
      train_end = document.held_out_begin(options.val_fraction);
    }
    encode_part(document, train_end, *tokenizer, encoding, [&](std::span<const int> ids) { shards.append_train(ids); });
    if (options.val_fraction > 0) {
      encode_part(document, document.size(), *tokenizer, encoding,
                  [&](std::span<const int> ids) { shards.append_val(ids); });
    }
    ++result.documents;
    result.bytes += document.position();
  }
  result.train_tokens = shards.train_tokens();
  result.val_tokens = shards.val_tokens();
  result.vocab_size = tokenizer->vocab_size();
  if (result.train_tokens == 0 || (options.val_fraction > 0 && result.val_tokens == 0)) {
    throw Error(ErrorKind::kData,
                fmt::format("the {} input files hold {} bytes of text: too little for {}", paths.size(), result.bytes,
                            result.train_tokens == 0 ? "a token" : "a held-out part (set it to 0)"));
  }
  shards.publish(result);
  for (const std::string& path : earlier) {  // of a longer run before: a glob would mix them with the new ones
    const bool replaced = path == result.val_file || std::find(result.train_files.begin(), result.train_files.end(),
                                                               path) != result.train_files.end();
    std::error_code code;
    if (!replaced && !fs::remove(path, code)) {
      throw Error(ErrorKind::kData,
                  fmt::format("{} is left from an earlier run and cannot be removed: {}", path, code.message()));
    }
  }
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return result;
}

}  // namespace qat
