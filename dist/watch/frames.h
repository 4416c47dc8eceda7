// What the watchdogs of a run say to each other, as bytes.
//
// A frame is a length (u32), a type (u8) and a payload of 64-bit words and texts, all in this machine's byte order: the
// ranks of a run are of one kind.
//
//   rank -> hub   kHello (token, rank), then kBeat now and then; kFailing, kSaid, kFarewell, kStacksKept, kEnd
//   hub -> rank   kWelcome, then kBeat now and then; kMaySay, kKeepStacks, kEnd, kFarewell
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "dist/watch/verdict.h"

namespace qat::dist {

enum class FrameType : std::uint8_t {
  kHello = 1,
  kWelcome,
  kBeat,        // a rank: RankState; the hub: the limit of rank 0's section
  kFailing,     // this rank fails alone: exit code, message
  kMaySay,      // whether the failing rank is the one to print its message
  kSaid,        // it has
  kFarewell,    // ends in good order: what follows is no death
  kKeepStacks,  // write the stacks of all threads to the log: why
  kStacksKept,
  // Exit now: exit code, ranks that may not do so themselves. From a rank: you are lost to us, exit when you read this.
  kEnd
};

struct Frame {
  FrameType type = FrameType::kHello;
  std::string payload;
};

class Packer {
 public:
  Packer& word(std::uint64_t value);
  Packer& number(double value);
  Packer& text(std::string_view value);
  std::string take() { return std::move(bytes_); }

 private:
  std::string bytes_;
};

// Reads in the order of packing; past the end, or after nonsense, everything is 0 or empty and ok() is false.
class Unpacker {
 public:
  explicit Unpacker(std::string_view bytes) : bytes_(bytes) {}
  std::uint64_t word();
  double number();
  std::string text();
  bool ok() const { return ok_; }

 private:
  std::string_view bytes_;
  bool ok_ = true;
};

// kBeat of a rank. Everything of the state but `link` and `silent`, which are the hub's to know.
std::string pack(const RankState& state);
std::optional<RankState> unpack_state(const std::string& payload);

// kEnd.
struct EndOrder {
  int exit_code = 7;
  std::vector<int> kill;  // ranks
};
std::string pack(const EndOrder& order);
std::optional<EndOrder> unpack_end(const std::string& payload);

}  // namespace qat::dist
