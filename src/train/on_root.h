#pragma once

#include <functional>
#include <string_view>

#include "dist/comm/agree.h"

namespace qat {

// Runs `body` on rank 0; an Error it throws is thrown on every rank, so that none waits for the others. Collective.
inline void on_root(dist::Communicator& comm, std::string_view what, const std::function<void()>& body) {
  dist::RankReport report;
  if (comm.rank() == 0) {
    try {
      body();
    } catch (const Error& error) {
      report = {.ok = false, .exit_code = error.exit_code(), .message = error.what()};
    }
  }
  dist::agree(comm, report, what);
}

}  // namespace qat
