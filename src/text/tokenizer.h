// Text to token ids and back.
//
// Text is bytes; nothing is normalised, so decode(encode(x)) == x for every byte string: CRLF, NULs, emoji and invalid
// UTF-8 included. How a tokenizer treats bytes that are not UTF-8 is said at its class.
//
// `<|endoftext|>` in a text is plain text, so that nobody's document can end itself; with EncodeOptions::allow_special
// it becomes the one special token, end_of_text(), and what stands on its two sides is encoded separately. Both forms
// decode to the same bytes.
//
// Objects do not change after construction: any number of threads may use one.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace qat {

inline constexpr std::string_view kEndOfText = "<|endoftext|>";

struct EncodeOptions {
  bool allow_special = false;
};

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  std::vector<int> encode(std::string_view text, EncodeOptions options = {}) const;
  // Appends to `out`.
  void encode_to(std::string_view text, std::vector<int>& out, EncodeOptions options = {}) const;

  // Throws kData for an id outside [0, vocab_size()).
  std::string decode(std::span<const int> ids) const;
  // Where the bytes of each token end in what decode() makes of them; the same error.
  std::vector<std::size_t> token_ends(std::span<const int> ids) const;

  virtual int vocab_size() const = 0;  // ids are 0 .. vocab_size() - 1, end_of_text() included
  virtual int end_of_text() const = 0;
  virtual std::string name() const = 0;

 protected:
  // Appends the ids of a text without special tokens.
  virtual void encode_plain(std::string_view text, std::vector<int>& out) const = 0;
  // The bytes of one id in range.
  virtual std::string_view token_bytes(int id) const = 0;

 private:
  std::string_view decoded(int id) const;
};

// A token per byte: ids 0..255 are the byte values, 256 is <|endoftext|>. Needs no files.
class ByteTokenizer final : public Tokenizer {
 public:
  static constexpr int kVocabSize = 257;
  static constexpr int kEndOfTextId = 256;

  int vocab_size() const override { return kVocabSize; }
  int end_of_text() const override { return kEndOfTextId; }
  std::string name() const override { return "byte"; }

 protected:
  void encode_plain(std::string_view text, std::vector<int>& out) const override;
  std::string_view token_bytes(int id) const override;
};

// `kind` is "byte" or "gpt2"; the latter needs merges_path (vocab_path may be empty). kConfig errors otherwise.
std::unique_ptr<Tokenizer> make_tokenizer(const std::string& kind, const std::string& merges_path,
                                          const std::string& vocab_path);

}  // namespace qat
