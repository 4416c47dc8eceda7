#include "src/data/squad_file.h"

#include <fmt/format.h>

#include <unordered_set>

#include "kernels/common/error.h"
#include "src/base/file.h"
#include "src/base/json.h"
#include "src/data/token_source.h"
#include "src/text/utf8.h"

namespace qat {
namespace {

constexpr std::size_t kMostShown = 40;  // bytes of a text in a message

[[noreturn]] void fail(const std::string& what) { throw Error(ErrorKind::kData, what); }

// The beginning of a text for a message, whole characters in quotes.
std::string shown(std::string_view text) {
  std::size_t end = 0;
  while (end < text.size() && end < kMostShown) {
    const std::size_t length = first_character(text.substr(end)).length;
    if (length == 0) break;
    end += length;
  }
  return fmt::format("\"{}{}\"", text.substr(0, end), end < text.size() ? "..." : "");
}

// Walks a text's characters forwards and back to the start, so that the offsets of one context cost little.
class CharacterOffsets {
 public:
  explicit CharacterOffsets(std::string_view text) : text_(text) {
    constexpr std::size_t kStride = 64;
    for (std::size_t byte = 0; byte < text.size(); ++characters_) {
      if (characters_ % kStride == 0) marks_.push_back(byte);
      byte += first_character(text.substr(byte)).length;
    }
  }
  std::int64_t characters() const { return characters_; }
  // 0 <= character < characters().
  std::size_t byte_of(std::int64_t character) const {
    std::size_t byte = marks_[static_cast<std::size_t>(character) / 64];
    for (std::int64_t i = character % 64; i > 0; --i) byte += first_character(text_.substr(byte)).length;
    return byte;
  }

 private:
  std::string_view text_;
  std::vector<std::size_t> marks_;  // of every 64th character
  std::int64_t characters_ = 0;
};

class SquadReader {
 public:
  explicit SquadReader(SquadData& data) : data_(data) {
    for (const SquadQuestion& question : data.questions) ids_.insert(question.id);
  }

  void read(const std::string& path) {
    const Value root = parse_json(read_file(path), path, ErrorKind::kData);
    data_.files.push_back({path, data_.questions.size()});
    const std::size_t before = data_.questions.size();
    for (const Value& article : member(root, "data", "a SQuAD file").as_array())
      for (const Value& paragraph : article.at("paragraphs").as_array()) read_paragraph(paragraph);
    if (data_.questions.size() == before) fail(fmt::format("{} has no questions: expected at least one", path));
  }

 private:
  // The file itself may be some other JSON.
  static const Value& member(const Value& value, std::string_view name, std::string_view what) {
    const Value* found = value.is_object() ? value.find(name) : nullptr;
    if (found == nullptr)
      fail(fmt::format("{} is no {}: expected an object with the member \"{}\", as in SQuAD 1.1 and 2.0", value.where(),
                       what.substr(2), name));
    return *found;
  }

  static std::string text_of(const Value& value, std::string_view what) {
    const std::string& text = value.as_string();
    if (text.empty()) fail(fmt::format("{}: {} is empty: expected text", value.where(), what));
    if (!is_utf8(text)) fail(fmt::format("{}: {} is not UTF-8", value.where(), what));
    return text;
  }

  void read_paragraph(const Value& paragraph) {
    data_.contexts.push_back(text_of(paragraph.at("context"), "\"context\""));
    const std::string& context = data_.contexts.back();
    const CharacterOffsets offsets(context);
    for (const Value& value : paragraph.at("qas").as_array()) {
      SquadQuestion question{.id = text_of(value.at("id"), "\"id\""), .text = {}, .context = {}, .answers = {}};
      try {
        read_question(value, offsets, context, question);
      } catch (const Error& error) {
        throw Error(error.kind(), fmt::format("question {}: {}", shown(question.id), error.what()));
      }
      data_.questions.push_back(std::move(question));
    }
  }

  void read_question(const Value& value, const CharacterOffsets& offsets, std::string_view context,
                     SquadQuestion& question) {
    if (!ids_.insert(question.id).second)
      fail(fmt::format("{}: the id is there already: expected another one for every question", value.where()));
    question.text = text_of(value.at("question"), "\"question\"");
    question.context = data_.contexts.size() - 1;
    const Value* impossible = value.find("is_impossible");
    if (impossible != nullptr) data_.may_be_unanswerable = true;
    const bool unanswerable = impossible != nullptr && impossible->as_bool();
    for (const Value& answer : value.at("answers").as_array())
      question.answers.push_back(read_answer(answer, offsets, context));
    if (unanswerable && !question.answers.empty())
      fail(fmt::format("{}: \"is_impossible\" is true and \"answers\" has {}: expected none", value.where(),
                       question.answers.size()));
    if (!unanswerable && question.answers.empty())
      fail(fmt::format("{}: \"answers\" is empty: expected an answer, or \"is_impossible\": true", value.where()));
  }

  static ByteRange read_answer(const Value& value, const CharacterOffsets& offsets, std::string_view context) {
    const std::string text = text_of(value.at("text"), "an answer's \"text\"");
    const std::int64_t start = value.at("answer_start").as_int();
    if (start < 0 || start >= offsets.characters())
      fail(fmt::format("{}: \"answer_start\" is {}: expected 0 to {}, a character of the context", value.where(), start,
                       offsets.characters() - 1));
    const std::size_t begin = offsets.byte_of(start);
    if (context.substr(begin, text.size()) != text)
      fail(
          fmt::format("{}: the answer {} does not stand at character {} of its context, where {} stands: "
                      "\"answer_start\" counts characters (code points), not bytes",
                      value.where(), shown(text), start, shown(context.substr(begin))));
    return {begin, begin + text.size()};
  }

  SquadData& data_;
  std::unordered_set<std::string> ids_;
};

}  // namespace

void add_squad_file(const std::string& path, SquadData& data) { SquadReader(data).read(path); }

SquadData open_squad(const std::vector<std::string>& patterns, std::string_view key) {
  if (patterns.empty()) throw Error(ErrorKind::kConfig, fmt::format("{} is empty: expected SQuAD files", key));
  SquadData data;
  try {
    for (const std::string& path : expand_patterns(patterns)) add_squad_file(path, data);
  } catch (const Error& error) {
    throw Error(error.kind(), fmt::format("{}: {}", key, error.what()));
  }
  return data;
}

}  // namespace qat
