#include "dist/pipeline/timeline.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <map>
#include <set>
#include <tuple>
#include <utility>

namespace qat::dist {
namespace {

// Nanoseconds are enough; with a point, whatever the locale.
std::string microseconds(double value) {
  std::array<char, 64> text{};
  const auto end = std::to_chars(text.data(), text.data() + text.size(), value, std::chars_format::fixed, 3);
  return {text.data(), end.ptr};
}

bool is_pass(const PipelineAction& action) { return !is_transfer(action.kind); }

Timeline in_order(Timeline spans) {
  const auto key = [](const TimelineSpan& s) {
    return std::tuple(s.rank, s.begin_us, s.end_us, s.action.kind, s.action.micro_batch, s.action.chunk);
  };
  std::sort(spans.begin(), spans.end(), [&](const auto& a, const auto& b) { return key(a) < key(b); });
  return spans;
}

// A rank's rows, from the top.
struct Row {
  int number;
  const char* name;
};
Row row_of(ActionKind kind) {
  switch (kind) {
    case ActionKind::kForward:
    case ActionKind::kBackward:
      return {0, "passes"};
    case ActionKind::kReceiveForward:
      return {1, to_text(kind)};
    case ActionKind::kSendForward:
      return {2, to_text(kind)};
    case ActionKind::kReceiveBackward:
      return {3, to_text(kind)};
    case ActionKind::kSendBackward:
      return {4, to_text(kind)};
  }
  return {0, ""};
}

std::string label(const PipelineAction& action) {
  const bool forward = action.kind == ActionKind::kForward || action.kind == ActionKind::kSendForward ||
                       action.kind == ActionKind::kReceiveForward;
  std::string text = (forward ? "F" : "B") + std::to_string(action.micro_batch);
  return action.chunk == 0 ? text : text + "." + std::to_string(action.chunk);
}

// A line that names a process or a row, or puts it in its place.
std::string metadata(const char* what, int rank, int row, const std::string& args) {
  return std::string(R"({"ph":"M","name":")") + what + R"(","pid":)" + std::to_string(rank) + R"(,"tid":)" +
         std::to_string(row) + R"(,"args":{)" + args + "}}";
}

}  // namespace

std::vector<RankUse> rank_use(const Timeline& timeline) {
  std::map<int, RankUse> ranks;
  double begin = 0.0;
  double end = 0.0;
  bool any = false;
  for (const TimelineSpan& span : timeline) {
    RankUse& use = ranks[span.rank];
    use.rank = span.rank;
    if (!is_pass(span.action)) continue;
    (span.action.kind == ActionKind::kForward ? use.forward_us : use.backward_us) += span.end_us - span.begin_us;
    begin = any ? std::min(begin, span.begin_us) : span.begin_us;
    end = any ? std::max(end, span.end_us) : span.end_us;
    any = true;
  }
  std::vector<RankUse> uses;
  for (auto& [rank, use] : ranks) {
    use.idle_us = std::max(0.0, end - begin - use.forward_us - use.backward_us);
    use.idle_share = end > begin ? use.idle_us / (end - begin) : 0.0;
    uses.push_back(use);
  }
  return uses;
}

std::string to_csv(const Timeline& timeline) {
  std::string text = "rank,action,micro_batch,chunk,begin_us,end_us\n";
  for (const TimelineSpan& span : in_order(timeline))
    text += std::to_string(span.rank) + "," + to_text(span.action.kind) + "," +
            std::to_string(span.action.micro_batch) + "," + std::to_string(span.action.chunk) + "," +
            microseconds(span.begin_us) + "," + microseconds(span.end_us) + "\n";
  return text;
}

std::string to_chrome_trace(const Timeline& timeline) {
  std::vector<std::string> events;
  std::set<int> ranks;
  std::set<std::pair<int, int>> rows;
  const Timeline spans = in_order(timeline);
  for (const TimelineSpan& span : spans) {
    const Row row = row_of(span.action.kind);
    const std::string rank = std::to_string(span.rank);
    if (ranks.insert(span.rank).second) {
      events.push_back(metadata("process_name", span.rank, 0, R"("name":"rank )" + rank + "\""));
      events.push_back(metadata("process_sort_index", span.rank, 0, R"("sort_index":)" + rank));
    }
    if (rows.insert({span.rank, row.number}).second) {
      events.push_back(metadata("thread_name", span.rank, row.number, std::string(R"("name":")") + row.name + "\""));
      events.push_back(
          metadata("thread_sort_index", span.rank, row.number, R"("sort_index":)" + std::to_string(row.number)));
    }
  }
  for (const TimelineSpan& span : spans)
    events.push_back(R"({"ph":"X","name":")" + label(span.action) + R"(","cat":")" + to_text(span.action.kind) +
                     R"(","pid":)" + std::to_string(span.rank) + R"(,"tid":)" +
                     std::to_string(row_of(span.action.kind).number) + R"(,"ts":)" + microseconds(span.begin_us) +
                     R"(,"dur":)" + microseconds(span.end_us - span.begin_us) + R"(,"args":{"micro_batch":)" +
                     std::to_string(span.action.micro_batch) + R"(,"chunk":)" + std::to_string(span.action.chunk) +
                     "}}");
  std::string text = R"({"displayTimeUnit":"ms","traceEvents":[)";
  for (std::size_t i = 0; i < events.size(); ++i) text += (i == 0 ? "\n" : ",\n") + events[i];
  return text + "\n]}\n";
}

}  // namespace qat::dist
