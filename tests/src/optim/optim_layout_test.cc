// Who owns what, and the order of the norm's sums.
#include "src/optim/optim_layout.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "tests/support/optim_layouts.h"

namespace qat {
namespace {

TEST(OptimLayout, EveryElementOfEveryTensorIsOwnedOnce) {
  for (const int ranks : {1, 2, 3, 4, 6, 8}) {
    for (const std::int64_t bucket_elems : test::kBucketSizes) {
      const OptimLayout layout = test::two_groups(ranks, bucket_elems);
      std::vector<std::vector<int>> owners;
      for (const OptimTensor& tensor : layout.tensors)
        owners.emplace_back(static_cast<std::size_t>(layout.place(tensor).elems), 0);
      for (int rank = 0; rank < ranks; ++rank) {
        std::vector<int> places(static_cast<std::size_t>(layout.own_elems()), 0);
        for (const OwnedPart& part : layout.parts_of(rank)) {
          for (std::int64_t i = 0; i < part.elems; ++i) {
            ++owners[static_cast<std::size_t>(part.tensor)].at(static_cast<std::size_t>(part.first + i));
            ++places.at(static_cast<std::size_t>(part.offset + i));
          }
        }
        EXPECT_LE(*std::max_element(places.begin(), places.end()), 1) << "two elements in one place";
      }
      for (const std::vector<int>& of_tensor : owners)
        EXPECT_TRUE(std::all_of(of_tensor.begin(), of_tensor.end(), [](int times) { return times == 1; }))
            << ranks << " ranks, buckets of " << bucket_elems;
    }
  }
}

TEST(OptimLayout, TheNormTakesTheBlocksOfEachTensorInOrderAndEachOnce) {
  for (const int ranks : {1, 2, 3, 4, 6, 8}) {
    for (const std::int64_t bucket_elems : test::kBucketSizes) {
      const OptimLayout layout = test::two_groups(ranks, bucket_elems);
      const std::vector<std::int32_t> order = layout.norm_order({true, true});
      std::vector<std::int32_t> expected;  // by the parts that ranks own
      for (std::size_t t = 0; t < layout.tensors.size(); ++t)
        for (std::int64_t first = 0; first < layout.place(layout.tensors[t]).elems; first += kNormBlock)
          for (int rank = 0; rank < ranks; ++rank)
            for (const OwnedPart& part : layout.parts_of(rank))
              if (part.tensor == static_cast<int>(t) && part.first <= first && first < part.first + part.elems)
                expected.push_back(static_cast<std::int32_t>(
                    (rank * layout.own_elems() + part.offset + first - part.first) / kNormBlock));
      EXPECT_EQ(order, expected) << ranks << " ranks, buckets of " << bucket_elems;
    }
  }
}

}  // namespace
}  // namespace qat
