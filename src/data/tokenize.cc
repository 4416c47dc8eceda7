#include "src/data/tokenize.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>

#include "kernels/common/error.h"
#include "src/base/file.h"
#include "src/data/document_reader.h"
#include "src/data/held_out.h"
#include "src/data/text_documents.h"
#include "src/data/token_file.h"
#include "src/data/tokenize_inputs.h"
#include "src/text/tokenizer.h"

namespace qat {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";  // U+FEFF in UTF-8

[[noreturn]] void fail_option(const std::string& what) { throw Error(ErrorKind::kConfig, "tokenize: " + what); }

void check_options(const TokenizeOptions& options) {
  if (options.inputs.empty()) fail_option("no input: name text files, globs, or - for standard input");
  const std::string name = fs::path(options.output_prefix).filename().string();
  if (name.empty() || name == "." || name == "..") {
    fail_option(
        fmt::format("the output prefix \"{}\" names no file: expected a folder and how the files' names begin, "
                    "such as data/my_text",
                    options.output_prefix));
  }
  if (options.shard_tokens < 1 || options.shard_tokens > kMaxTokensPerFile) {
    fail_option(fmt::format("{} tokens a shard: expected 1 to {}", options.shard_tokens, kMaxTokensPerFile));
  }
  if (!(options.val_fraction >= 0 && options.val_fraction < 1)) {
    fail_option(
        fmt::format("a held-out fraction of {}: expected 0 (none) or more, and less than 1", options.val_fraction));
  }
}

// The folder of the output, made if it is not there. What was made and has stayed empty goes again.
class OutputFolder {
 public:
  explicit OutputFolder(const std::string& prefix) : folder_(fs::path(prefix).parent_path()) {
    std::error_code ignored;
    for (fs::path missing = folder_; !missing.empty() && !fs::exists(missing, ignored); missing = missing.parent_path())
      made_.push_back(missing);
  }
  OutputFolder(const OutputFolder&) = delete;
  OutputFolder& operator=(const OutputFolder&) = delete;
  ~OutputFolder() {
    for (const fs::path& folder : made_) ::rmdir(folder.c_str());  // refuses all but empty folders
  }
  void make() const {
    const fs::path folder = folder_.empty() ? fs::path(".") : folder_;
    create_directories_checked(folder, "tokenize: the output's folder");
    // A full disk takes new files, and nothing into them.
    std::string name = (folder / ".write-test.XXXXXX").string();
    const FileDescriptor fd(::mkostemp(name.data(), O_CLOEXEC));
    const bool written = fd.valid() && write_all(fd.get(), std::string(kProbeBytes, 'x'));
    const int error = errno;
    if (fd.valid()) ::unlink(name.c_str());
    if (!written) {
      throw Error(ErrorKind::kData, fmt::format("tokenize: {} bytes cannot be written to the output's folder {}: {}",
                                                kProbeBytes, folder.string(), std::strerror(error)));
    }
  }

 private:
  static constexpr std::size_t kProbeBytes = std::size_t{64} << 10;

  fs::path folder_;
  std::vector<fs::path> made_;  // the innermost first
};

// The files to be: training shards, filled one after the other, and the held-out text. All of them become files
// together. The first ones are opened at once, so that a place that cannot be written to shows before the work.
class ShardSet {
 public:
  ShardSet(std::string prefix, std::int64_t shard_tokens, bool held_out)
      : prefix_(std::move(prefix)), shard_tokens_(shard_tokens) {
    open_next();
    if (held_out) val_ = std::make_unique<TokenFileWriter>(prefix_ + "_val.bin");
  }

  void append_train(std::span<const int> ids) {
    train_tokens_ += static_cast<std::int64_t>(ids.size());
    while (!ids.empty()) {
      if (train_.back()->tokens() == shard_tokens_) {
        train_.back()->complete();
        open_next();
      }
      const std::int64_t room = shard_tokens_ - train_.back()->tokens();
      const std::size_t count = std::min(ids.size(), static_cast<std::size_t>(room));
      train_.back()->append(ids.first(count));
      ids = ids.subspan(count);
    }
  }
  void append_val(std::span<const int> ids) { val_->append(ids); }
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
  void open_next() {
    train_.push_back(std::make_unique<TokenFileWriter>(fmt::format("{}_train_{:03}.bin", prefix_, train_.size())));
  }

  std::string prefix_;
  std::int64_t shard_tokens_;
  std::vector<std::unique_ptr<TokenFileWriter>> train_;
  std::unique_ptr<TokenFileWriter> val_;
  std::int64_t train_tokens_ = 0;
};

// Encodes the document up to the offset `end` (negative: to its end) and hands the ids over, end-of-text first unless
// the text brings its own; nothing for an empty part. Returns whether the text begins with a byte order mark.
bool encode_part(DocumentReader& document, std::int64_t end, const Tokenizer& tokenizer, EncodeOptions encoding,
                 const std::function<void(std::span<const int>)>& sink) {
  bool at_start = true, byte_order_mark = false;
  std::vector<int> ids;
  document.read_to(end, [&](std::string_view text) {
    ids.clear();
    byte_order_mark = byte_order_mark || (at_start && text.starts_with(kByteOrderMark));
    const bool marked = encoding.allow_special && text.starts_with(kEndOfText);
    if (at_start && !marked) ids.push_back(tokenizer.end_of_text());
    at_start = false;
    tokenizer.encode_to(text, ids, encoding);
    sink(ids);
  });
  return byte_order_mark;
}

void encode_document(DocumentReader& document, HeldOut held_out, const TokenizeOptions& options,
                     const Tokenizer& tokenizer, ShardSet& shards, TokenizeResult& result) {
  const EncodeOptions encoding{.allow_special = options.allow_special};
  std::int64_t train_end = -1;  // all of it
  if (held_out == HeldOut::kWhole) train_end = 0;
  if (held_out == HeldOut::kTail) {
    train_end = document.held_out_begin(options.val_fraction, options.allow_special ? kEndOfText : std::string_view());
  }
  bool marked = encode_part(document, train_end, tokenizer, encoding,
                            [&](std::span<const int> ids) { shards.append_train(ids); });
  const std::int64_t train_bytes = document.position();
  if (held_out != HeldOut::kNothing) {
    const bool tail_marked =
        encode_part(document, -1, tokenizer, encoding, [&](std::span<const int> ids) { shards.append_val(ids); });
    marked = marked || (tail_marked && train_bytes == 0);
  }
  const std::int64_t bytes = document.position();
  ++result.documents;
  result.bytes += bytes;
  result.val_bytes += bytes - train_bytes;
  result.empty += bytes == 0 ? 1 : 0;
  result.byte_order_marks += marked ? 1 : 0;
  result.held_out += held_out == HeldOut::kWhole ? 1 : 0;
  result.tails += held_out == HeldOut::kTail && bytes > train_bytes ? 1 : 0;
}

std::vector<HeldOut> held_out_of(const std::vector<Document>& documents, double fraction) {
  std::vector<std::int64_t> bytes;
  for (const Document& document : documents) bytes.push_back(document.bytes);
  return choose_held_out(bytes, fraction);
}

void remove_left_over(const std::vector<std::string>& earlier, const TokenizeResult& result) {
  for (const std::string& path : earlier) {  // of a longer run before: a glob would mix them with the new ones
    const bool replaced = path == result.val_file || std::find(result.train_files.begin(), result.train_files.end(),
                                                               path) != result.train_files.end();
    std::error_code code;
    if (!replaced && !fs::remove(path, code)) {
      throw Error(ErrorKind::kData,
                  fmt::format("{} is left from an earlier run and cannot be removed: {}", path, code.message()));
    }
  }
}

}  // namespace

TokenizeResult tokenize_files(const TokenizeOptions& options) {
  const auto begin = std::chrono::steady_clock::now();
  check_options(options);
  const std::vector<std::string> earlier = existing_shards(options.output_prefix);
  const std::vector<std::string> paths = find_inputs(options.inputs, earlier);
  if (!earlier.empty() && !options.overwrite) {
    throw Error(ErrorKind::kData,
                fmt::format("{} exists already ({} such files): choose another output prefix, or allow "
                            "overwriting (--overwrite)",
                            earlier.front(), earlier.size()));
  }
  const std::unique_ptr<Tokenizer> tokenizer = make_tokenizer(options.tokenizer, options.merges, options.vocab);
  if (tokenizer->vocab_size() > kMaxTokenId + 1) {
    throw Error(ErrorKind::kData, fmt::format("{}: the vocabulary has {} ids; token shards store 16 bits, at most {}",
                                              options.merges, tokenizer->vocab_size(), kMaxTokenId + 1));
  }
  const bool holds_out = options.val_fraction > 0;
  const OutputFolder folder(options.output_prefix);
  folder.make();
  ShardSet shards(options.output_prefix, options.shard_tokens, holds_out);

  // From here on documents are read.
  std::vector<Document> documents = check_documents(
      paths, {.text_only = !options.allow_binary, .lengths = holds_out, .copies = options.output_prefix});
  const std::vector<HeldOut> held_out = held_out_of(documents, options.val_fraction);
  TokenizeResult result;
  for (std::size_t i = 0; i < documents.size(); ++i) {
    const std::unique_ptr<DocumentReader> document = documents[i].open();
    encode_document(*document, held_out[i], options, *tokenizer, shards, result);
  }
  result.train_tokens = shards.train_tokens();
  result.val_tokens = shards.val_tokens();
  result.vocab_size = tokenizer->vocab_size();
  if (result.train_tokens == 0 || (holds_out && result.val_tokens == 0)) {
    throw Error(ErrorKind::kData,
                fmt::format("the {} input files hold {} bytes of text: too little for {}", paths.size(), result.bytes,
                            result.train_tokens == 0 ? "a token" : "a held-out part (--val-fraction 0: none)"));
  }
  shards.publish(result);
  remove_left_over(earlier, result);
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return result;
}

}  // namespace qat
