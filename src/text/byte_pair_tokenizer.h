// GPT-2's tokenizer: the text is cut into pieces (pre_tokenizer.h), the bytes of each piece are merged pair by pair
// (byte_pair_merger.h). Text that is not UTF-8 is encoded too, byte by byte and then merged as any other, and decodes
// to the same bytes.
//
// Speed: most pieces are common words, so their ids are kept in a fixed-size cache; memory does not grow with the text.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "src/text/byte_pair_merger.h"
#include "src/text/byte_pair_vocabulary.h"
#include "src/text/tokenizer.h"

namespace qat {

class BytePairTokenizer final : public Tokenizer {
 public:
  explicit BytePairTokenizer(BytePairVocabulary vocabulary);
  ~BytePairTokenizer() override;
  BytePairTokenizer(BytePairTokenizer&&) noexcept;

  // vocab_path may be empty: ids follow from the merges; where it is given, it is compared with them. kData errors.
  static BytePairTokenizer load(const std::string& merges_path, const std::string& vocab_path = {});

  int vocab_size() const override { return vocabulary_.size(); }
  int end_of_text() const override { return vocabulary_.end_of_text(); }
  std::string name() const override { return "gpt2"; }

 protected:
  void encode_plain(std::string_view text, std::vector<int>& out) const override;
  std::string_view token_bytes(int id) const override { return vocabulary_.tokens[static_cast<std::size_t>(id)]; }

 private:
  // What a running encode writes: the cache of pieces. A call takes an idle one, or makes one, and gives it back, so
  // calls on different threads share nothing they write.
  struct Workspace;
  struct WorkspacePool;

  BytePairVocabulary vocabulary_;
  BytePairMerger merger_;
  std::unique_ptr<WorkspacePool> pool_;
};

}  // namespace qat
