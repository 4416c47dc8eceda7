#include "src/data/question_windows.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <limits>

#include "kernels/common/error.h"
#include "src/text/character_class.h"
#include "src/text/utf8.h"

namespace qat {
namespace {

std::vector<std::uint16_t> to_words(const std::vector<int>& ids) { return {ids.begin(), ids.end()}; }

// A running hash of numbers and token lists.
class ContentHash {
 public:
  void add(std::span<const std::uint16_t> tokens) {
    add_number(static_cast<std::int64_t>(tokens.size()));
    hash_ = XXH3_64bits_withSeed(tokens.data(), tokens.size_bytes(), hash_);
  }
  void add_number(std::int64_t number) { hash_ = XXH3_64bits_withSeed(&number, sizeof number, hash_); }
  std::uint64_t value() const { return hash_; }

 private:
  std::uint64_t hash_ = 0;
};

bool is_inside_character(std::string_view text, std::size_t at) {
  return at < text.size() && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80;
}

// White space at the start; of whole characters.
std::size_t leading_space(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size()) {
    const Utf8Character character = first_character(text.substr(at));
    if (character.length == 0 || class_of(character.value) != CharacterClass::kSpace) break;
    at += character.length;
  }
  return at;
}

// Where the last character that is no white space ends.
std::size_t end_of_words(std::string_view text) {
  std::size_t end = 0;
  for (std::size_t at = 0; at < text.size();) {
    const Utf8Character character = first_character(text.substr(at));
    at += std::max<std::size_t>(1, character.length);
    if (character.length == 0 || class_of(character.value) != CharacterClass::kSpace) end = at;
  }
  return end;
}

}  // namespace

QuestionWindows::QuestionWindows(SquadData data, const Tokenizer& tokenizer, const QuestionLayout& layout)
    : data_(std::move(data)), layout_(layout), end_of_text_(static_cast<std::uint16_t>(tokenizer.end_of_text())) {
  QAT_CHECK(layout.question_tokens > 0 && layout.window_advance > 0 &&
                layout.window_advance <= layout.sequence_length - layout.question_tokens - kWindowSeparators,
            "windows leave no token of a context out");
  for (const std::string& text : data_.contexts) {
    if (text.size() > std::numeric_limits<std::int32_t>::max())
      throw Error(ErrorKind::kData, fmt::format("a context of {} bytes is too long", text.size()));
    const std::vector<int> ids = tokenizer.encode(text);
    const std::vector<std::size_t> ends = tokenizer.token_ends(ids);
    contexts_.push_back({to_words(ids), {ends.begin(), ends.end()}});
  }
  for (std::size_t i = 0; i < data_.questions.size(); ++i) {
    std::vector<int> ids = tokenizer.encode(data_.questions[i].text);
    if (std::ssize(ids) > layout_.question_tokens) ids.resize(static_cast<std::size_t>(layout_.question_tokens));
    questions_.push_back(to_words(ids));
    const auto room = static_cast<std::int32_t>(layout_.sequence_length - std::ssize(ids) - kWindowSeparators);
    const auto all = static_cast<std::int32_t>(contexts_[data_.questions[i].context].tokens.size());
    for (std::int32_t first = 0;; first += static_cast<std::int32_t>(layout_.window_advance)) {
      windows_.push_back({static_cast<std::int32_t>(i), first, std::min(room, all - first)});
      if (first + room >= all) break;
    }
  }
}

std::int64_t QuestionWindows::token_at(const Context& context, std::size_t byte) const {
  return std::upper_bound(context.ends.begin(), context.ends.end(), byte) - context.ends.begin();
}

std::int64_t QuestionWindows::context_place(const Window& window) const {
  return std::ssize(questions_[static_cast<std::size_t>(window.question)]) + 1;
}

std::int64_t QuestionWindows::length(const Window& window) const { return context_place(window) + window.tokens + 1; }

SpanTarget QuestionWindows::target(const Window& window) const {
  const SquadQuestion& question = data_.questions[static_cast<std::size_t>(window.question)];
  const auto place = static_cast<std::int32_t>(context_place(window));
  SpanTarget target{.context_begin = place, .context_end = place + window.tokens};
  if (question.answers.empty()) return target;
  const ByteRange& answer = question.answers.front();
  const Context& context = contexts_[question.context];
  const std::int64_t start = token_at(context, answer.begin) - window.first;
  const std::int64_t end = token_at(context, answer.end - 1) - window.first;
  if (start < 0 || end >= window.tokens) return target;
  target.start = place + static_cast<std::int32_t>(start);
  target.end = place + static_cast<std::int32_t>(end);
  return target;
}

void QuestionWindows::fill(const Window& window, std::span<std::int32_t> inputs) const {
  QAT_CHECK(std::ssize(inputs) == layout_.sequence_length, "a window fills its inputs exactly");
  const auto index = static_cast<std::size_t>(window.question);
  const std::vector<std::uint16_t>& question = questions_[index];
  const std::vector<std::uint16_t>& context = contexts_[data_.questions[index].context].tokens;
  std::fill(inputs.begin(), inputs.end(), std::int32_t{end_of_text_});
  std::copy(question.begin(), question.end(), inputs.begin());
  std::copy_n(context.begin() + window.first, window.tokens, inputs.begin() + context_place(window));
}

ByteRange QuestionWindows::bytes(const Window& window, std::int64_t start, std::int64_t end) const {
  const std::size_t index = data_.questions[static_cast<std::size_t>(window.question)].context;
  const std::string_view text = data_.contexts[index];
  const Context& context = contexts_[index];
  const auto first = static_cast<std::size_t>(window.first + start - context_place(window));
  const auto last = static_cast<std::size_t>(window.first + end - context_place(window));
  QAT_CHECK(first <= last && last < context.ends.size(), "an answer lies in its window's context");
  ByteRange range{first == 0 ? 0 : context.ends[first - 1], context.ends[last]};
  while (is_inside_character(text, range.begin)) --range.begin;
  while (is_inside_character(text, range.end)) ++range.end;
  range.begin += leading_space(text.substr(range.begin, range.size()));
  range.end = range.begin + end_of_words(text.substr(range.begin, range.size()));
  return range;
}

SplitIdentity QuestionWindows::identity() const {
  SplitIdentity split;
  for (std::size_t f = 0; f < data_.files.size(); ++f) {
    const std::size_t begin = data_.files[f].first_question;
    const std::size_t end = f + 1 < data_.files.size() ? data_.files[f + 1].first_question : questions_.size();
    SegmentIdentity segment{.file = data_.files[f].name, .tokens = 0, .content = {}};
    ContentHash hash;
    const auto add = [&](const std::vector<std::uint16_t>& tokens) {
      hash.add(tokens);
      segment.tokens += std::ssize(tokens);
      for (const std::uint16_t token : tokens)
        segment.content.largest_id = std::max(segment.content.largest_id, int{token});
    };
    for (std::size_t i = begin; i < end; ++i) {
      const SquadQuestion& question = data_.questions[i];
      add(questions_[i]);
      // Questions on one context follow each other.
      if (i == begin || question.context != data_.questions[i - 1].context) add(contexts_[question.context].tokens);
      for (const ByteRange& answer : question.answers) {
        hash.add_number(static_cast<std::int64_t>(answer.begin));
        hash.add_number(static_cast<std::int64_t>(answer.end));
      }
    }
    segment.content.hash = hash.value();
    split.push_back(std::move(segment));
  }
  return split;
}

}  // namespace qat
