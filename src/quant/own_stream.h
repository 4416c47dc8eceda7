#pragma once

#include <c10/core/Device.h>
#include <c10/core/Stream.h>

namespace qat {

// While it lives, LibTorch works for this thread on a stream other than the default one, behind everything that the
// stream before has been given, and that one behind it afterwards: for work that is recorded
// (kernels/common/device_graph.h).
class OwnStream {
 public:
  explicit OwnStream(c10::Device device);  // a GPU
  OwnStream(const OwnStream&) = delete;
  OwnStream& operator=(const OwnStream&) = delete;
  ~OwnStream();

 private:
  c10::Stream before_;
};

}  // namespace qat
