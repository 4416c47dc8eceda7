// Sums of codes over groups whose ranks stand in another order than the world's, on whatever communicator there is.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "dist/comm/communicator.h"
#include "dist/grad/grad_reducer.h"
#include "tests/dist/random_leaves.h"

namespace qat::dist::testing {

// Orders of so many ranks: all of up to three, and of more the reversed one, rotated ones and one that is neither.
inline std::vector<std::vector<int>> orders_of(int ranks) {
  std::vector<int> order(static_cast<std::size_t>(ranks));
  std::iota(order.begin(), order.end(), 0);
  std::vector<std::vector<int>> all;
  if (ranks <= 3) {
    do all.push_back(order);
    while (std::next_permutation(order.begin(), order.end()));
    return all;
  }
  all.push_back(order);
  std::reverse(order.begin(), order.end());
  all.push_back(order);
  for (const int by : {1, 2}) {
    std::rotate(order.begin(), order.begin() + by, order.end());
    all.push_back(order);
  }
  std::swap(order[0], order[2]);
  all.push_back(order);
  return all;
}

// The whole sum of what the world's ranks bring, by a group in which world rank r has place order[r]; on two levels
// where `places` is above 0.
inline std::vector<float> sum_in_order(Communicator& world, const std::vector<int>& order, const GradWire& wire,
                                       int places) {
  const std::unique_ptr<Communicator> group = world.split(/*color=*/0, order[static_cast<std::size_t>(world.rank())]);
  const std::int64_t shard = 2 * wire.block, elems = shard * group->size();
  NodeGroups nodes;
  if (places > 0) nodes = make_node_groups(*group, places);
  GradReducer reducer(*group, elems,
                      {.wire = wire,
                       .nodes = places > 0 ? &nodes : nullptr,
                       .staging = std::make_shared<WireStaging>(host_flat_memory())});
  std::vector<float> sum = random_leaf(world.rank(), elems);
  reducer.reduce_scatter(sum);
  const std::vector<float> own(sum.begin() + reducer.shard().begin, sum.begin() + reducer.shard().end);
  group->all_gather(view(std::span<const float>(own)), view(std::span(sum)));
  return sum;
}

inline void sums_of_codes_have_the_same_bits_whatever_the_ranks_order(Communicator& world) {
  if (world.size() == 1) return;  // what is alone is not encoded
  for (const WireFormat format : {WireFormat::kInt8, WireFormat::kInt4}) {
    const GradWire wire{.format = format, .block = 64};
    std::vector<float> expected;
    for (const std::vector<int>& order : orders_of(world.size())) {
      const std::vector<float> sum = sum_in_order(world, order, wire, /*places=*/0);
      if (expected.empty()) expected = sum;
      EXPECT_EQ(compare_bits(sum, expected), "equal");
      if (world.size() % 2 != 0) continue;
      for (const int places : {2, world.size() / 2})
        EXPECT_EQ(compare_bits(sum_in_order(world, order, wire, places), expected), "equal") << "nodes of " << places;
    }
  }
}

}  // namespace qat::dist::testing
