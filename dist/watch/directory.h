// Who belongs to a run and where its watchdog is reached: handed round once, at start.
#pragma once

#include <string>
#include <vector>

#include "dist/comm/communicator.h"
#include "dist/watch/process_id.h"
#include "dist/watch/tcp.h"

namespace qat::dist {

struct Participant {
  std::string host;
  ProcessId process;
  std::string process_space, network_space;  // process_id.h
  std::vector<std::string> addresses;        // to try in turn, from another host
  int port = 0;                              // 0: it does not listen
};

struct Directory {
  int rank = 0;
  std::vector<Participant> ranks;
  std::string token;  // a secret of this run: whoever connects must know it

  int size() const { return static_cast<int>(ranks.size()); }
  const Participant& me() const { return of(rank); }
  const Participant& of(int other) const { return ranks[static_cast<std::size_t>(other)]; }
  // Whether this process can signal that one.
  bool same_machine(int other) const;
  // Where to reach it from here, in the order to try.
  std::vector<std::string> ways_to(int other) const;
};

struct Meeting {
  Directory directory;
  Listener listener;  // this rank's
};

// Collective; the watchdog's only use of a communicator. Where all ranks share one host, they listen at its loopback
// interface alone.
Meeting meet(Communicator& comm, const std::string& host);

}  // namespace qat::dist
