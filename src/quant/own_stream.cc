#include "src/quant/own_stream.h"

#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <exception>

namespace qat {

OwnStream::OwnStream(c10::Device device) : before_(c10::impl::getDeviceGuardImpl(device.type())->getStream(device)) {
  const auto* streams = c10::impl::getDeviceGuardImpl(device.type());
  streams->synchronizeStream(before_);
  (void)streams->exchangeStream(streams->getStreamFromGlobalPool(device));
}

OwnStream::~OwnStream() {
  try {
    const auto* streams = c10::impl::getDeviceGuardImpl(before_.device_type());
    streams->synchronizeStream(streams->exchangeStream(before_));
  } catch (
      const std::exception&) {  // NOLINT(bugprone-empty-catch): the device has failed, and its next user will say so
  }
}

}  // namespace qat
