#include "src/data/split_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "kernels/common/error.h"
#include "src/text/tokenizer.h"

namespace qat {
namespace {

constexpr int kLargestByteId = ByteTokenizer::kVocabSize - 1;

int largest_id(const SplitIdentity& split) {
  int largest = 0;
  for (const SegmentIdentity& segment : split) largest = std::max(largest, segment.content.largest_id);
  return largest;
}

std::int64_t total_tokens(const SplitIdentity& split) {
  std::int64_t total = 0;
  for (const SegmentIdentity& segment : split) total += segment.tokens;
  return total;
}

bool same_text(const TokenSource::Segment& a, const TokenSource::Segment& b) {
  if (a.file && b.file && a.file->is_file_of(*b.file)) return true;
  return a.tokens == b.tokens && a.content && a.content == b.content;
}

// "a.bin", or "a.bin (as b.bin)" where the other split calls it so; the first of many.
class Names {
 public:
  void add(const std::string& name, const std::string& also) {
    if (++count_ <= kMost) text_ += (text_.empty() ? "" : ", ") + name + (also == name ? "" : " (as " + also + ")");
  }
  bool empty() const { return count_ == 0; }
  std::string text() const { return count_ > kMost ? fmt::format("{} and {} more", text_, count_ - kMost) : text_; }

 private:
  static constexpr int kMost = 4;
  std::string text_;
  int count_ = 0;
};

}  // namespace

std::vector<std::string> check_same_ids(const DataConfig& config, const SplitIdentity& train,
                                        const SplitIdentity& val) {
  const std::vector<std::string> builtin = {"builtin"};
  const bool builtin_train = config.train == builtin, builtin_val = config.val == builtin;
  const int of_train = largest_id(train), of_val = largest_id(val);
  const std::string bytes = fmt::format("[\"builtin\"], text as bytes with ids up to {}", kLargestByteId);
  if (builtin_val && !builtin_train && of_train > kLargestByteId)
    throw Error(ErrorKind::kConfig,
                fmt::format("data.val is {}, but the files of data.train have ids up to {}: the model would be scored "
                            "on ids of another tokenizer. Set data.val to held-out token files of the same tokenizer "
                            "(`qat_dist tokenize` makes them beside the training files)",
                            bytes, of_train));
  if (builtin_train && !builtin_val && of_val > kLargestByteId)
    throw Error(ErrorKind::kConfig,
                fmt::format("data.train is {}, but the files of data.val have ids up to {}: the model would be scored "
                            "on ids of another tokenizer. Set data.train to training files of the same tokenizer, or "
                            "data.val to [\"builtin\"] too",
                            bytes, of_val));
  // So many tokens of a larger vocabulary would hold a larger id.
  constexpr std::int64_t kTelling = 1000;
  for (const auto& [key, split, largest, other_key, other] :
       {std::tuple("data.val", &val, of_val, "data.train", of_train),
        std::tuple("data.train", &train, of_train, "data.val", of_val)})
    if (largest <= kLargestByteId && other > kLargestByteId && total_tokens(*split) >= kTelling)
      return {
          fmt::format("{} has no id above {}, as text tokenized as bytes, and {} has ids up to {}: were they made by "
                      "the same tokenizer?",
                      key, largest, other_key, other)};
  return {};
}

std::vector<std::string> find_overlaps(const TokenSource& train, const TokenSource& val) {
  std::vector<std::string> lines;
  Names common;
  for (const TokenSource::Segment& held_out : val.segments()) {
    const auto same = std::find_if(train.segments().begin(), train.segments().end(),
                                   [&](const TokenSource::Segment& s) { return same_text(held_out, s); });
    if (same != train.segments().end()) common.add(held_out.name, same->name);
  }
  if (!common.empty())
    lines.push_back(
        fmt::format("data.val has {} in common with data.train: held-out perplexity will be too good", common.text()));
  for (const auto& [key, source] : {std::pair("data.train", &train), std::pair("data.val", &val)}) {
    Names twice;
    const auto& segments = source->segments();
    for (std::size_t i = 1; i < segments.size(); ++i) {
      const auto end = segments.begin() + static_cast<std::ptrdiff_t>(i);
      const auto same = std::find_if(segments.begin(), end, [&](const auto& s) { return same_text(segments[i], s); });
      if (same != end) twice.add(segments[i].name, same->name);
    }
    if (!twice.empty()) lines.push_back(fmt::format("{} holds the same tokens twice: {}", key, twice.text()));
  }
  return lines;
}

}  // namespace qat
