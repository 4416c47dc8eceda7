// All groups' buckets in the one order in which every rank exchanges them, and when.
//
// On a GPU a bucket is exchanged as soon as this rank's sum of it is complete and all buckets before it are under way,
// on a stream of its own, while backward makes the others' gradients. The order is fixed, not that of completion: a
// rank that gives up in the middle of a step still makes the same calls. Launches come from whatever thread commits a
// bucket, one at a time; they make NCCL calls, never MPI's. On a CPU everything is exchanged in finish(), on its
// thread.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "dist/grad/grad_sync.h"
#include "kernels/common/device_stream.h"

namespace qat::dist {

struct BucketPlace {
  int sync = 0, bucket = 0;
  friend bool operator==(const BucketPlace&, const BucketPlace&) = default;
};

// The order of exchange: buckets whose gradients backward completes first. first_use: by sync and bucket, when the
// forward pass uses its first tensor, which backward comes to last.
std::vector<BucketPlace> exchange_order(const std::vector<std::vector<std::int64_t>>& first_use);

class GradExchange {
 public:
  // compute: the stream on which sums are made and read. overlapped: on `exchange`, which is the syncs' reducers'.
  // syncs outlive this, in place.
  GradExchange(std::span<GradSync> syncs, std::vector<BucketPlace> order, Device device, StreamRef compute,
               StreamRef exchange, bool overlapped);

  GradExchange(const GradExchange&) = delete;

  // The syncs have been started, or rest.
  void start();
  // From here to finish() nobody makes another call to the communicator: buckets may go as they become complete. All
  // ranks come here, unless one gives up.
  void allow_early() { launching_ = overlapped_; }
  // Collective: whatever has not been exchanged, in order. error: measured, for exchanges that did not go early.
  void finish(WireError* error = nullptr);
  std::int64_t launched_early() const noexcept { return early_; }  // buckets of this step

 private:
  void launch_ready();
  // What comes on `exchange` from now on sees what `compute` did so far; and the other way round.
  void begin_on_exchange();
  void end_on_exchange();

  std::span<GradSync> syncs_;
  std::vector<BucketPlace> order_;
  Device device_;
  StreamRef compute_, exchange_;
  bool overlapped_;
  DeviceEvent made_, exchanged_;
  std::size_t next_ = 0;
  bool launching_ = false;
  std::int64_t early_ = 0;
};

}  // namespace qat::dist
