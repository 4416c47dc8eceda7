#include "src/text/byte_pair_vocabulary.h"

#include <fmt/format.h>

#include <array>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <unordered_map>

#include "kernels/common/error.h"
#include "src/base/file.h"

namespace qat {
namespace {

// GPT-2's bytes_to_unicode, as arrays: id -> byte, byte -> id and character -> byte.
struct ByteAlphabet {
  static constexpr int kCharacters = 0x144;  // the last byte, 0xAD, is written U+0143
  std::array<unsigned char, 256> byte_of_id{};
  std::array<std::int32_t, 256> id_of_byte{};
  std::array<std::int16_t, kCharacters> byte_of_character{};  // -1: stands for no byte

  ByteAlphabet() {
    byte_of_character.fill(-1);
    const auto printable = [](int b) { return (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE; };
    int id = 0;
    const auto add = [&](int byte, int character) {
      byte_of_id[static_cast<std::size_t>(id)] = static_cast<unsigned char>(byte);
      id_of_byte[static_cast<std::size_t>(byte)] = id++;
      byte_of_character[static_cast<std::size_t>(character)] = static_cast<std::int16_t>(byte);
    };
    for (int b = 0; b < 256; ++b) {
      if (printable(b)) add(b, b);
    }
    int next = 0x100;
    for (int b = 0; b < 256; ++b) {
      if (!printable(b)) add(b, next++);
    }
  }
};

const ByteAlphabet& alphabet() {
  static const ByteAlphabet instance;
  return instance;
}

// The bytes that a token as written in the files stands for; nothing if a character stands for no byte. Characters are
// at most two UTF-8 bytes long (U+0143 is the largest).
std::optional<std::string> bytes_of_written(std::string_view written) {
  std::string bytes;
  for (std::size_t i = 0; i < written.size(); ++i) {
    int character = static_cast<unsigned char>(written[i]);
    if (character >= 0x80) {
      const int second = i + 1 < written.size() ? static_cast<unsigned char>(written[i + 1]) : 0;
      if ((character & 0xE0) != 0xC0 || (second & 0xC0) != 0x80) return std::nullopt;
      character = (character & 0x1F) << 6 | (second & 0x3F);
      if (character < 0x80) return std::nullopt;  // an overlong form
      ++i;
    }
    if (character >= ByteAlphabet::kCharacters) return std::nullopt;
    const int byte = alphabet().byte_of_character[static_cast<std::size_t>(character)];
    if (byte < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(byte));
  }
  return bytes;
}

// For messages: at most 60 bytes of a file's text, control characters and broken UTF-8 shown as \xNN.
std::string quote(std::string_view text) {
  constexpr std::size_t kShown = 60;
  std::string out = "\"";
  for (const char c : text.substr(0, kShown)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte >= 0x7F) {
      out += fmt::format("\\x{:02x}", byte);
    } else {
      out.push_back(c);
    }
  }
  return out + (text.size() > kShown ? "...\"" : "\"");
}

[[noreturn]] void fail(const std::string& path, const std::string& what) {
  throw Error(ErrorKind::kData, path + ": " + what);
}

class MergesParser {
 public:
  explicit MergesParser(const std::string& path) : path_(path) {
    for (int id = 0; id < 256; ++id) {
      add_token(std::string(1, static_cast<char>(alphabet().byte_of_id[static_cast<std::size_t>(id)])));
    }
  }

  BytePairVocabulary parse(std::string_view content) {
    while (!content.empty()) {
      ++line_number_;
      const std::size_t end = content.find('\n');
      std::string_view line = content.substr(0, end);
      content.remove_prefix(end == std::string_view::npos ? content.size() : end + 1);
      if (line.ends_with('\r')) line.remove_suffix(1);
      if (line_number_ == 1 && line.starts_with("#version")) continue;
      if (line.empty()) {
        if (content.empty()) break;
        fail_line("the line is empty; expected a merge, two tokens with one space between them");
      }
      add_merge(line);
    }
    return std::move(vocabulary_);
  }

 private:
  [[noreturn]] void fail_line(const std::string& what) const {
    fail(path_, fmt::format("line {}: {}", line_number_, what));
  }

  void add_token(std::string bytes) {
    ids_.emplace(bytes, static_cast<std::int32_t>(vocabulary_.tokens.size()));
    vocabulary_.tokens.push_back(std::move(bytes));
  }

  void add_merge(std::string_view line) {
    const std::size_t space = line.find(' ');
    if (space == std::string_view::npos || space == 0 || space + 1 == line.size() ||
        line.find(' ', space + 1) != std::string_view::npos) {
      fail_line(fmt::format("{} is not a merge; expected two tokens with one space between them", quote(line)));
    }
    const std::int32_t left = known_token(line.substr(0, space));
    const std::int32_t right = known_token(line.substr(space + 1));
    std::string bytes = vocabulary_.tokens[static_cast<std::size_t>(left)];
    bytes += vocabulary_.tokens[static_cast<std::size_t>(right)];
    if (const auto earlier = ids_.find(bytes); earlier != ids_.end()) {
      fail_line(fmt::format("{} makes a token that {} makes already; every merge must make a new one", quote(line),
                            describe(earlier->second)));
    }
    if (vocabulary_.tokens.size() >= static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max()) - 1) {
      fail_line("more merges than a token id can count");
    }
    vocabulary_.merges.push_back({left, right});
    add_token(std::move(bytes));
  }

  std::string describe(std::int32_t id) const {
    return id < 256 ? std::string("a single byte") : fmt::format("merge {}", id - 255);
  }

  std::int32_t known_token(std::string_view written) const {
    const std::optional<std::string> bytes = bytes_of_written(written);
    if (!bytes) {
      fail_line(fmt::format("{} has a character that stands for no byte in GPT-2's alphabet", quote(written)));
    }
    const auto found = ids_.find(*bytes);
    if (found == ids_.end()) {
      fail_line(fmt::format("{} is neither a byte nor made by an earlier line; is the file whole and in order?",
                            quote(written)));
    }
    return found->second;
  }

  const std::string& path_;
  std::int64_t line_number_ = 0;
  BytePairVocabulary vocabulary_;
  std::unordered_map<std::string, std::int32_t> ids_;
};

// Compares a flat {token: id} object with the vocabulary while it is parsed: no document tree is built, and anything
// nested is refused at its first bracket.
class VocabHandler : public nlohmann::json_sax<nlohmann::json> {
 public:
  VocabHandler(const std::string& path, const BytePairVocabulary& vocabulary)
      : path_(path), vocabulary_(vocabulary), seen_(static_cast<std::size_t>(vocabulary.size()), false) {}

  void finish() const {
    for (std::size_t id = 0; id < seen_.size(); ++id) {
      if (!seen_[id]) {
        fail(path_, fmt::format("no token has id {}; the merges make ids 0 to {}", id, seen_.size() - 1));
      }
    }
  }

  bool start_object(std::size_t) override {
    if (open_) refuse("an object");
    open_ = true;
    return true;
  }
  bool end_object() override { return true; }
  bool key(std::string& name) override {
    key_ = name;
    return true;
  }
  bool number_unsigned(std::uint64_t id) override {
    if (!open_) refuse("a number");
    const std::size_t last = seen_.size() - 1;
    if (id > last) {
      fail(path_, fmt::format("{} has id {}; the merges make ids 0 to {} (do the two files belong together?)",
                              quote(key_), id, last));
    }
    if (seen_[id]) fail(path_, fmt::format("id {} is given twice, the second time to {}", id, quote(key_)));
    const bool matches = id == last ? key_ == "<|endoftext|>" : bytes_of_written(key_) == vocabulary_.tokens[id];
    if (!matches) {
      fail(path_, fmt::format("id {} is {}, but the merges make it another token (do the two files belong together?)",
                              id, quote(key_)));
    }
    seen_[id] = true;
    return true;
  }
  bool number_integer(std::int64_t id) override { refuse(fmt::format("the id {}", id)); }
  bool null() override { refuse("null"); }
  bool boolean(bool) override { refuse("a boolean"); }
  bool number_float(double, const std::string&) override { refuse("a fraction"); }
  bool string(std::string&) override { refuse("a string"); }
  bool binary(nlohmann::json::binary_t&) override { refuse("binary data"); }
  bool start_array(std::size_t) override { refuse("an array"); }
  bool end_array() override { return true; }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::json::exception& error) override {
    fail(path_, fmt::format("byte {}: not JSON ({})", position, error.what()));
  }

 private:
  [[noreturn]] void refuse(const std::string& found) const {
    fail(path_, fmt::format("found {}{}; expected one object that gives every token its id", found,
                            key_.empty() ? "" : " at the key " + quote(key_)));
  }

  const std::string& path_;
  const BytePairVocabulary& vocabulary_;
  std::vector<bool> seen_;
  std::string key_;
  bool open_ = false;
};

}  // namespace

std::int32_t id_of_byte(unsigned char byte) { return alphabet().id_of_byte[byte]; }

BytePairVocabulary parse_merges(std::string_view content, const std::string& path) {
  return MergesParser(path).parse(content);
}

void check_vocab_json(std::string_view content, const std::string& path, const BytePairVocabulary& vocabulary) {
  VocabHandler handler(path, vocabulary);
  nlohmann::json::sax_parse(content.begin(), content.end(), &handler);
  handler.finish();
}

BytePairVocabulary load_vocabulary(const std::string& merges_path, const std::string& vocab_path) {
  BytePairVocabulary vocabulary = parse_merges(read_file(merges_path), merges_path);
  if (vocabulary.merges.empty())
    fail(merges_path, "holds no merge; expected one a line, two tokens with a space between");
  if (!vocab_path.empty()) check_vocab_json(read_file(vocab_path), vocab_path, vocabulary);
  return vocabulary;
}

}  // namespace qat
