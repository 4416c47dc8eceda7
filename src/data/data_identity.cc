#include "src/data/data_identity.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <optional>

#include "kernels/common/error.h"
#include "src/base/json.h"

namespace qat {
namespace {

constexpr std::int64_t kVersion = 1;
constexpr std::size_t kMostLines = 8;  // of one comparison

std::string what_it_holds(const SegmentIdentity& segment) {
  return fmt::format("{} tokens, XXH3 {:016x}", segment.tokens, segment.content.hash);
}

Value to_value(const SplitIdentity& split) {
  Value list = Value::array();
  for (const SegmentIdentity& segment : split)
    list.push_back(Value::object({{"file", segment.file},
                                  {"tokens", segment.tokens},
                                  {"largest_id", segment.content.largest_id},
                                  {"xxh3", fmt::format("{:016x}", segment.content.hash)}}));
  return list;
}

SplitIdentity to_split(const Value& list, const std::string& source) {
  SplitIdentity split;
  for (const Value& item : list.as_array()) {
    SegmentIdentity segment{.file = item.at("file").as_string(), .tokens = item.at("tokens").as_int(), .content = {}};
    segment.content.largest_id = static_cast<int>(item.at("largest_id").as_int());
    const std::string& hex = item.at("xxh3").as_string();
    const auto [end, status] = std::from_chars(hex.data(), hex.data() + hex.size(), segment.content.hash, 16);
    if (status != std::errc{} || end != hex.data() + hex.size())
      throw Error(ErrorKind::kCheckpoint, fmt::format("{}: \"xxh3\" is \"{}\", expected 16 digits", source, hex));
    split.push_back(std::move(segment));
  }
  return split;
}

// The segments of one list with their counterparts in another: the same tokens of the same name, then the same tokens,
// then the same name.
class Matching {
 public:
  Matching(const SplitIdentity& before, const SplitIdentity& after)
      : before_(before),
        after_(after),
        names_before_(base_names(before)),
        names_after_(base_names(after)),
        counterpart_(before.size()),
        taken_(after.size(), false) {
    const auto tokens = [&](std::size_t i, std::size_t j) { return before[i].same_tokens(after[j]); };
    const auto name = [&](std::size_t i, std::size_t j) { return names_before_[i] == names_after_[j]; };
    match([&](std::size_t i, std::size_t j) { return tokens(i, j) && name(i, j); });
    match(tokens);
    match(name);
  }

  std::vector<std::string> lines(const Sides& sides) const {
    std::vector<std::string> lines;
    std::optional<std::size_t> last;  // of `before`, that has a counterpart
    bool in_order = true;
    for (std::size_t i = 0; i < before_.size(); ++i) {
      const std::string& name = names_before_[i];
      if (!counterpart_[i]) {
        lines.push_back(fmt::format("{} {} ({})", name, sides.missing, what_it_holds(before_[i])));
        continue;
      }
      const SegmentIdentity& now = after_[*counterpart_[i]];
      if (!before_[i].same_tokens(now))
        lines.push_back(fmt::format("{} has other content: {} {}; {} {}", name, what_it_holds(before_[i]), sides.before,
                                    what_it_holds(now), sides.after));
      if (in_order && last && *counterpart_[*last] > *counterpart_[i]) {
        in_order = false;
        lines.push_back(fmt::format("the order is another: {} stands before {} {}, and after it {}",
                                    names_before_[*last], name, sides.before, sides.after));
      }
      last = i;
    }
    for (std::size_t j = 0; j < after_.size(); ++j)
      if (!taken_[j])
        lines.push_back(fmt::format("{} {} ({})", names_after_[j], sides.added, what_it_holds(after_[j])));
    return lines;
  }

 private:
  static std::vector<std::string> base_names(const SplitIdentity& split) {
    std::vector<std::string> names;
    for (const SegmentIdentity& segment : split)
      names.push_back(std::filesystem::path(segment.file).filename().string());
    return names;
  }
  template <typename Fits>
  void match(const Fits& fits) {
    for (std::size_t i = 0; i < before_.size(); ++i) {
      for (std::size_t j = 0; j < after_.size() && !counterpart_[i]; ++j) {
        if (taken_[j] || !fits(i, j)) continue;
        counterpart_[i] = j;
        taken_[j] = true;
      }
    }
  }

  const SplitIdentity& before_;
  const SplitIdentity& after_;
  std::vector<std::string> names_before_, names_after_;
  std::vector<std::optional<std::size_t>> counterpart_;  // of a segment of `before`: its place in `after`
  std::vector<bool> taken_;                              // which of `after` are counterparts
};

std::vector<std::string> changes_since_checkpoint(const SplitIdentity& saved, const SplitIdentity& now) {
  return describe_changes(saved, now,
                          {.before = "in the checkpoint", .after = "now", .missing = "is missing", .added = "is new"});
}

}  // namespace

SplitIdentity identity_of(const TokenSource& source) {
  SplitIdentity split;
  for (const TokenSource::Segment& segment : source.segments()) {
    QAT_CHECK(segment.content.has_value(), "tokens are identified after all of them were read");
    split.push_back({.file = segment.name, .tokens = segment.tokens, .content = *segment.content});
  }
  return split;
}

std::string to_json(const DataIdentity& identity) {
  return to_json(
      Value::object({{"version", kVersion}, {"train", to_value(identity.train)}, {"val", to_value(identity.val)}}));
}

DataIdentity parse_data_identity(std::string_view json, const std::string& source) {
  const Value root = parse_json(json, source, ErrorKind::kCheckpoint);
  if (const std::int64_t version = root.at("version").as_int(); version != kVersion)
    throw Error(ErrorKind::kCheckpoint,
                fmt::format("{} is of version {}, this program reads version {}: use the program that wrote it, or a "
                            "newer one",
                            source, version, kVersion));
  return {.train = to_split(root.at("train"), source), .val = to_split(root.at("val"), source)};
}

std::vector<std::string> describe_changes(const SplitIdentity& before, const SplitIdentity& after, const Sides& sides) {
  const bool same = std::equal(before.begin(), before.end(), after.begin(), after.end(),
                               [](const auto& a, const auto& b) { return a.same_tokens(b); });
  if (same) return {};
  std::vector<std::string> lines = Matching(before, after).lines(sides);
  if (lines.size() > kMostLines) {
    const std::size_t more = lines.size() - kMostLines;
    lines.resize(kMostLines);
    lines.push_back(fmt::format("and {} more difference{}", more, more == 1 ? "" : "s"));
  }
  return lines;
}

std::vector<std::string> check_resumed_data(std::string_view saved_json, const DataIdentity& now, bool allow_change) {
  if (saved_json.empty())
    return {
        "the checkpoint is of an older version of this program and does not say which tokens it was trained on: "
        "they are not compared with data.train and data.val"};
  const DataIdentity saved = parse_data_identity(saved_json, "the checkpoint's list of token files");
  std::vector<std::string> log;
  if (const auto changes = changes_since_checkpoint(saved.train, now.train); !changes.empty()) {
    const std::string what =
        fmt::format("data.train is not what the checkpoint was trained on:\n  {}", fmt::join(changes, "\n  "));
    if (!allow_change)
      throw Error(ErrorKind::kData,
                  what +
                      "\nput the files back as they were, give the run another run.dir, or set data.allow_change to "
                      "true to go on with these tokens");
    log.push_back(what);
  }
  if (std::string change = held_out_change(saved.val, now.val); !change.empty()) log.push_back(std::move(change));
  return log;
}

std::string held_out_change(const SplitIdentity& saved, const SplitIdentity& now) {
  const auto changes = changes_since_checkpoint(saved, now);
  if (changes.empty()) return {};
  return fmt::format(
      "data.val is not what it was up to the checkpoint; held-out perplexities before and after cannot be "
      "compared:\n  {}",
      fmt::join(changes, "\n  "));
}

}  // namespace qat
