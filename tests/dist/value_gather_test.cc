#include "dist/grad/value_gather.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "dist/comm/local_comm.h"
#include "dist/grad/flat_memory.h"
#include "kernels/common/philox.h"
#include "kernels/quant/encode.h"

namespace qat::dist {
namespace {

struct Matrix2 {
  std::int64_t rows, cols;
};
const std::vector<Matrix2> kMatrices = {{6, 5}, {40, 8}, {3, 100}, {16, 16}, {9, 31}};

// Two matrices a bucket, about; tensors begin at multiples of 8.
FlatLayout layout_for(int ranks) {
  std::vector<std::int64_t> elems;
  for (const Matrix2& one : kMatrices) elems.push_back(one.rows * one.cols);
  return FlatLayout(elems, {.block = 8, .pad_to = std::int64_t{8} * ranks, .bucket_elems = 400});
}

std::vector<float> newest(const FlatLayout& layout) {
  std::vector<float> values(static_cast<std::size_t>(layout.elems()));
  for (const FlatLayout::Tensor& tensor : layout.tensors())
    for (std::int64_t i = 0; i < tensor.elems; ++i)
      values[static_cast<std::size_t>(tensor.offset + i)] =
          kernels::uniform_at({.seed = 9}, static_cast<std::uint64_t>(tensor.offset + i)) - 0.5F;
  return values;
}

struct Codes {
  std::vector<std::int8_t> codes;
  std::vector<float> scales;
  bool operator==(const Codes&) const = default;
};
Codes codes_of(std::span<const float> values, const FlatLayout& layout, std::size_t tensor, int bits) {
  const Matrix2& shape = kMatrices[tensor];
  Codes out{std::vector<std::int8_t>(static_cast<std::size_t>(shape.rows * shape.cols)),
            std::vector<float>(static_cast<std::size_t>(shape.rows))};
  kernels::encode_rows({}, Matrix<const float>{values.data() + layout.tensors()[tensor].offset, shape.rows, shape.cols},
                       {.width = BitWidth(bits)}, {{out.codes.data(), shape.rows, shape.cols}, {}}, out.scales);
  return out;
}

// A rank's values before: its own shards are the newest.
std::vector<float> before(const FlatLayout& layout, const Communicator& comm) {
  std::vector<float> values(static_cast<std::size_t>(layout.elems()), -7.0F);
  const std::vector<float> all = newest(layout);
  for (std::size_t b = 0; b < layout.buckets().size(); ++b) {
    const ShardRange shard = layout.shard(static_cast<int>(b), comm.rank(), comm.size());
    for (std::int64_t i = shard.begin; i < shard.end; ++i)
      values[static_cast<std::size_t>(i)] = all[static_cast<std::size_t>(i)];
  }
  return values;
}

TEST(ValueGather, ExactValuesAreTheirOwners) {
  for (const int ranks : {1, 2, 3, 4}) {
    const FlatLayout layout = layout_for(ranks);
    run_local_ranks(ranks, [&](Communicator& comm) {
      ValueGather gather(comm, layout, {});
      std::vector<float> values = before(layout, comm);
      for (std::size_t b = 0; b < layout.buckets().size(); ++b) gather.exact(static_cast<int>(b), values);
      EXPECT_EQ(values, newest(layout));
      EXPECT_EQ(gather.sent_bytes(), layout.elems() / ranks * (ranks - 1) * 4);
    });
  }
}

TEST(ValueGather, CodedValuesEncodeAsTheNewestOnAnyNumberOfRanks) {
  for (const int ranks : {1, 2, 3, 4, 6}) {
    const FlatLayout layout = layout_for(ranks);
    ASSERT_GT(layout.buckets().size(), 2U);
    for (const std::vector<int>& bits : {std::vector<int>{8, 8, 8, 8, 8}, {2, 3, 4, 4, 2}, {8, 2, 6, 4, 3}}) {
      SCOPED_TRACE(std::to_string(ranks) + " ranks, " + std::to_string(bits[0]) + " bits and others");
      run_local_ranks(ranks, [&](Communicator& comm) {
        WireStaging staging(host_flat_memory());
        ValueGather gather(comm, layout, {});
        std::vector<RowCodes> rows;
        for (std::size_t t = 0; t < bits.size(); ++t) rows.push_back({.cols = kMatrices[t].cols, .bits = bits[t]});
        std::vector<float> values = before(layout, comm);
        std::vector<int> buckets;
        for (std::size_t b = 1; b < layout.buckets().size(); ++b) buckets.push_back(static_cast<int>(b));
        gather.reserve(buckets, rows, staging);
        const std::int64_t reserved = staging.bytes();
        gather.exact(0, values);
        const std::int64_t exact = gather.sent_bytes();
        gather.coded(buckets, rows, values, staging);
        EXPECT_EQ(staging.bytes(), reserved);
        const std::vector<float> all = newest(layout);
        for (std::size_t t = 0; t < bits.size(); ++t)
          EXPECT_EQ(codes_of(values, layout, t, bits[t]), codes_of(all, layout, t, bits[t])) << t;
        // Codes and maxima of the buckets, and nothing of what does not travel so.
        std::int64_t codes = 0, maxima = 0;
        for (const int b : buckets) {
          const FlatLayout::Bucket& bucket = layout.buckets()[static_cast<std::size_t>(b)];
          codes += bucket.range.size() / ranks;
          for (int t = bucket.first_tensor; t < bucket.first_tensor + bucket.tensors; ++t)
            maxima += kMatrices[static_cast<std::size_t>(t)].rows;
        }
        if (bits[0] == 2) codes /= 2;
        EXPECT_EQ(gather.sent_bytes() - exact, (codes + 8 * maxima / ranks) * (ranks - 1));
      });
    }
  }
}

}  // namespace
}  // namespace qat::dist
