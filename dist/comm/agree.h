// All ranks come to the same end: one rank's failure, or a difference between ranks, becomes the same Error everywhere.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "dist/comm/communicator.h"
#include "kernels/common/error.h"

namespace qat::dist {

// Thrown by every rank of the group, with the same words: one of them prints, and all may leave in good order.
class AgreedError : public Error {
 public:
  using Error::Error;
};

struct RankReport {
  bool ok = true;
  int exit_code = 0;       // if not ok: an ErrorKind's value
  std::string message;     // if not ok
  std::uint64_t hash = 0;  // of what must be equal everywhere; 0 everywhere if there is nothing to compare
};

// Collective. If a rank is not ok, all throw AgreedError of the lowest failing rank's kind, with every different
// message once and the ranks it came from. If all are ok but hashes differ from rank 0's, all throw
// AgreedError(kConfig) that names the ranks. `what` is the thing compared, e.g. "configuration".
void agree(Communicator& comm, const RankReport& mine, std::string_view what);

// Runs `body` on every rank; what it throws as Error on some of them is thrown on all, and what it returns, if
// anything, must be equal everywhere: see agree(). Collective.
template <typename Body>
void on_every_rank(Communicator& comm, std::string_view what, Body&& body) {
  RankReport report;
  try {
    if constexpr (std::is_void_v<std::invoke_result_t<Body&>>) {
      body();
    } else {
      report.hash = body();
    }
  } catch (const Error& error) {
    report = {.ok = false, .exit_code = error.exit_code(), .message = error.what()};
  }
  agree(comm, report, what);
}

// Element r is rank r's string, on every rank.
std::vector<std::string> gather_strings(Communicator& comm, const std::string& mine);

// The root's string, on every rank.
std::string broadcast_string(Communicator& comm, const std::string& mine, int root = 0);

// "rank 3", "ranks 0-7", "ranks 0-2, 5". `ranks` ascending, not empty.
std::string name_ranks(const std::vector<int>& ranks);

}  // namespace qat::dist
