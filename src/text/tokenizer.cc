#include "src/text/tokenizer.h"

#include <fmt/format.h>

#include <array>

#include "kernels/common/error.h"
#include "src/text/byte_pair_tokenizer.h"

namespace qat {

std::vector<int> Tokenizer::encode(std::string_view text, EncodeOptions options) const {
  std::vector<int> ids;
  encode_to(text, ids, options);
  return ids;
}

void Tokenizer::encode_to(std::string_view text, std::vector<int>& out, EncodeOptions options) const {
  if (options.allow_special) {
    for (std::size_t at = text.find(kEndOfText); at != std::string_view::npos; at = text.find(kEndOfText)) {
      encode_plain(text.substr(0, at), out);
      out.push_back(end_of_text());
      text.remove_prefix(at + kEndOfText.size());
    }
  }
  encode_plain(text, out);
}

std::string_view Tokenizer::decoded(int id) const {
  if (id < 0 || id >= vocab_size()) {
    throw Error(ErrorKind::kData, fmt::format("token id {} cannot be decoded: the {} tokenizer has ids 0 to {}", id,
                                              name(), vocab_size() - 1));
  }
  return id == end_of_text() ? kEndOfText : token_bytes(id);
}

std::string Tokenizer::decode(std::span<const int> ids) const {
  std::string text;
  for (const int id : ids) text += decoded(id);
  return text;
}

std::vector<std::size_t> Tokenizer::token_ends(std::span<const int> ids) const {
  std::vector<std::size_t> ends;
  ends.reserve(ids.size());
  for (const int id : ids) ends.push_back((ends.empty() ? 0 : ends.back()) + decoded(id).size());
  return ends;
}

void ByteTokenizer::encode_plain(std::string_view text, std::vector<int>& out) const {
  out.reserve(out.size() + text.size());
  for (const char c : text) out.push_back(static_cast<unsigned char>(c));
}

std::string_view ByteTokenizer::token_bytes(int id) const {
  static const auto kBytes = [] {
    std::array<char, 256> bytes{};
    for (int i = 0; i < 256; ++i) bytes[static_cast<std::size_t>(i)] = static_cast<char>(i);
    return bytes;
  }();
  return {&kBytes[static_cast<std::size_t>(id)], 1};
}

std::unique_ptr<Tokenizer> make_tokenizer(const std::string& kind, const std::string& merges_path,
                                          const std::string& vocab_path) {
  if (kind == "byte") {
    if (!merges_path.empty() || !vocab_path.empty()) {
      throw Error(ErrorKind::kConfig,
                  "the byte tokenizer takes no merges and no vocabulary: leave them out, or choose the tokenizer gpt2");
    }
    return std::make_unique<ByteTokenizer>();
  }
  if (kind == "gpt2") {
    if (merges_path.empty()) {
      throw Error(ErrorKind::kConfig,
                  "the gpt2 tokenizer needs merges.txt: name the file, or choose the tokenizer byte, which needs none");
    }
    return std::make_unique<BytePairTokenizer>(BytePairTokenizer::load(merges_path, vocab_path));
  }
  throw Error(ErrorKind::kConfig, fmt::format("tokenizer \"{}\" is not known: expected byte or gpt2", kind));
}

}  // namespace qat
