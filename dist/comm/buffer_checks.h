// What every backend demands of the buffers it is given, checked before any rank starts to wait. `device`: the one
// whose memory the backend moves in this call.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "dist/comm/communicator.h"
#include "dist/comm/tree_reduce.h"
#include "kernels/common/error.h"
#include "kernels/common/view.h"

namespace qat::dist {

inline void require_memory(const ConstBufferView& buffer, Device device) {
  QAT_CHECK(buffer.device == device, device == Device::kCpu ? "this communicator moves host memory only"
                                                            : "a GPU buffer and a host buffer in one call");
  QAT_CHECK(buffer.elems >= 0 && (buffer.elems == 0 || buffer.data != nullptr), "a buffer without memory");
}

inline void require_all_reduce(const BufferView& data, ReduceOp op, Device device = Device::kCpu) {
  require_memory(data, device);
  require_reducible(op, data.dtype);
}

inline void require_reduce_scatter(const ConstBufferView& in, const BufferView& out, ReduceOp op, int size,
                                   Device device = Device::kCpu) {
  require_memory(in, device);
  require_memory(out, device);
  require_reducible(op, in.dtype);
  QAT_CHECK(in.dtype == out.dtype, "reduce_scatter between two dtypes");
  QAT_CHECK(in.elems == out.elems * size, "reduce_scatter: `in` must be size times `out`");
}

inline void require_all_gather(const ConstBufferView& in, const BufferView& out, int size,
                               Device device = Device::kCpu) {
  require_memory(in, device);
  require_memory(out, device);
  QAT_CHECK(in.dtype == out.dtype, "all_gather between two dtypes");
  QAT_CHECK(out.elems == in.elems * size, "all_gather: `out` must be size times `in`");
}

inline void require_all_to_all(const ConstBufferView& in, const BufferView& out, int size,
                               Device device = Device::kCpu) {
  require_memory(in, device);
  require_memory(out, device);
  QAT_CHECK(in.dtype == out.dtype, "all_to_all between two dtypes");
  QAT_CHECK(in.elems == out.elems && in.elems % size == 0, "all_to_all: `in` and `out` are one block for every rank");
}

inline void require_peer(int peer, int size) { QAT_CHECK(peer >= 0 && peer < size, "no such rank in this group"); }

// MPI promises tags up to 32767; the last one is kept for the backend's own messages.
constexpr int kReservedTag = 32767;
inline void require_tag(int tag) { QAT_CHECK(tag >= 0 && tag < kReservedTag, "tags are 0..32766"); }

inline void require_broadcast(const BufferView& data, int root, int size, Device device = Device::kCpu) {
  require_memory(data, device);
  require_peer(root, size);
}

inline void require_exchange(std::span<const SendTo> sends, std::span<const ReceiveFrom> receives, int size,
                             Device device = Device::kCpu) {
  for (const SendTo& message : sends) {
    require_memory(message.data, device);
    require_peer(message.destination, size);
    require_tag(message.tag);
  }
  for (const ReceiveFrom& message : receives) {
    require_memory(message.data, device);
    require_peer(message.source, size);
    require_tag(message.tag);
  }
}

inline void require_received(std::size_t bytes, std::size_t expected, int source, int rank) {
  QAT_CHECK(bytes == expected, "rank " + std::to_string(source) + " sent " + std::to_string(bytes) + " bytes, rank " +
                                   std::to_string(rank) + " expects " + std::to_string(expected));
}

}  // namespace qat::dist
