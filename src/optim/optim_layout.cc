#include "src/optim/optim_layout.h"

#include <algorithm>

#include "kernels/common/error.h"

namespace qat {

const dist::FlatLayout::Tensor& OptimLayout::place(const OptimTensor& tensor) const {
  return groups.at(static_cast<std::size_t>(tensor.group)).layout.tensors().at(static_cast<std::size_t>(tensor.index));
}

std::int64_t OptimLayout::group_offset(int group) const {
  std::int64_t offset = 0;
  for (int g = 0; g < group; ++g) offset += groups.at(static_cast<std::size_t>(g)).layout.own_elems(ranks);
  return offset;
}

std::int64_t OptimLayout::own_elems() const { return group_offset(static_cast<int>(groups.size())); }

std::vector<OwnedPart> OptimLayout::parts_of(int rank) const {
  std::vector<OwnedPart> parts;
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    const dist::FlatLayout& layout = groups.at(static_cast<std::size_t>(tensors[t].group)).layout;
    const dist::FlatLayout::Tensor& where = place(tensors[t]);
    const dist::ShardRange shard = layout.shard(where.bucket, rank, ranks);
    const std::int64_t begin = std::max(where.offset, shard.begin);
    const std::int64_t end = std::min(where.offset + where.elems, shard.end);
    if (begin >= end) continue;
    parts.push_back(
        {.tensor = static_cast<int>(t),
         .first = begin - where.offset,
         .elems = end - begin,
         .offset = group_offset(tensors[t].group) + layout.own_offset(where.bucket, ranks) + begin - shard.begin});
  }
  return parts;
}

std::vector<std::int32_t> OptimLayout::norm_order(const std::vector<bool>& used) const {
  std::vector<std::int64_t> begins;  // of each used group, in what a rank owns of them
  std::int64_t own = 0;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    begins.push_back(own);
    if (used.at(g)) own += groups[g].layout.own_elems(ranks);
  }
  const std::int64_t own_blocks = own / kNormBlock;
  QAT_CHECK(own_blocks * ranks <= INT32_MAX, "more than 8e12 parameters");
  std::vector<std::int32_t> order;
  for (const OptimTensor& tensor : tensors) {
    const auto g = static_cast<std::size_t>(tensor.group);
    if (!used[g]) continue;
    const dist::FlatLayout& layout = groups[g].layout;
    const dist::FlatLayout::Tensor& where = place(tensor);
    const std::int64_t group = begins[g];
    for (std::int64_t at = where.offset; at < where.offset + where.elems; at += kNormBlock) {
      const dist::FlatLayout::Owner owner = layout.owner(at, where.bucket, ranks);
      QAT_CHECK((group + owner.offset) % kNormBlock == 0, "shards are cut at multiples of kNormBlock");
      order.push_back(static_cast<std::int32_t>(owner.rank * own_blocks + (group + owner.offset) / kNormBlock));
    }
  }
  return order;
}

}  // namespace qat
