#include "src/bitmap/bitmap_text.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <set>
#include <string_view>
#include <utility>

#include "kernels/common/bit_width.h"
#include "src/base/json.h"
#include "src/base/nearest.h"

namespace qat {
namespace {

constexpr std::size_t kLongestText = 1 << 16;
constexpr std::size_t kLongestName = 64;

[[noreturn]] void refuse(const std::string& rule) { throw Error(ErrorKind::kConfig, rule); }

std::string_view trimmed(std::string_view text) {
  const auto blank = [](char c) { return c == ' ' || c == '\t' || c == '\n'; };
  while (!text.empty() && blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && blank(text.back())) text.remove_suffix(1);
  return text;
}

bool is_digits(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

std::string upper(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return out;
}

std::vector<std::string_view> split(std::string_view text, char at) {
  std::vector<std::string_view> parts;
  for (std::size_t begin = 0;;) {
    const std::size_t end = text.find(at, begin);
    parts.push_back(trimmed(text.substr(begin, end - begin)));
    if (end == std::string_view::npos) return parts;
    begin = end + 1;
  }
}

// A width, 32 for 0. `of`: what it is of, for the message.
int checked_width(std::int64_t bits, std::string_view of) {
  if (bits == 0) return BitWidth::kFull;
  if (bits > BitWidth::kFull || !BitWidth::is_usual(static_cast<int>(bits)))
    refuse(fmt::format("{} must be 2..18, or 0 or 32 for unquantized, not {}", of, bits));
  return static_cast<int>(bits);
}

int width_of(std::string_view text, std::string_view of) {
  std::int64_t bits = 0;
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), bits);
  if (!is_digits(text) || status != std::errc{} || end != text.data() + text.size())
    refuse(fmt::format("{} must be 2..18, or 0 or 32 for unquantized, not \"{}\"", of, text));
  return checked_width(bits, of);
}

// ---- names

using Configuration = std::pair<const char*, BlockBits>;

// Weights, activations, keys and values.
constexpr BlockBits bits_of(int w, int a, int kv) { return {.attn = w, .mlp = w, .act = a, .kv = kv}; }

constexpr std::array kConfigurations = {
    Configuration{"FP32", bits_of(32, 32, 32)}, Configuration{"FP16", bits_of(16, 16, 16)},
    Configuration{"INT8", bits_of(8, 8, 8)},    Configuration{"INT6", bits_of(6, 6, 6)},
    Configuration{"INT4", bits_of(4, 4, 4)},    Configuration{"INT2", bits_of(2, 2, 2)}};

// 4-8-8, or W4A8KV8.
std::optional<BlockBits> read_three(std::string_view text) {
  std::array<std::string_view, 3> parts;
  if (const auto dashed = split(text, '-'); dashed.size() > 1) {
    if (!std::all_of(dashed.begin(), dashed.end(), is_digits)) return std::nullopt;
    if (dashed.size() != 3)
      refuse(fmt::format("must have three numbers for weights, activations, and keys and values, as 4-8-8, not {}",
                         dashed.size()));
    std::copy(dashed.begin(), dashed.end(), parts.begin());
  } else {
    const std::size_t a = text.find('A'), kv = text.find("KV");
    if (!text.starts_with('W') || a == std::string_view::npos || kv == std::string_view::npos || kv < a)
      return std::nullopt;
    parts = {text.substr(1, a - 1), text.substr(a + 1, kv - a - 1), text.substr(kv + 2)};
    if (!std::all_of(parts.begin(), parts.end(), is_digits)) return std::nullopt;
  }
  const int w = width_of(parts[0], "the weights' width");
  return bits_of(w, width_of(parts[1], "the activations' width"), width_of(parts[2], "the keys' and values' width"));
}

std::optional<BlockBits> read_configuration(std::string_view text) {
  const std::string name = upper(text);
  for (const auto& [known, bits] : kConfigurations)
    if (name == known) return bits;
  return read_three(name);
}

std::vector<std::string> known_words() {
  std::vector<std::string> words = {"stripe8&4", "alternating_8_4", "progressive_4_8", "attention_focused",
                                    "mlp_focused"};
  for (const auto& [name, bits] : kConfigurations) words.emplace_back(name);
  words.emplace_back("W4A8KV8");
  return words;
}

[[noreturn]] void refuse_word(std::string_view text) {
  const std::vector<std::string> words = known_words();
  const auto close = nearest(text, words);
  refuse(fmt::format("must be a width, a list of widths, attn=8,mlp=4 or a name such as {}{}", fmt::join(words, ", "),
                     close ? fmt::format("; did you mean \"{}\"?", *close) : ""));
}

// ---- patterns

// "stripe8&4": the two numbers behind `word`.
std::optional<std::vector<int>> read_pattern(std::string_view text, std::string_view word, char between) {
  if (!text.starts_with(word)) return std::nullopt;
  const auto parts = split(text.substr(word.size()), between);
  if (parts.size() != 2) refuse(fmt::format("must name two widths, as {}8{}4", word, between));
  return std::vector{width_of(parts[0], "a width"), width_of(parts[1], "a width")};
}

bool read_patterns(std::string_view text, BitmapText& out) {
  for (const auto& [word, between, form] :
       {std::tuple{"stripe", '&', BitmapForm::kStripe}, std::tuple{"alternating_", '_', BitmapForm::kAlternating},
        std::tuple{"progressive_", '_', BitmapForm::kProgressive}}) {
    const auto numbers = read_pattern(text, word, between);
    if (!numbers) continue;
    out.form = form;
    out.numbers = *numbers;
    return true;
  }
  if (text != "attention_focused" && text != "mlp_focused") return false;
  const bool attention = text == "attention_focused";
  out.blocks = {{.attn = attention ? 8 : 4, .mlp = attention ? 4 : 8}};
  return true;
}

// ---- widths by block

// What stands for one block, or for the head.
struct Entry {
  BlockBits bits;
  std::optional<int> head;
  std::set<std::string> given;

  bool is_head_alone() const { return head && given.size() == 1; }
};

void set_field(Entry& entry, std::string_view key, int bits) {
  const std::vector<std::string> known = {"attn", "mlp", "act", "kv", "head"};
  if (!entry.given.insert(std::string(key)).second) refuse(fmt::format("must not name \"{}\" twice", key));
  if (key == known[0]) {
    entry.bits.attn = bits;
  } else if (key == known[1]) {
    entry.bits.mlp = bits;
  } else if (key == known[2]) {
    entry.bits.act = bits;
  } else if (key == known[3]) {
    entry.bits.kv = bits;
  } else if (key == known[4]) {
    entry.head = bits;
  } else {
    const auto close = nearest(key, known);
    refuse(fmt::format("names \"{}\": known are {}{}", key, fmt::join(known, ", "),
                       close ? fmt::format("; did you mean \"{}\"?", *close) : ""));
  }
}

Entry read_fields(std::string_view text) {
  Entry entry;
  for (const std::string_view part : split(text, ',')) {
    const auto pair = split(part, '=');
    if (pair.size() != 2) refuse(fmt::format("must be of parts such as attn=8, which \"{}\" is not", part));
    set_field(entry, pair[0], width_of(pair[1], pair[0]));
  }
  return entry;
}

Entry read_object(const Value& object) {
  if (!object.is_object()) refuse("as JSON must be an object such as {\"attn\": 8, \"mlp\": 4}, or a list of them");
  Entry entry;
  for (const Value::Member& member : object.as_object()) {
    if (!member.value.is_int())
      refuse(fmt::format("{} must be 2..18, or 0 or 32 for unquantized, not {}", member.key, to_json(member.value)));
    set_field(entry, member.key, checked_width(std::max<std::int64_t>(-1, member.value.as_int()), member.key));
  }
  return entry;
}

void take_entries(const std::vector<Entry>& entries, bool each, BitmapText& out) {
  out.form = each ? BitmapForm::kEachBlock : BitmapForm::kAllBlocks;
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const Entry& entry = entries[i];
    const bool head_alone = each && entry.is_head_alone() && i + 1 == entries.size();
    if (!head_alone && !(entry.given.contains("attn") && entry.given.contains("mlp")))
      refuse(fmt::format("must name attn and mlp{}", each ? fmt::format(" for block {}", i) : ""));
    if (each && entry.head && !head_alone) refuse("must name head alone, behind the last block");
    if (entry.head) out.head = entry.head;
    if (!head_alone) out.blocks.push_back(entry.bits);
  }
}

void read_json(std::string_view text, BitmapText& out) {
  Value value;
  try {
    value = parse_json(text, "the map");
  } catch (const Error& error) {
    refuse(fmt::format("must be JSON if it begins with [ or {{: {}", error.what()));
  }
  std::vector<Entry> entries;
  if (!value.is_array()) return take_entries({read_object(value)}, /*each=*/false, out);
  for (const Value& object : value.as_array()) entries.push_back(read_object(object));
  if (entries.empty()) refuse("must name a block");
  take_entries(entries, /*each=*/true, out);
}

void read_by_block(std::string_view text, BitmapText& out) {
  std::vector<Entry> entries;
  for (const std::string_view part : split(text, ';')) entries.push_back(read_fields(part));
  take_entries(entries, /*each=*/text.find(';') != std::string_view::npos, out);
}

// ---- the whole

void read_body(std::string_view text, BitmapText& out) {
  if (text.starts_with('[') || text.starts_with('{')) return read_json(text, out);
  if (text.find('=') != std::string_view::npos) return read_by_block(text, out);
  if (text.find(',') != std::string_view::npos) {
    out.form = BitmapForm::kLinears;
    for (const std::string_view part : split(text, ','))
      out.numbers.push_back(width_of(part, fmt::format("the width of linear layer {}", out.numbers.size())));
    return;
  }
  if (is_digits(text)) {
    const int bits = width_of(text, "the width");
    out.blocks = {{.attn = bits, .mlp = bits}};
  } else if (const auto three = read_configuration(text)) {
    out.blocks = {*three};
  } else if (!read_patterns(text, out)) {
    refuse_word(text);
  }
}

// Takes "name:" from the front of `text`, if it is there.
std::string take_name(std::string_view& text) {
  const std::size_t colon = text.find(':');
  if (colon == std::string_view::npos || text.starts_with('[') || text.starts_with('{')) return "";
  const std::string_view name = trimmed(text.substr(0, colon));
  const auto plain = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '-' || c == '.' || c == '&';
  };
  if (name.empty() || name.size() > kLongestName || is_digits(name) || !std::all_of(name.begin(), name.end(), plain))
    refuse(
        fmt::format("must have a name of at most {} letters, digits, _ - . & before the colon, and not a number "
                    "alone",
                    kLongestName));
  text = trimmed(text.substr(colon + 1));
  return std::string(name);
}

}  // namespace

BitmapText parse_bitmap(const std::string& text) {
  if (text.size() > kLongestText) refuse(fmt::format("must have at most {} characters", kLongestText));
  std::string_view rest = trimmed(text);
  BitmapText out{.name = take_name(rest), .text = {}, .blocks = {}, .head = {}, .numbers = {}};
  out.text = std::string(rest);
  if (out.name.empty()) out.name = out.text;
  if (rest.empty()) refuse("must say widths, as 4, 4-8-8 or stripe8&4");
  read_body(rest, out);
  return out;
}

bool is_named_configuration(const std::string& text) {
  try {
    return read_configuration(trimmed(text)).has_value();
  } catch (const Error&) {
    return true;  // of that form, with a width that parse_bitmap() refuses
  }
}

std::string named_configurations() {
  std::vector<std::string> names;
  for (const auto& [name, bits] : kConfigurations) names.emplace_back(name);
  return fmt::format("{}, W4A8KV8, 4-8-8", fmt::join(names, ", "));
}

std::vector<int> weight_widths(const BitmapText& bitmap) {
  std::set<int> widths(bitmap.numbers.begin(), bitmap.numbers.end());
  for (const BlockBits& block : bitmap.blocks) widths.insert({block.attn, block.mlp});
  if (bitmap.head) widths.insert(*bitmap.head);
  widths.erase(BitWidth::kFull);
  return {widths.begin(), widths.end()};
}

}  // namespace qat
