// JSON section "checkpoint".
#pragma once

#include <array>
#include <cstdint>

#include "src/base/named_enum.h"

namespace qat {

enum class OnSaveError : unsigned char { kStop, kContinue };
template <>
struct EnumNames<OnSaveError> {
  static constexpr std::array names{"stop", "continue"};
};

struct CheckpointConfig {
  std::int64_t every = 0;  // steps between checkpoints; 0: only at the end
  int keep = 3;            // newest checkpoints kept; 0: all. The newest healthy one and the one that run.resume
                           // named stay beside them
  bool keep_best = false;  // also the one with the lowest held-out loss, which checkpoints/best leads to
  OnSaveError on_error = OnSaveError::kStop;  // a checkpoint that cannot be written: stop (exit 4), or continue with a
                                              // warning
};

}  // namespace qat
