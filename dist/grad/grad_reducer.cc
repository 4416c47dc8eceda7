#include "dist/grad/grad_reducer.h"

#include "kernels/common/error.h"

namespace qat::dist {
namespace {

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

}  // namespace

GradReducer::GradReducer(Communicator& group, std::int64_t elems, std::int64_t block)
    : group_(group), elems_(elems), shard_elems_(0) {
  QAT_CHECK(elems >= 0 && block >= 1, "a shard is a whole number of blocks");
  shard_elems_ = ceil_div(ceil_div(elems, block), group.size()) * block;
}

std::span<float> GradReducer::own_part(std::span<float> full) const {
  QAT_CHECK(static_cast<std::int64_t>(full.size()) == padded_elems(), "the buffer must have padded_elems() elements");
  return full.subspan(static_cast<std::size_t>(shard().begin), static_cast<std::size_t>(shard_elems_));
}

void GradReducer::reduce_scatter(std::span<float> full) {
  const std::span<float> own = own_part(full);
  if (group_.size() > 1) group_.reduce_scatter(view(full), view(own), ReduceOp::kSum);
}

void GradReducer::all_gather(std::span<float> full) {
  const std::span<float> own = own_part(full);
  if (group_.size() > 1) group_.all_gather(view(own), view(full));
}

}  // namespace qat::dist
