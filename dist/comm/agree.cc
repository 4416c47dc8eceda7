#include "dist/comm/agree.h"

#include <algorithm>
#include <bit>
#include <cstdio>
#include <span>

namespace qat::dist {
namespace {

// What each rank sends first; fixed size, so that the usual case is one small message.
struct Header {
  std::int64_t ok;
  std::int64_t exit_code;
  std::int64_t hash;
};
constexpr std::int64_t kHeaderWords = 3;

std::vector<Header> gather_headers(Communicator& comm, const RankReport& mine) {
  const std::vector<std::int64_t> own{mine.ok ? 1 : 0, mine.exit_code, std::bit_cast<std::int64_t>(mine.hash)};
  std::vector<std::int64_t> words(static_cast<std::size_t>(comm.size() * kHeaderWords));
  comm.all_gather(view(own), view(words));
  std::vector<Header> headers;
  for (std::size_t i = 0; i < words.size(); i += kHeaderWords)
    headers.push_back({words[i], words[i + 1], words[i + 2]});
  return headers;
}

ErrorKind kind_of(std::int64_t exit_code) {
  const bool known =
      exit_code >= static_cast<int>(ErrorKind::kInternal) && exit_code <= static_cast<int>(ErrorKind::kSelfCheck);
  return known ? static_cast<ErrorKind>(exit_code) : ErrorKind::kInternal;
}

struct Complaint {
  std::string message;
  std::vector<int> ranks;
};

// One line for each different message: "rank 3 only: ...", "ranks 0-6: ..."; nothing but the message if all agree.
std::string describe(const std::vector<Complaint>& complaints, int size) {
  if (complaints.size() == 1 && static_cast<int>(complaints[0].ranks.size()) == size) {
    return complaints[0].message + (size == 1 ? "" : " (on " + name_ranks(complaints[0].ranks) + ")");
  }
  std::string text;
  for (const Complaint& complaint : complaints) {
    if (!text.empty()) text += '\n';
    text += name_ranks(complaint.ranks) + (complaint.ranks.size() == 1 ? " only: " : ": ") + complaint.message;
  }
  return text;
}

[[noreturn]] void throw_complaints(const std::vector<Header>& headers, const std::vector<std::string>& messages) {
  std::vector<Complaint> complaints;
  std::int64_t first_exit_code = 0;
  for (std::size_t rank = 0; rank < headers.size(); ++rank) {
    if (headers[rank].ok != 0) continue;
    if (complaints.empty()) first_exit_code = headers[rank].exit_code;
    const auto same = std::find_if(complaints.begin(), complaints.end(),
                                   [&](const Complaint& c) { return c.message == messages[rank]; });
    if (same == complaints.end())
      complaints.push_back({messages[rank], {static_cast<int>(rank)}});
    else
      same->ranks.push_back(static_cast<int>(rank));
  }
  throw AgreedError(kind_of(first_exit_code), describe(complaints, static_cast<int>(headers.size())));
}

std::string hex(std::int64_t hash) {
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(hash));
  return text;
}

void require_equal_hashes(const std::vector<Header>& headers, std::string_view what) {
  std::vector<int> different;
  for (std::size_t rank = 1; rank < headers.size(); ++rank) {
    if (headers[rank].hash != headers[0].hash) different.push_back(static_cast<int>(rank));
  }
  if (different.empty()) return;
  const std::int64_t theirs = headers[static_cast<std::size_t>(different.front())].hash;
  throw AgreedError(ErrorKind::kConfig,
                    "the " + std::string(what) + " is not the same on all ranks: " + name_ranks(different) +
                        (different.size() == 1 ? " differs" : " differ") + " from rank 0 (hash " + hex(theirs) +
                        " on rank " + std::to_string(different.front()) + ", " + hex(headers[0].hash) +
                        " on rank 0); every rank must be started with the same program, arguments and files");
}

}  // namespace

void agree(Communicator& comm, const RankReport& mine, std::string_view what) {
  const std::vector<Header> headers = gather_headers(comm, mine);
  const bool all_ok = std::all_of(headers.begin(), headers.end(), [](const Header& h) { return h.ok != 0; });
  // Every rank sees the same headers, so all take this branch or none.
  if (!all_ok) throw_complaints(headers, gather_strings(comm, mine.ok ? std::string() : mine.message));
  require_equal_hashes(headers, what);
}

std::vector<std::string> gather_strings(Communicator& comm, const std::string& mine) {
  const auto ranks = static_cast<std::size_t>(comm.size());
  const std::vector<std::int64_t> length{static_cast<std::int64_t>(mine.size())};
  std::vector<std::int64_t> lengths(ranks);
  comm.all_gather(view(length), view(lengths));
  const auto longest = static_cast<std::size_t>(*std::max_element(lengths.begin(), lengths.end()));
  std::vector<std::uint8_t> padded(mine.begin(), mine.end());
  padded.resize(longest);
  std::vector<std::uint8_t> all(longest * ranks);
  comm.all_gather(view(padded), view(all));
  std::vector<std::string> strings;
  for (std::size_t rank = 0; rank < ranks; ++rank) {
    const auto begin = all.begin() + static_cast<std::ptrdiff_t>(rank * longest);
    strings.emplace_back(begin, begin + lengths[rank]);
  }
  return strings;
}

std::string broadcast_string(Communicator& comm, const std::string& mine, int root) {
  std::vector<std::int64_t> length{static_cast<std::int64_t>(mine.size())};
  comm.broadcast(view(length), root);
  std::vector<std::uint8_t> bytes(static_cast<std::size_t>(length[0]));
  if (comm.rank() == root) std::copy(mine.begin(), mine.end(), bytes.begin());
  comm.broadcast(view(bytes), root);
  return {bytes.begin(), bytes.end()};
}

std::string name_ranks(const std::vector<int>& ranks) {
  QAT_CHECK(!ranks.empty(), "no rank to name");
  std::string text = ranks.size() == 1 ? "rank " : "ranks ";
  for (std::size_t i = 0; i < ranks.size();) {
    std::size_t last = i;
    while (last + 1 < ranks.size() && ranks[last + 1] == ranks[last] + 1) ++last;
    if (i > 0) text += ", ";
    text += std::to_string(ranks[i]);
    if (last > i) text += (last == i + 1 ? ", " : "-") + std::to_string(ranks[last]);
    i = last + 1;
  }
  return text;
}

}  // namespace qat::dist
