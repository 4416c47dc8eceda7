// Streams and events of one's own, for code that sees no CUDA header.
//
// Work on a DeviceStream is ordered with other work on it, and with nothing else: it is non-blocking, so not even the
// default stream waits for it or makes it wait. Where one stream needs what another one has made, an event says so:
//
//   made.record(compute);          // everything that is on `compute` by now
//   made.hold(exchange.ref());     // comes before anything that `exchange` is given from now on
//
// and once more the other way round before `compute` uses, overwrites or frees what `exchange` works on.
//
// For Device::kCpu all of this does nothing: what runs there has finished when it returns. For Device::kCuda both
// belong to the GPU that is current on the calling thread when they are made; a build without CUDA throws
// Error(kConfig).
#pragma once

#include <cstdint>
#include <utility>

#include "kernels/common/view.h"

namespace qat {

class DeviceStream {
 public:
  // kHigh: where both wait for a multiprocessor, its blocks go first.
  enum class Priority : std::uint8_t { kNormal, kHigh };

  explicit DeviceStream(Device device, Priority priority = Priority::kNormal);
  DeviceStream(DeviceStream&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  DeviceStream& operator=(DeviceStream&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  // Does not wait: what has been enqueued is still done.
  ~DeviceStream();

  StreamRef ref() const noexcept { return {handle_}; }

 private:
  void* handle_ = nullptr;
};

class DeviceEvent {
 public:
  explicit DeviceEvent(Device device);
  DeviceEvent(DeviceEvent&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  DeviceEvent& operator=(DeviceEvent&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~DeviceEvent();

  // The event happens when everything that is on `stream` now is done. May be recorded anew; whoever was made to wait
  // waits for what was recorded then. An event that was never recorded has happened.
  void record(StreamRef stream);
  // What `stream` is given from now on waits for the event; the calling thread does not.
  void hold(StreamRef stream) const;
  // The calling thread waits.
  void synchronize() const;

 private:
  void* handle_ = nullptr;
};

}  // namespace qat
