#include "src/data/held_out.h"

#include <algorithm>

#include "kernels/common/philox.h"

namespace qat {
namespace {

// The longest document that is short, 0 if none is.
std::int64_t short_limit(std::span<const std::int64_t> bytes, double fraction) {
  constexpr double kRounding = 1 + 1e-9;  // ten equal documents are a tenth each, whatever 0.1 is in binary
  const double share = std::min(fraction, 1 - fraction) * kRounding;
  std::vector<std::int64_t> sorted(bytes.begin(), bytes.end());
  std::sort(sorted.begin(), sorted.end());
  double total = 0;
  for (const std::int64_t size : sorted) total += static_cast<double>(size);
  while (!sorted.empty() && static_cast<double>(sorted.back()) > share * total) {
    total -= static_cast<double>(sorted.back());
    sorted.pop_back();
  }
  return sorted.empty() ? 0 : sorted.back();
}

}  // namespace

std::vector<HeldOut> choose_held_out(std::span<const std::int64_t> bytes, double fraction) {
  std::vector<HeldOut> chosen(bytes.size(), HeldOut::kNothing);
  if (fraction <= 0) return chosen;
  constexpr kernels::RngKey kDraws{.seed = 0, .stream = 0x68656c64206f7574};  // a stream of its own; never to change
  const std::int64_t limit = short_limit(bytes, fraction);
  double seen = 0, held = 0;  // bytes of short documents; whole numbers, exact below 2^53
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    if (bytes[i] > limit) chosen[i] = HeldOut::kTail;
    if (bytes[i] == 0 || bytes[i] > limit) continue;
    const auto size = static_cast<double>(bytes[i]);
    seen += size;
    const double u = 0.25 + 0.5 * static_cast<double>(kernels::uniform_at(kDraws, i));
    if (held + u * size > fraction * seen) continue;
    held += size;
    chosen[i] = HeldOut::kWhole;
  }
  return chosen;
}

}  // namespace qat
