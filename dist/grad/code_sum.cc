#include "dist/grad/code_sum.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/common/error.h"

namespace qat::dist {
namespace {

struct BlockRange {
  std::size_t begin;
  std::size_t end;
};

BlockRange block_range(std::size_t index, std::size_t block, std::size_t elems) {
  return {index * block, std::min(elems, (index + 1) * block)};
}

// NaN if the block has one: std::max alone would lose it.
float block_amax(std::span<const float> values) {
  float amax = 0.0F;
  for (const float value : values) {
    const float magnitude = std::fabs(value);
    if (!(magnitude <= amax)) amax = magnitude;
    if (std::isnan(amax)) return amax;
  }
  return amax;
}

class BlockCoder {
 public:
  BlockCoder(const CodeSumOptions& options, int rank)
      : options_(options), q_max_(static_cast<float>((1 << (options.bits - 1)) - 1)) {
    const std::int64_t contribution = options.contribution < 0 ? rank : options.contribution;
    QAT_CHECK(contribution < (std::int64_t{1} << 24), "contributions are numbered below 2^24");
    first_draw_ = static_cast<std::uint64_t>(contribution) << 40;  // room for 2^40 elements each
  }

  float scale(float amax) const { return std::max(amax, options_.amax_floor) / q_max_; }

  void encode(std::span<const float> values, std::size_t first_index, float scale, std::int32_t* codes) const {
    const float inverse = 1.0F / scale;  // rounded once, as everywhere codes are made
    for (std::size_t i = 0; i < values.size(); ++i) {
      const float exact = values[i] * inverse;
      const float rounded = options_.stochastic ? std::floor(exact + draw(first_index + i)) : std::rint(exact);
      codes[i] = static_cast<std::int32_t>(std::clamp(rounded, -q_max_, q_max_));
    }
  }

 private:
  float draw(std::size_t index) const {
    return kernels::uniform_at({options_.seed, options_.stream}, first_draw_ + index);
  }

  CodeSumOptions options_;
  float q_max_;
  std::uint64_t first_draw_ = 0;
};

void require_options(const CodeSumOptions& options, int ranks) {
  QAT_CHECK(options.bits >= 2 && options.bits <= 16, "gradient codes have 2..16 bits");
  QAT_CHECK(options.block >= 1, "a block has at least one element");
  QAT_CHECK(options.amax_floor >= 1e-33F, "a smaller floor makes scales whose reciprocal overflows");
  const std::int64_t largest_sum = std::int64_t{ranks} * ((1 << (options.bits - 1)) - 1);
  QAT_CHECK(largest_sum <= std::numeric_limits<std::int32_t>::max(), "the sum of codes would overflow 32 bits");
}

}  // namespace

void all_reduce_codes(Communicator& comm, std::span<float> data, const CodeSumOptions& options) {
  require_options(options, comm.size());
  const std::size_t elems = data.size();
  const auto block = static_cast<std::size_t>(options.block);
  const std::size_t blocks = (elems + block - 1) / block;

  std::vector<float> amax(blocks);
  for (std::size_t j = 0; j < blocks; ++j) {
    const BlockRange range = block_range(j, block, elems);
    amax[j] = block_amax(data.subspan(range.begin, range.end - range.begin));
  }
  comm.all_reduce(view(amax), ReduceOp::kMax);

  const BlockCoder coder(options, comm.rank());
  std::vector<std::int32_t> codes(elems);
  for (std::size_t j = 0; j < blocks; ++j) {
    if (!std::isfinite(amax[j])) continue;  // codes stay 0; the block becomes NaN below, on every rank
    const BlockRange range = block_range(j, block, elems);
    coder.encode(data.subspan(range.begin, range.end - range.begin), range.begin, coder.scale(amax[j]),
                 codes.data() + range.begin);
  }
  comm.all_reduce(view(codes), ReduceOp::kSum);

  for (std::size_t j = 0; j < blocks; ++j) {
    const float scale = std::isfinite(amax[j]) ? coder.scale(amax[j]) : std::numeric_limits<float>::quiet_NaN();
    const BlockRange range = block_range(j, block, elems);
    for (std::size_t i = range.begin; i < range.end; ++i) data[i] = static_cast<float>(codes[i]) * scale;
  }
}

}  // namespace qat::dist
