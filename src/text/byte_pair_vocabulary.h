// The vocabulary of a byte-pair tokenizer, read from the two files that GPT-2 is published with.
//
// merges.txt: an optional first line "#version: ...", then one merge a line, "LEFT RIGHT", best first. vocab.json: an
// object {token: id}. Both write a token's bytes as printable characters (GPT-2's bytes_to_unicode): the 188 printable
// Latin-1 bytes stand for themselves, the other 68, in order, for U+0100, U+0101, ...; a space is U+0120.
//
// Ids follow from the merges alone: the 256 bytes in the order above (printable ones first), then one per merge, then
// <|endoftext|>. vocab.json says the same again, so it is only compared.
//
// Every error is kData and names the file and the line (or, for vocab.json, the token). Memory is a small multiple of
// the file, whatever it holds.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace qat {

struct Merge {
  std::int32_t left;   // ids of the two parts; both below the id of the merge
  std::int32_t right;  //
};

struct BytePairVocabulary {
  std::vector<std::string> tokens;  // the bytes of ids 0 .. 256 + merges.size() - 1
  std::vector<Merge> merges;        // merge r makes token 256 + r

  int end_of_text() const { return static_cast<int>(tokens.size()); }
  int size() const { return static_cast<int>(tokens.size()) + 1; }
};

// The id of a byte value, and back: a permutation of 0..255.
std::int32_t id_of_byte(unsigned char byte);

// `path` is only for messages.
BytePairVocabulary parse_merges(std::string_view content, const std::string& path);
void check_vocab_json(std::string_view content, const std::string& path, const BytePairVocabulary& vocabulary);

// vocab_path may be empty.
BytePairVocabulary load_vocabulary(const std::string& merges_path, const std::string& vocab_path);

}  // namespace qat
