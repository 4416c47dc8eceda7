// One process group. Backends: ranks as threads of one process (tests, world of one), MPI (CPUs), NCCL (GPUs).
//
// Every call but send, receive and exchange is collective: all ranks of the group make it, in the same order, with the
// same count, dtype and op; no call may be made conditionally on rank-local state. It is ordered on `stream`; CPU
// backends have finished when it returns. Counts are in elements. A rank whose peers fail gets Error(kCommunication),
// never a wrong result.
//
// Sums are associated as one balanced binary tree over the ranks, ((r0+r1)+(r2+r3))+..., never in order of arrival: two
// runs give the same bits. A rank that has itself added a power-of-two number of contributions pairwise continues the
// same tree, so the sum over a global batch does not depend on how many ranks (a power of two) computed it.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "kernels/common/view.h"

namespace qat::dist {

enum class ReduceOp : std::uint8_t { kSum, kMax, kMin };

// A message, as its sender and as its receiver sees it. Tags are 0..32766.
struct SendTo {
  ConstBufferView data;
  int destination = 0;
  int tag = 0;
};
struct ReceiveFrom {
  BufferView data;
  int source = 0;
  int tag = 0;
};

class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const noexcept = 0;
  virtual int size() const noexcept = 0;
  virtual std::string backend() const = 0;  // "local", "mpi", "nccl": for log lines

  // data: [n], reduced in place on every rank.
  virtual void all_reduce(BufferView data, ReduceOp op, StreamRef stream = {}) = 0;
  // in: [size * n]; out: [n], this rank's block of the reduction. `out` may be this rank's block of `in`.
  virtual void reduce_scatter(ConstBufferView in, BufferView out, ReduceOp op, StreamRef stream = {}) = 0;
  // in: [n]; out: [size * n], block r from rank r. `in` may be this rank's block of `out`.
  virtual void all_gather(ConstBufferView in, BufferView out, StreamRef stream = {}) = 0;
  // data: [n], overwritten everywhere with the root's.
  virtual void broadcast(BufferView data, int root, StreamRef stream = {}) = 0;
  // in: [size * n], block r for rank r; out: [size * n], block r from rank r. They do not overlap.
  virtual void all_to_all(ConstBufferView in, BufferView out, StreamRef stream = {}) = 0;

  // Point to point: only the ranks that a message names take part. Messages are matched by (source, destination, tag),
  // in order, whichever of the three calls sends or receives them; both ends give the same number of bytes.
  //
  // All messages of an exchange are under way together, so two ranks may send to each other, and ranks around a ring to
  // their neighbours, however long the messages are. When it is done, every buffer received is complete and every
  // buffer sent may be used again. All buffers are in memory of the same kind, and none that is received overlaps
  // another. A message to this rank itself has both of its ends in one exchange.
  virtual void exchange(std::span<const SendTo> sends, std::span<const ReceiveFrom> receives,
                        StreamRef stream = {}) = 0;
  // An exchange of one message: a cycle of them waits for ever. send may return before the peer has received.
  void send(ConstBufferView data, int destination, int tag, StreamRef stream = {}) {
    const SendTo message{.data = data, .destination = destination, .tag = tag};
    exchange({&message, 1}, {}, stream);
  }
  void receive(BufferView data, int source, int tag, StreamRef stream = {}) {
    const ReceiveFrom message{.data = data, .source = source, .tag = tag};
    exchange({}, {&message, 1}, stream);
  }

  virtual void barrier() = 0;

  // Ranks that pass the same color form a new group, ordered by (key, rank).
  virtual std::unique_ptr<Communicator> split(int color, int key) = 0;

  // Not collective, any thread: this rank gets on with work of its own, for whoever watches it (dist/watch). Long work
  // between two collectives says so now and then; it costs nothing.
  virtual void beat() noexcept {}
};

}  // namespace qat::dist
