// A communicator that marks on a board, around each of its calls, that this rank waits for others, and in which call:
// so a watchdog tells ranks that wait from the one they wait for.
#pragma once

#include <memory>

#include "dist/comm/communicator.h"
#include "dist/watch/progress_board.h"

namespace qat::dist {

// Calls go to `comm` unchanged; groups that it is split into are watched too. Goes outside of NCCL's communicator,
// whose calls on GPU memory return before the work is done: the place that waits for the device carries its own
// WaitMark(kDevice). The board outlives the communicator.
std::unique_ptr<Communicator> make_watched_comm(std::unique_ptr<Communicator> comm, ProgressBoard& board);

}  // namespace qat::dist
