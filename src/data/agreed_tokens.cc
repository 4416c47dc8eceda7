#include "src/data/agreed_tokens.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <optional>
#include <span>

#include "dist/comm/agree.h"
#include "src/data/data_identity.h"

namespace qat {
namespace {

const char* name_of(Split split) { return split == Split::kTrain ? "training tokens" : "held-out tokens"; }

std::vector<std::int64_t> gather(std::int64_t mine, dist::Communicator& comm) {
  const std::vector<std::int64_t> own = {mine};
  std::vector<std::int64_t> all(static_cast<std::size_t>(comm.size()));
  comm.all_gather(view(own), view(all));
  return all;
}

std::int64_t hash_of(const std::string& text) {
  return std::bit_cast<std::int64_t>(std::uint64_t{XXH3_64bits(text.data(), text.size())});
}

// Equal for ranks that have the very same files open.
std::int64_t view_of(const TokenSource& source, const std::string& host) {
  std::string text = host;
  for (const TokenSource::Segment& segment : source.segments()) {
    if (segment.file) {
      const FileStamp& file = *segment.file;
      text += fmt::format("\nfile {} {} {} {}", file.device, file.inode, file.bytes, file.changed_ns);
    } else if (segment.content) {
      text += fmt::format("\nmemory {} {}", segment.tokens, segment.content->hash);
    }
  }
  return hash_of(text);
}

// Ranks with this rank's view of the files, ascending.
std::vector<int> ranks_of_view(std::int64_t view, dist::Communicator& comm) {
  const std::vector<std::int64_t> views = gather(view, comm);
  std::vector<int> ranks;
  for (int rank = 0; rank < comm.size(); ++rank)
    if (views[static_cast<std::size_t>(rank)] == view) ranks.push_back(rank);
  return ranks;
}

// Which of `ranks` reads each segment: in order, the one that has least to read so far.
std::vector<int> readers(const TokenSource& source, const std::vector<int>& ranks) {
  std::vector<std::int64_t> load(ranks.size());
  std::vector<int> reader;
  for (const TokenSource::Segment& segment : source.segments()) {
    const auto least = std::min_element(load.begin(), load.end());
    *least += segment.tokens;
    reader.push_back(ranks[static_cast<std::size_t>(least - load.begin())]);
  }
  return reader;
}

// What one rank has read, as numbers: hash and largest id of each segment.
constexpr std::size_t kWords = 2;

// Fills in the content of every segment. Errors are thrown on every rank, as of all ranks that see the file.
void read_together(TokenSource& source, Split split, int vocab_size, const std::string& host,
                   dist::Communicator& comm) {
  const std::vector<int> peers = ranks_of_view(view_of(source, host), comm);
  const std::vector<int> reader = readers(source, peers);
  const std::vector<std::int64_t> counts = gather(std::ssize(source.segments()), comm);
  const auto stride = kWords * static_cast<std::size_t>(*std::max_element(counts.begin(), counts.end()));
  std::vector<std::int64_t> mine(stride), all(stride * static_cast<std::size_t>(comm.size()));
  std::string problem;
  try {
    for (std::size_t i = 0; i < reader.size(); ++i) {
      if (reader[i] != comm.rank()) continue;
      const TokenContent content = source.scan(i, vocab_size);
      mine[kWords * i] = std::bit_cast<std::int64_t>(content.hash);
      mine[kWords * i + 1] = content.largest_id;
    }
  } catch (const Error& error) {
    problem = error.what();
  }
  const std::vector<std::string> problems = dist::gather_strings(comm, problem);
  dist::on_every_rank(comm, name_of(split), [&] {
    for (const int rank : peers)
      if (const std::string& text = problems[static_cast<std::size_t>(rank)]; !text.empty())
        throw Error(ErrorKind::kData, text);
  });
  comm.all_gather(view(mine), view(all));
  for (std::size_t i = 0; i < reader.size(); ++i) {
    const std::size_t at = stride * static_cast<std::size_t>(reader[i]) + kWords * i;
    source.set_content(i, {.hash = std::bit_cast<std::uint64_t>(all[at]), .largest_id = static_cast<int>(all[at + 1])});
  }
}

void require_same_tokens(const TokenSource& source, Split split, dist::Communicator& comm) {
  DataIdentity mine;
  mine.train = identity_of(source);
  std::string content;
  for (const SegmentIdentity& segment : mine.train)
    content += fmt::format("{} {:016x}\n", segment.tokens, segment.content.hash);
  const std::vector<std::int64_t> hashes = gather(hash_of(content), comm);
  std::vector<int> different;
  for (int rank = 1; rank < comm.size(); ++rank)
    if (hashes[static_cast<std::size_t>(rank)] != hashes[0]) different.push_back(rank);
  if (different.empty()) return;
  const std::vector<std::string> all = dist::gather_strings(comm, to_json(mine));
  const auto tokens_of = [&](int rank) {
    return parse_data_identity(all[static_cast<std::size_t>(rank)], dist::name_ranks({rank})).train;
  };
  const std::string there = "on " + dist::name_ranks({different.front()});
  const auto changes = describe_changes(
      tokens_of(0), tokens_of(different.front()),
      {.before = "on rank 0", .after = there, .missing = "is not there " + there, .added = "is there only " + there});
  throw dist::AgreedError(
      ErrorKind::kData,
      fmt::format("the {} are not the same on all ranks: {} {} from rank 0\n  {}\nevery rank must see the same files; "
                  "are they on a disk that all hosts share, or copied to all of them?",
                  name_of(split), dist::name_ranks(different), different.size() == 1 ? "differs" : "differ",
                  fmt::join(changes, "\n  ")));
}

}  // namespace

TokenSource open_agreed_tokens(const std::vector<std::string>& patterns, Split split, int vocab_size,
                               const std::string& host, dist::Communicator& comm, const std::string& named_by) {
  TokenSource source;
  dist::on_every_rank(comm, name_of(split), [&] { source = open_tokens(patterns, split, named_by); });
  read_together(source, split, vocab_size, host, comm);
  require_same_tokens(source, split, comm);
  return source;
}

}  // namespace qat
