// JSON section "watchdog".
#pragma once

#include <cstdint>

namespace qat {

struct WatchdogConfig {
  double limit_seconds = 600.0;        // a rank without progress for so long ends the run; 0: nobody watches
  std::int64_t straggler_window = 50;  // steps over which ranks' work times are compared; 0: they are not
};

}  // namespace qat
