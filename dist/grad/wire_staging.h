// What messages are built in and received into: one set of buffers for all reducers of a rank, which work one after the
// other.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "dist/grad/flat_memory.h"

namespace qat::dist {

class WireStaging {
 public:
  enum Slot : std::uint8_t { kSent, kReceived, kOwnScales, kReceivedScales, kSums, kReceivedSums, kSlots };

  explicit WireStaging(std::shared_ptr<FlatMemory> memory) : memory_(std::move(memory)) {}

  // Makes room for so many bytes; what the slot held is gone. Before there is work that uses it.
  void reserve(Slot slot, std::int64_t bytes);
  std::int64_t bytes() const;  // of all slots

  std::span<std::uint8_t> raw(Slot slot, std::int64_t bytes) const;
  std::span<float> floats(Slot slot, std::int64_t elems) const;

 private:
  struct Room {
    std::shared_ptr<float> data;
    std::int64_t bytes = 0;
  };
  std::shared_ptr<FlatMemory> memory_;
  std::array<Room, kSlots> rooms_;
};

}  // namespace qat::dist
