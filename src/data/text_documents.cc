#include "src/data/text_documents.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <optional>
#include <utility>

#include "src/data/text_check.h"
#include "src/data/tokenize_inputs.h"

namespace qat {
namespace {

bool is_regular(const std::string& path) {
  struct stat status {};
  return (path == "-" ? ::fstat(STDIN_FILENO, &status) : ::stat(path.c_str(), &status)) == 0 && S_ISREG(status.st_mode);
}

// A path as it is typed in a shell.
std::string in_shell(const std::string& path) {
  const auto plain = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 ||
           std::string_view("/._-+=:,@%").find(c) != std::string_view::npos;
  };
  if (std::all_of(path.begin(), path.end(), plain)) return path;
  std::string out = "'";
  for (const char c : path) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

// "a.gz looks like gzip data: `zcat a.gz | qat_dist tokenize - ...`".
std::string described(const std::string& path, const NotText& found) {
  const std::string name = path == "-" ? "standard input" : path;
  if (found.filter.empty()) return fmt::format("{} {}: {}", name, found.what, found.advice);
  return fmt::format("{} {}: `{} | qat_dist tokenize - ...`", name, found.what,
                     path == "-" ? "... | " + found.filter : found.filter + " " + in_shell(path));
}

[[noreturn]] void refuse(const std::vector<std::string>& found, std::size_t inputs) {
  refuse_all(ErrorKind::kData, fmt::format("tokenize: {} of {} inputs are not UTF-8 text", found.size(), inputs), found,
             "(to tokenize the bytes as they are: --allow-binary)");
}

// Refuses a document that is read from a pipe, as its bytes come by.
class PipeCheck {
 public:
  explicit PipeCheck(std::string path) : path_(std::move(path)) {}
  void operator()(std::string_view bytes) {  // empty at the end
    check_.feed(bytes);
    if (bytes.empty()) {
      refuse_if(check_.verdict());
    } else if (std::exchange(at_start_, false)) {
      refuse_if(check_.starts_as());
    }
  }

 private:
  void refuse_if(const std::optional<NotText>& found) const {
    if (found) refuse({described(path_, *found)}, 1);
  }

  std::string path_;
  TextCheck check_;
  bool at_start_ = true;
};

}  // namespace

std::unique_ptr<DocumentReader> Document::open() {
  if (copy) return std::move(copy);
  auto reader = std::make_unique<DocumentReader>(path, bytes);
  if (text_only && bytes == DocumentReader::kUnknown) reader->observe(PipeCheck(path));
  return reader;
}

std::vector<Document> check_documents(const std::vector<std::string>& paths, const DocumentCheck& options) {
  std::vector<Document> documents;
  std::vector<std::string> not_text;
  for (const std::string& path : paths) {
    Document& document = documents.emplace_back(Document{.path = path, .text_only = options.text_only});
    // Opening a pipe here, to read it later, could wait for a writer who waits for an earlier one to be read.
    if (!is_regular(path) && !options.lengths) continue;
    auto reader = std::make_unique<DocumentReader>(path);
    if (!reader->is_sized()) {
      if (!options.lengths) continue;
      if (options.text_only) reader->observe(PipeCheck(path));
      reader->make_sized(options.copies);
      document.bytes = reader->size();
      document.copy = std::move(reader);
      continue;
    }
    document.bytes = reader->size();
    if (!options.text_only) continue;
    TextCheck check;
    reader->scan([&](std::string_view block) { check.feed(block); });
    if (const auto found = check.verdict()) not_text.push_back(described(path, *found));
  }
  if (!not_text.empty()) refuse(not_text, paths.size());
  return documents;
}

}  // namespace qat
