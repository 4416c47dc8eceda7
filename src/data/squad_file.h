// Questions on texts, as the SQuAD files of versions 1.1 and 2.0 have them (Rajpurkar et al., 2016, arXiv:1606.05250;
// 2018, arXiv:1806.03822): an answer is a part of its context. Places in a file are in characters (code points); here
// they are in bytes of UTF-8.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace qat {

struct ByteRange {
  std::size_t begin = 0;
  std::size_t end = 0;  // behind the last one

  std::size_t size() const { return end - begin; }
  friend bool operator==(const ByteRange&, const ByteRange&) = default;
};

struct SquadQuestion {
  std::string id;
  std::string text;
  std::size_t context = 0;         // in SquadData::contexts
  std::vector<ByteRange> answers;  // in the context, in the order of the file; none: the text does not answer it
};

struct SquadData {
  struct File {
    std::string name;
    std::size_t first_question = 0;
  };
  std::vector<std::string> contexts;
  std::vector<SquadQuestion> questions;
  std::vector<File> files;
  bool may_be_unanswerable = false;  // version 2.0: a question says whether it is

  std::string_view answer(const SquadQuestion& question, const ByteRange& range) const {
    return std::string_view(contexts[question.context]).substr(range.begin, range.size());
  }
};

// Adds a file's questions. Throws kData, naming the file, the line and the question, for whatever is not as SQuAD has
// it: other JSON, an answer that does not stand at its place in the context, an id that `data` has already.
void add_squad_file(const std::string& path, SquadData& data);

// What data.train or data.val (`key`) names: files and globs, each file once, with at least one question.
SquadData open_squad(const std::vector<std::string>& patterns, std::string_view key);

}  // namespace qat
