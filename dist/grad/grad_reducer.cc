#include "dist/grad/grad_reducer.h"

#include "kernels/common/error.h"

namespace qat::dist {
namespace {

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

}  // namespace

GradReducer::GradReducer(Communicator& group, std::int64_t elems, std::int64_t block, Device device, StreamRef stream)
    : group_(group), elems_(elems), shard_elems_(0), device_(device), stream_(stream) {
  QAT_CHECK(elems >= 0 && block >= 1, "a shard is a whole number of blocks");
  shard_elems_ = ceil_div(ceil_div(elems, block), group.size()) * block;
}

std::span<float> GradReducer::own_part(std::span<float> full) const {
  QAT_CHECK(static_cast<std::int64_t>(full.size()) == padded_elems(), "the buffer must have padded_elems() elements");
  return full.subspan(static_cast<std::size_t>(shard().begin), static_cast<std::size_t>(shard_elems_));
}

BufferView GradReducer::buffer(std::span<float> values) const {
  return {values.data(), static_cast<std::int64_t>(values.size()), DType::kFloat32, device_};
}

void GradReducer::reduce_scatter(std::span<float> full) {
  const std::span<float> own = own_part(full);
  if (group_.size() > 1) group_.reduce_scatter(buffer(full), buffer(own), ReduceOp::kSum, stream_);
}

void GradReducer::all_gather(std::span<float> full) {
  const std::span<float> own = own_part(full);
  if (group_.size() > 1) group_.all_gather(buffer(own), buffer(full), stream_);
}

}  // namespace qat::dist
