#include "dist/grad/grad_reducer.h"

#include "kernels/common/error.h"

namespace qat::dist {

GradReducer::GradReducer(Communicator& group, std::int64_t elems, Device device, StreamRef stream)
    : group_(&group), elems_(elems), device_(device), stream_(stream) {
  QAT_CHECK(elems >= 0 && elems % group.size() == 0, "ranks have equal shards");
}

std::span<float> GradReducer::own_part(std::span<float> full) const {
  QAT_CHECK(static_cast<std::int64_t>(full.size()) == elems_, "the buffer must have elems() elements");
  return full.subspan(static_cast<std::size_t>(shard().begin), static_cast<std::size_t>(shard_elems()));
}

BufferView GradReducer::buffer(std::span<float> values) const {
  return {values.data(), static_cast<std::int64_t>(values.size()), DType::kFloat32, device_};
}

void GradReducer::reduce_scatter(std::span<float> full) {
  const std::span<float> own = own_part(full);
  if (group_->size() > 1) group_->reduce_scatter(buffer(full), buffer(own), ReduceOp::kSum, stream_);
}

void GradReducer::all_gather(std::span<float> full) {
  const std::span<float> own = own_part(full);
  if (group_->size() > 1) group_->all_gather(buffer(own), buffer(full), stream_);
}

}  // namespace qat::dist
