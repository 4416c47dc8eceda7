#include "dist/watch/frames.h"

#include <bit>
#include <cstring>

namespace qat::dist {

Packer& Packer::word(std::uint64_t value) {
  char raw[sizeof value];
  std::memcpy(raw, &value, sizeof value);
  bytes_.append(raw, sizeof raw);
  return *this;
}

Packer& Packer::number(double value) { return word(std::bit_cast<std::uint64_t>(value)); }

Packer& Packer::text(std::string_view value) {
  word(value.size());
  bytes_.append(value);
  return *this;
}

std::uint64_t Unpacker::word() {
  std::uint64_t value = 0;
  ok_ = ok_ && bytes_.size() >= sizeof value;
  if (!ok_) return 0;
  std::memcpy(&value, bytes_.data(), sizeof value);
  bytes_.remove_prefix(sizeof value);
  return value;
}

double Unpacker::number() { return std::bit_cast<double>(word()); }

std::string Unpacker::text() {
  const std::uint64_t size = word();
  ok_ = ok_ && bytes_.size() >= size;
  if (!ok_) return {};
  std::string value(bytes_.substr(0, size));
  bytes_.remove_prefix(size);
  return value;
}

std::string pack(const RankState& state) {
  Packer packer;
  packer.word(static_cast<std::uint64_t>(state.section)).word(static_cast<std::uint64_t>(state.waits_for));
  packer.word(std::bit_cast<std::uint64_t>(state.steps)).word(state.beats).number(state.stalled);
  for (std::size_t i = 0; i < kSections; ++i)
    packer.number(state.history.longest_gap[i]).word(state.history.completed[i]);
  return packer.take();
}

std::optional<RankState> unpack_state(const std::string& payload) {
  Unpacker in(payload);
  RankState state;
  const std::uint64_t section = in.word(), wait = in.word();
  if (section >= kSections || wait >= kWaits) return std::nullopt;
  state.section = static_cast<Section>(section);
  state.waits_for = static_cast<WaitFor>(wait);
  state.steps = std::bit_cast<std::int64_t>(in.word());
  state.beats = in.word();
  state.stalled = in.number();
  for (std::size_t i = 0; i < kSections; ++i) {
    state.history.longest_gap[i] = in.number();
    state.history.completed[i] = in.word();
  }
  if (!in.ok()) return std::nullopt;
  return state;
}

std::string pack(const EndOrder& order) {
  Packer packer;
  packer.word(static_cast<std::uint64_t>(order.exit_code)).word(order.kill.size());
  for (const int rank : order.kill) packer.word(static_cast<std::uint64_t>(rank));
  return packer.take();
}

std::optional<EndOrder> unpack_end(const std::string& payload) {
  Unpacker in(payload);
  EndOrder order{.exit_code = static_cast<int>(in.word())};
  const std::uint64_t count = in.word();
  for (std::uint64_t i = 0; i < count && in.ok(); ++i) order.kill.push_back(static_cast<int>(in.word()));
  if (!in.ok()) return std::nullopt;
  return order;
}

}  // namespace qat::dist
