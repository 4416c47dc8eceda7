#include "dist/grad/wire_staging.h"

#include "kernels/common/error.h"

namespace qat::dist {

void WireStaging::reserve(Slot slot, std::int64_t bytes) {
  Room& room = rooms_[slot];
  if (room.bytes >= bytes) return;
  room.data.reset();  // before the new one: both at once may be too much
  const auto word = static_cast<std::int64_t>(sizeof(float));
  room.data = memory_->allocate((bytes + word - 1) / word);
  room.bytes = bytes;
}

std::int64_t WireStaging::bytes() const {
  std::int64_t all = 0;
  for (const Room& room : rooms_) all += room.bytes;
  return all;
}

std::span<std::uint8_t> WireStaging::raw(Slot slot, std::int64_t bytes) const {
  const Room& room = rooms_[slot];
  QAT_CHECK(bytes <= room.bytes, "staging of more than was reserved");
  return {reinterpret_cast<std::uint8_t*>(room.data.get()), static_cast<std::size_t>(bytes)};
}

std::span<float> WireStaging::floats(Slot slot, std::int64_t elems) const {
  const Room& room = rooms_[slot];
  QAT_CHECK(elems * static_cast<std::int64_t>(sizeof(float)) <= room.bytes, "staging of more than was reserved");
  return {room.data.get(), static_cast<std::size_t>(elems)};
}

}  // namespace qat::dist
