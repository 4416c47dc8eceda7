#include "src/eval/answer_score.h"

#include <algorithm>
#include <map>
#include <vector>

#include "src/text/character_class.h"
#include "src/text/utf8.h"

namespace qat {
namespace {

constexpr std::string_view kPunctuation = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";

bool between(char32_t c, char32_t first, char32_t last) { return first <= c && c <= last; }

// Letters come in pairs, capital first, from `first` on.
char32_t of_pair(char32_t c, char32_t first) { return (c - first) % 2 == 0 ? c + 1 : c; }

char32_t lower_case(char32_t c) {
  if (c < 0x80) return between(c, 'A', 'Z') ? c + 32 : c;
  if (between(c, 0xC0, 0xDE)) return c == 0xD7 ? c : c + 32;  // Latin-1; a multiplication sign
  if (between(c, 0x100, 0x12F) || between(c, 0x132, 0x137) || between(c, 0x14A, 0x177)) return of_pair(c, 0x100);
  if (between(c, 0x139, 0x148) || between(c, 0x179, 0x17E)) return of_pair(c, 0x139);
  if (c == 0x178) return 0xFF;
  if (between(c, 0x391, 0x3AB)) return c + 32;  // Greek
  if (between(c, 0x388, 0x38A)) return c + 37;
  if (c == 0x386) return 0x3AC;
  if (c == 0x38C) return 0x3CC;
  if (c == 0x38E || c == 0x38F) return c + 63;
  if (between(c, 0x410, 0x42F)) return c + 32;  // Cyrillic
  if (between(c, 0x400, 0x40F)) return c + 80;
  if (between(c, 0x460, 0x481) || between(c, 0x48A, 0x4BF) || between(c, 0x4D0, 0x52F)) return of_pair(c, 0x460);
  if (between(c, 0x1E00, 0x1E95) || between(c, 0x1EA0, 0x1EFF)) return of_pair(c, 0x1E00);  // Latin, additional
  return c;
}

void append(std::string& text, char32_t c) {
  const auto byte = [&](char32_t value) { text += static_cast<char>(value); };
  if (c < 0x80) return byte(c);
  if (c < 0x800) {
    byte(0xC0 | c >> 6);
  } else if (c < 0x10000) {
    byte(0xE0 | c >> 12);
    byte(0x80 | (c >> 6 & 0x3F));
  } else {
    byte(0xF0 | c >> 18);
    byte(0x80 | (c >> 12 & 0x3F));
    byte(0x80 | (c >> 6 & 0x3F));
  }
  byte(0x80 | (c & 0x3F));
}

bool is_word(char32_t c) {
  const CharacterClass kind = class_of(c);
  return kind == CharacterClass::kLetter || kind == CharacterClass::kNumber;
}

bool is_article(std::string_view word) { return word == "a" || word == "an" || word == "the"; }

// Lower case, without punctuation.
std::string plain(std::string_view text) {
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    const Utf8Character character = first_character(text.substr(at));
    if (character.length == 0) {  // no UTF-8: as it is
      out += text[at++];
      continue;
    }
    at += character.length;
    if (character.value < 0x80 && kPunctuation.find(static_cast<char>(character.value)) != kPunctuation.npos) continue;
    append(out, lower_case(character.value));
  }
  return out;
}

// Puts a blank in the place of every article; one is a run of letters and digits with none beside it.
std::string without_articles(std::string_view text) {
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    std::size_t end = at;
    while (end < text.size()) {
      const Utf8Character character = first_character(text.substr(end));
      if (character.length == 0 || !is_word(character.value)) break;
      end += character.length;
    }
    if (end == at) end += std::max<std::size_t>(1, first_character(text.substr(at)).length);
    const std::string_view run = text.substr(at, end - at);
    is_article(run) ? out += ' ' : out += run;
    at = end;
  }
  return out;
}

std::vector<std::string> words_of(std::string_view text) {
  std::vector<std::string> words(1);
  for (std::size_t at = 0; at < text.size();) {
    const Utf8Character character = first_character(text.substr(at));
    const std::size_t length = std::max<std::size_t>(1, character.length);
    const bool space = character.length > 0 && class_of(character.value) == CharacterClass::kSpace;
    if (!space)
      words.back() += text.substr(at, length);
    else if (!words.back().empty())
      words.emplace_back();
    at += length;
  }
  if (words.back().empty()) words.pop_back();
  return words;
}

std::vector<std::string> normalized_words(std::string_view text) { return words_of(without_articles(plain(text))); }

AnswerMatch match(const std::vector<std::string>& answer, const std::vector<std::string>& right) {
  AnswerMatch found{.exact = answer == right ? 1.0 : 0.0};
  if (answer.empty() || right.empty()) return {found.exact, found.exact};
  std::map<std::string_view, int> left;
  for (const std::string& word : right) ++left[word];
  int same = 0;
  for (const std::string& word : answer) {
    const auto entry = left.find(word);
    if (entry != left.end() && entry->second > 0) --entry->second, ++same;
  }
  if (same == 0) return found;
  const double precision = static_cast<double>(same) / static_cast<double>(answer.size());
  const double recall = static_cast<double>(same) / static_cast<double>(right.size());
  found.f1 = 2 * precision * recall / (precision + recall);
  return found;
}

}  // namespace

std::string normalized_answer(std::string_view text) {
  std::string out;
  for (const std::string& word : normalized_words(text)) out += (out.empty() ? "" : " ") + word;
  return out;
}

AnswerMatch match_answer(std::string_view answer, std::span<const std::string_view> right) {
  std::vector<std::vector<std::string>> texts;
  for (const std::string_view text : right)
    if (std::vector<std::string> words = normalized_words(text); !words.empty()) texts.push_back(std::move(words));
  if (texts.empty()) texts.emplace_back();
  const std::vector<std::string> words = normalized_words(answer);
  AnswerMatch best;
  for (const std::vector<std::string>& text : texts) {
    const AnswerMatch one = match(words, text);
    best = {std::max(best.exact, one.exact), std::max(best.f1, one.f1)};
  }
  return best;
}

}  // namespace qat
