// The documents of a corpus between being named and being encoded: read once to see that they are text and how long
// they are.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "src/data/document_reader.h"

namespace qat {

// Files are opened again to be encoded, so that there may be any number of them.
struct Document {
  std::string path;
  std::int64_t bytes = DocumentReader::kUnknown;   // unknown: it can be read only once, and its length is not wanted
  std::unique_ptr<DocumentReader> copy = nullptr;  // of one that can be read only once, if its length is wanted
  bool text_only = true;                           // refuse it, while it is read, if it has not been checked before

  // The document at its beginning. Once.
  std::unique_ptr<DocumentReader> open();
};

struct DocumentCheck {
  bool text_only = true;  // refuse what is no text (text_check.h)
  bool lengths = true;    // the lengths of all documents are wanted
  std::string copies;     // where to copy what can be read only once: a path to put temporary files beside
};

// Reads the files; all that are no text are one kData error, which says of each what it looks like and how to make text
// of it. What can be read only once is checked as it is copied or, if lengths are not wanted, when the reader that
// open() gave is used: it is refused as soon as its beginning tells, or at its end.
std::vector<Document> check_documents(const std::vector<std::string>& paths, const DocumentCheck& options);

}  // namespace qat
