#include "src/text/pre_tokenizer.h"

#include <pcre2.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <string>

#include "kernels/common/error.h"

namespace qat {
namespace {

// White_Space as the contents of a class; see the header for why it is not \s.
#define QAT_SPACE R"(\t-\r \x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})"
constexpr char kPattern[] = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^)" QAT_SPACE R"(\p{L}\p{N}]+|[)" QAT_SPACE
                            R"(]+(?![^)" QAT_SPACE R"(])|[)" QAT_SPACE R"(]+)";
#undef QAT_SPACE

enum CharClass : std::uint8_t { kOther, kLetter, kNumber, kSpace, kNotAscii };

constexpr std::array<CharClass, 256> kClassOf = [] {
  std::array<CharClass, 256> classes{};
  for (std::size_t c = 0; c < 256; ++c) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    const bool space = c == ' ' || (c >= '\t' && c <= '\r');
    classes[c] = c >= 0x80 ? kNotAscii : letter ? kLetter : (c >= '0' && c <= '9') ? kNumber : space ? kSpace : kOther;
  }
  return classes;
}();

CharClass class_at(std::string_view text, std::size_t i) { return kClassOf[static_cast<unsigned char>(text[i])]; }

std::size_t run_end(std::string_view text, std::size_t begin, CharClass char_class) {
  std::size_t end = begin;
  while (end < text.size() && class_at(text, end) == char_class) ++end;
  return end;
}

// End of the maximal run of UTF-8 characters from `begin`.
std::size_t valid_run_end(std::string_view text, std::size_t begin) {
  std::size_t end = begin;
  while (end < text.size()) {
    std::uint64_t word;
    while (end + sizeof word <= text.size()) {  // eight ASCII bytes at a time
      std::memcpy(&word, text.data() + end, sizeof word);
      if ((word & 0x8080808080808080U) != 0) break;
      end += sizeof word;
    }
    if (end == text.size()) break;
    const std::size_t length = utf8_character_length(text.substr(end, 4));
    if (length == 0) break;
    end += length;
  }
  return end;
}

// Length of the contraction that stands at the apostrophe text[at], 0 if none does.
std::size_t contraction_length(std::string_view text, std::size_t at) {
  const char first = at + 1 < text.size() ? text[at + 1] : '\0';
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return 2;
  const char second = at + 2 < text.size() ? text[at + 2] : '\0';
  if ((first == 'r' && second == 'e') || (first == 'v' && second == 'e') || (first == 'l' && second == 'l')) return 3;
  return 0;
}

[[noreturn]] void fail_pcre(const char* what, int code) {
  std::array<PCRE2_UCHAR, 256> message{};
  pcre2_get_error_message(code, message.data(), message.size());
  throw Error(ErrorKind::kInternal,
              std::string("PCRE2 ") + what + ": " + reinterpret_cast<const char*>(message.data()));
}

}  // namespace

struct PreTokenPattern::Code {
  Code() {
    int error = 0;
    PCRE2_SIZE offset = 0;
    // Anchored when compiled, not when matched: a match-time PCRE2_ANCHORED would switch the JIT off.
    compiled = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(kPattern), PCRE2_ZERO_TERMINATED,
                             PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED, &error, &offset, nullptr);
    if (compiled == nullptr) fail_pcre("cannot compile GPT-2's split pattern", error);
    // A PCRE2 without JIT for this processor interprets the pattern: slower, same pieces.
    const int jit = pcre2_jit_compile(compiled, PCRE2_JIT_COMPLETE);
    if (jit != 0 && jit != PCRE2_ERROR_JIT_BADOPTION && jit != PCRE2_ERROR_NOMEMORY) {
      fail_pcre("cannot compile GPT-2's split pattern to machine code", jit);
    }
  }
  ~Code() { pcre2_code_free(compiled); }
  Code(const Code&) = delete;
  Code& operator=(const Code&) = delete;

  pcre2_code* compiled = nullptr;
};

class PreTokenPattern::MatchState {
 public:
  explicit MatchState(const pcre2_code* code) : data_(pcre2_match_data_create_from_pattern(code, nullptr)) {
    if (data_ == nullptr) throw std::bad_alloc();
  }
  ~MatchState() { pcre2_match_data_free(data_); }
  MatchState(const MatchState&) = delete;
  MatchState& operator=(const MatchState&) = delete;
  pcre2_match_data* get() { return data_; }

 private:
  pcre2_match_data* data_;
};

PreTokenPattern::PreTokenPattern() : code_(std::make_unique<Code>()) {}
PreTokenPattern::~PreTokenPattern() = default;
PreTokenPattern::PreTokenPattern(PreTokenPattern&&) noexcept = default;
PreTokenPattern& PreTokenPattern::operator=(PreTokenPattern&&) noexcept = default;

std::shared_ptr<PreTokenPattern::MatchState> PreTokenPattern::make_state() const {
  return std::make_shared<MatchState>(code_->compiled);
}

std::size_t PreTokenPattern::match_length(std::string_view text, std::size_t start, MatchState& state) const {
  const int matched = pcre2_match(code_->compiled, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), start,
                                  PCRE2_NO_UTF_CHECK, state.get(), nullptr);
  if (matched < 0) fail_pcre("found no piece where GPT-2's pattern always has one", matched);
  const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(state.get());
  QAT_CHECK(bounds[0] == start && bounds[1] > start, "a match of the split pattern starts where it was asked to");
  return bounds[1] - bounds[0];
}

bool PreTokenCursor::next(std::string_view& piece) {
  if (at_ == text_.size()) return false;
  std::size_t length = method_ == SplitMethod::kFast ? ascii_length() : 0;
  if (length == 0) length = general_length();
  piece = text_.substr(at_, length);
  at_ += length;
  return true;
}

// The piece at at_ if ASCII alone decides it, else 0. Follows the alternatives of the pattern in their order.
std::size_t PreTokenCursor::ascii_length() const {
  const char first = text_[at_];
  if (first == '\'') {
    if (const std::size_t length = contraction_length(text_, at_)) return length;
  }
  std::size_t begin = at_;
  if (first == ' ') {  // " ?X+": the space belongs to what follows it, unless that is white space or nothing
    ++begin;
    if (begin == text_.size()) return 1;
  }
  const CharClass char_class = class_at(text_, begin);
  if (char_class == kNotAscii) return 0;
  const std::size_t end = run_end(text_, begin, char_class);
  if (end < text_.size() && class_at(text_, end) == kNotAscii) return 0;  // may go on, or be white space
  const std::size_t length = end - at_;
  // "\s+(?!\S)" leaves the last space of a run to the word after it; "\s+" takes a single one all the same.
  const bool before_word = char_class == kSpace && end < text_.size();
  return before_word && length > 1 ? length - 1 : length;
}

std::size_t PreTokenCursor::general_length() {
  if (at_ >= valid_end_) {
    valid_begin_ = at_;
    valid_end_ = valid_run_end(text_, at_);
  }
  if (at_ == valid_end_) {  // not UTF-8: one piece as far as that lasts
    std::size_t end = at_ + 1;
    while (end < text_.size() && utf8_character_length(text_.substr(end, 4)) == 0) ++end;
    return end - at_;
  }
  const std::string_view run = text_.substr(valid_begin_, valid_end_ - valid_begin_);
  return pattern_.match_length(run, at_ - valid_begin_, state_);
}

std::size_t utf8_character_length(std::string_view text) {
  if (text.empty()) return 0;
  const auto byte = [&](std::size_t i) -> unsigned {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0;
  };
  const auto continues = [&](std::size_t i) { return (byte(i) & 0xC0) == 0x80; };
  const unsigned lead = byte(0);
  if (lead < 0x80) return 1;
  if (lead < 0xC2) return 0;  // a continuation byte, or an overlong form
  if (lead < 0xE0) return continues(1) ? 2 : 0;
  if (lead < 0xF0) {
    const bool overlong = lead == 0xE0 && byte(1) < 0xA0;
    const bool surrogate = lead == 0xED && byte(1) >= 0xA0;
    return !overlong && !surrogate && continues(1) && continues(2) ? 3 : 0;
  }
  if (lead > 0xF4 || (lead == 0xF0 && byte(1) < 0x90) || (lead == 0xF4 && byte(1) >= 0x90)) return 0;
  return continues(1) && continues(2) && continues(3) ? 4 : 0;
}

bool is_certain_boundary(std::string_view text, std::size_t at) {
  if (class_at(text, at) != kSpace) return false;
  const CharClass before = class_at(text, at - 1);
  if (before != kNotAscii) return before != kSpace;
  // The last byte of a longer character. White space among those starts with one of these bytes; the few characters
  // that are none but start alike (dashes, curly quotes) are given up.
  const std::string_view tail = text.substr(at < 3 ? 0 : at - 3, at < 3 ? at : 3);
  const auto holds = [&](std::string_view bytes) { return tail.find(bytes) != std::string_view::npos; };
  return !holds("\xC2") && !holds("\xE1\x9A") && !holds("\xE2\x80") && !holds("\xE2\x81") && !holds("\xE3\x80\x80");
}

}  // namespace qat
