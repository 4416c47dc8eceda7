// A tiny byte-pair vocabulary trained on the spot, and GPT-2's merge loop written as its authors did: the reference.
#pragma once

#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "src/text/byte_pair_vocabulary.h"

namespace qat::testing {

using Parts = std::vector<std::string>;

// Merges every `first` `second` from left to right.
inline Parts merge_all(const Parts& parts, const std::string& first, const std::string& second) {
  Parts merged;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    if (i + 1 < parts.size() && parts[i] == first && parts[i + 1] == second) {
      merged.push_back(first + second);
      ++i;
    } else {
      merged.push_back(parts[i]);
    }
  }
  return merged;
}

inline Parts bytes_of(std::string_view text) {
  Parts parts;
  for (const char c : text) parts.emplace_back(1, c);
  return parts;
}

// The most frequent pair that makes a new token, `count` times over; ties to the smaller. Text of printable ASCII.
inline std::string train_merges(std::string_view text, int count) {
  Parts parts = bytes_of(text);
  std::map<std::string, bool> known;
  std::string file = "#version: 0.2\n";
  for (int i = 0; i < count; ++i) {
    std::map<std::pair<std::string, std::string>, int> counts;
    for (std::size_t j = 0; j + 1 < parts.size(); ++j) {
      if (!known.contains(parts[j] + parts[j + 1])) ++counts[{parts[j], parts[j + 1]}];
    }
    if (counts.empty()) break;
    auto best = counts.begin();
    for (auto it = counts.begin(); it != counts.end(); ++it) best = it->second > best->second ? it : best;
    const auto [first, second] = best->first;
    known[first + second] = true;
    file += first + " " + second + "\n";
    parts = merge_all(parts, first, second);
  }
  return file;
}

// encoder.py's bpe(): find the pair of lowest rank anywhere, merge it everywhere, repeat.
inline std::vector<int> reference_merge(std::string_view piece, const BytePairVocabulary& vocabulary) {
  std::map<std::pair<std::string, std::string>, std::size_t> ranks;
  std::map<std::string, int> ids;
  for (std::size_t r = 0; r < vocabulary.merges.size(); ++r) {
    const auto token = [&](std::int32_t id) { return vocabulary.tokens[static_cast<std::size_t>(id)]; };
    ranks[{token(vocabulary.merges[r].left), token(vocabulary.merges[r].right)}] = r;
  }
  for (std::size_t id = 0; id < vocabulary.tokens.size(); ++id) ids[vocabulary.tokens[id]] = static_cast<int>(id);
  Parts parts = bytes_of(piece);
  while (true) {
    auto best = ranks.end();
    for (std::size_t i = 0; i + 1 < parts.size(); ++i) {
      const auto found = ranks.find({parts[i], parts[i + 1]});
      if (found != ranks.end() && (best == ranks.end() || found->second < best->second)) best = found;
    }
    if (best == ranks.end()) break;
    parts = merge_all(parts, best->first.first, best->first.second);
  }
  std::vector<int> out;
  for (const std::string& part : parts) out.push_back(ids.at(part));
  return out;
}

inline std::string random_text(std::mt19937& random, std::string_view alphabet, std::size_t length) {
  std::string text;
  for (std::size_t i = 0; i < length; ++i) text.push_back(alphabet[random() % alphabet.size()]);
  return text;
}

}  // namespace qat::testing
