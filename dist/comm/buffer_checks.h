// What every CPU backend demands of the buffers it is given, checked before any rank starts to wait.
#pragma once

#include "dist/comm/communicator.h"
#include "dist/comm/tree_reduce.h"
#include "kernels/common/error.h"
#include "kernels/common/view.h"

namespace qat::dist {

inline void require_host(const ConstBufferView& buffer) {
  QAT_CHECK(buffer.device == Device::kCpu, "this communicator moves host memory only");
  QAT_CHECK(buffer.elems >= 0 && (buffer.elems == 0 || buffer.data != nullptr), "a buffer without memory");
}

inline void require_all_reduce(const BufferView& data, ReduceOp op) {
  require_host(data);
  require_reducible(op, data.dtype);
}

inline void require_reduce_scatter(const ConstBufferView& in, const BufferView& out, ReduceOp op, int size) {
  require_host(in);
  require_host(out);
  require_reducible(op, in.dtype);
  QAT_CHECK(in.dtype == out.dtype, "reduce_scatter between two dtypes");
  QAT_CHECK(in.elems == out.elems * size, "reduce_scatter: `in` must be size times `out`");
}

inline void require_all_gather(const ConstBufferView& in, const BufferView& out, int size) {
  require_host(in);
  require_host(out);
  QAT_CHECK(in.dtype == out.dtype, "all_gather between two dtypes");
  QAT_CHECK(out.elems == in.elems * size, "all_gather: `out` must be size times `in`");
}

inline void require_peer(int peer, int size) { QAT_CHECK(peer >= 0 && peer < size, "no such rank in this group"); }

// MPI promises tags up to 32767; the last one is kept for the backend's own messages.
constexpr int kReservedTag = 32767;
inline void require_tag(int tag) { QAT_CHECK(tag >= 0 && tag < kReservedTag, "tags are 0..32766"); }

}  // namespace qat::dist
