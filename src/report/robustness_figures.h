// How well a model still predicts next tokens while its inputs are disturbed.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "src/base/named_enum.h"

namespace qat {

// What disturbs a pass: its embeddings move (at random; along the gradient of the loss, once or in several steps), or
// some of its tokens are dropped or become others.
enum class Disturbance : unsigned char { kNoise, kFgsm, kPgd, kDropped, kReplaced };
template <>
struct EnumNames<Disturbance> {
  static constexpr std::array names{"noise", "fgsm", "pgd", "dropped", "replaced"};
};
inline constexpr std::size_t kDisturbances = EnumNames<Disturbance>::names.size();

struct RobustnessFigures {
  double epsilon = 0.0;                             // how far a value of an embedding moves
  double rate = 0.0;                                // share of tokens that are dropped, or replaced
  std::int64_t steps = 0;                           // of pgd
  std::int64_t tokens = 0;                          // whose next one was asked for; above 0
  std::int64_t clean = 0;                           // of these, how many next ones were the likeliest
  std::array<std::int64_t, kDisturbances> right{};  // likewise, under each disturbance

  // Shares, 0 .. 1.
  double clean_accuracy() const { return share(clean); }
  double accuracy(Disturbance one) const { return share(right[static_cast<std::size_t>(one)]); }
  double worst_accuracy() const;
  double gap() const { return clean_accuracy() - worst_accuracy(); }
  // Of the clean accuracy; nothing where that is 0.
  std::optional<double> ratio() const;

 private:
  double share(std::int64_t count) const { return static_cast<double>(count) / static_cast<double>(tokens); }
};

}  // namespace qat
