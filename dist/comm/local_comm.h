// Ranks as threads of one process: for tests, and for a world of one.
//
// A communicator belongs to one thread. When it is destroyed (say, because its thread's function threw) the group has
// lost that rank: whoever waits for it, now or later, gets Error(kCommunication). Nobody waits for ever, and nobody
// returns while a peer still reads its buffers.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "dist/comm/communicator.h"

namespace qat::dist {

// One communicator for each of `size` ranks; element r is rank r's.
std::vector<std::unique_ptr<Communicator>> make_local_group(int size);

// A world of one: every collective is at most a copy. Starts no thread.
std::unique_ptr<Communicator> make_single_comm();

// Ends the group from any thread: pending and later calls of all its ranks throw Error(kCommunication) with `reason`.
// `member` must come from this file's functions.
void abort_local_group(Communicator& member, const std::string& reason);

// Runs body(rank's communicator) on `size` threads and joins them. If any threw, rethrows one: of the lowest rank
// whose error is not merely the echo of another rank's leaving.
void run_local_ranks(int size, const std::function<void(Communicator&)>& body);

}  // namespace qat::dist
