// Which tokens a run is trained and evaluated on: kept in its checkpoints, compared when it goes on and between ranks.
//
// What counts is the content of the segments and their order: both decide which tokens a sample is. Where files lie
// and what they are called does not, names are for messages.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "src/data/token_source.h"

namespace qat {

struct SegmentIdentity {
  std::string file;  // as it was named or found
  std::int64_t tokens = 0;
  TokenContent content;

  bool same_tokens(const SegmentIdentity& other) const { return tokens == other.tokens && content == other.content; }
  friend bool operator==(const SegmentIdentity&, const SegmentIdentity&) = default;
};

using SplitIdentity = std::vector<SegmentIdentity>;  // in order

struct DataIdentity {
  SplitIdentity train, val;
  friend bool operator==(const DataIdentity&, const DataIdentity&) = default;
};

// Every segment's content must be known.
SplitIdentity identity_of(const TokenSource& source);

// As JSON, for a checkpoint. What is not such JSON, or is of a newer version, throws kCheckpoint naming `source`.
std::string to_json(const DataIdentity& identity);
DataIdentity parse_data_identity(std::string_view json, const std::string& source);

// What the two sides of a comparison are called.
struct Sides {
  std::string before, after;   // "in the checkpoint", "now"
  std::string missing, added;  // of a file that only `before`, or only `after`, has: "is missing now", "is new"
};

// A line for each difference: files with other content, files of one side only, another order. None: the same tokens.
std::vector<std::string> describe_changes(const SplitIdentity& before, const SplitIdentity& after, const Sides& sides);

// Whether a run may go on from a checkpoint with these tokens. Other training tokens throw kData that says what
// changed, or with `allow_change` become a line for the log; so do other held-out tokens, and a checkpoint that says
// nothing
// (`saved_json` empty: an older program wrote it).
std::vector<std::string> check_resumed_data(std::string_view saved_json, const DataIdentity& now, bool allow_change);

// For the log: how held-out tokens differ from those that a checkpoint was evaluated on; empty: they do not.
std::string held_out_change(const SplitIdentity& saved, const SplitIdentity& now);

}  // namespace qat
