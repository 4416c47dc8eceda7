#include "src/config/suggest.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "kernels/common/error.h"
#include "src/base/nearest.h"
#include "src/config/element_fields.h"
#include "src/config/field_table.h"

namespace qat {
namespace {

// A word that a user may have meant, and the key that it leads to.
struct Word {
  std::string word;
  std::string path;
  std::string meaning;  // told where the word is not the key's own name
};

template <typename Owner>
void add_words(const std::vector<Field<Owner>>& fields, bool aliases, std::vector<Word>& words) {
  for (const auto& field : fields) {
    if (!aliases) words.push_back({last_part(field.path), field.path, ""});
    if (!aliases) continue;
    for (const std::string& alias : field.aliases) words.push_back({alias, field.path, field.meaning});
  }
}

std::string quoted(const Word& word) {
  return word.meaning.empty() ? fmt::format("\"{}\"", word.path) : fmt::format("\"{}\" ({})", word.path, word.meaning);
}

// The words at the same smallest distance, if the unknown one is close to any.
std::string nearest_of(const std::vector<Word>& words, const std::string& unknown) {
  std::vector<std::string> names;
  for (const Word& word : words) names.push_back(word.word);
  const auto found = nearest(unknown, names);
  if (!found) return "";
  std::vector<std::string> hits;
  for (const Word& word : words) {
    if (edit_distance(word.word, *found) == 0) hits.push_back(quoted(word));
  }
  return fmt::format("did you mean {}?", fmt::join(hits, " or "));
}

bool has_exactly(const std::vector<Word>& words, const std::string& unknown) {
  return std::any_of(words.begin(), words.end(), [&](const Word& word) {
    return word.word.size() == unknown.size() && edit_distance(word.word, unknown) == 0;
  });
}

std::vector<Word> words_of_section(const std::string& section) {
  std::vector<Word> words;
  for (const auto& field : run_fields()) {
    if (parent_of(field.path) == section) words.push_back({last_part(field.path), field.path, ""});
  }
  for (const Section& sub : config_sections()) {
    if (parent_of(sub.path) == section) words.push_back({last_part(sub.path), sub.path, ""});
  }
  if (section.empty()) words.push_back({"version", "version", ""});
  return words;
}

}  // namespace

std::string suggest_key(const std::string& section, const std::string& unknown) {
  if (section.empty() && find_field(unknown) != nullptr)
    return fmt::format("write it as \"{}\": {{\"{}\": ...}}", parent_of(unknown), last_part(unknown));
  std::vector<Word> here, keys, aliases;
  const auto add_element = [&]<ListedObject T>(const T&) {
    add_words(element_table<T>().fields, /*aliases=*/false, here);
    add_words(element_table<T>().fields, /*aliases=*/true, aliases);
  };
  if (section.ends_with("[]")) {
    const Field<RunConfig>* list = find_field(section.substr(0, section.size() - 2));
    QAT_CHECK(list != nullptr && with_element(*list, add_element), section + " is an element of a list of objects");
  } else {
    here = words_of_section(section);
    add_words(run_fields(), /*aliases=*/false, keys);
    add_words(run_fields(), /*aliases=*/true, aliases);
  }
  // A key's exact name in another section says more than a similar name here; another program's name for it comes next.
  if (has_exactly(keys, unknown)) return nearest_of(keys, unknown);
  if (has_exactly(aliases, unknown)) return nearest_of(aliases, unknown);
  for (const auto* words : {&here, &keys, &aliases}) {
    if (std::string text = nearest_of(*words, unknown); !text.empty()) return text;
  }
  std::vector<std::string> names;
  for (const Word& word : here) names.push_back(word.word);
  return fmt::format("known here: {}", fmt::join(names, ", "));
}

}  // namespace qat
