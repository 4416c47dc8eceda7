// How the ranks' gradients travel and are added.
//
//   fp32       as they are; the balanced tree of communicator.h
//   bf16       rounded to nearest; the tree, in fp32, over what was received
//   int8, int4 codes with one scale for each block of consecutive elements (kernels/grad/wire_codes.h):
//     code_sum   the ranks agree on every block's largest magnitude first and share its scale; the codes are added as
//                integers, exactly: the sum has the same bits in whatever order, grouping or topology ranks are added.
//                Over k ranks |sum - exact| <= k s / 2 with s the shared scale; stochastic rounding: < k s
//     two_phase  every rank has scales of its own and sends them along; the owner adds the values as the tree in fp32.
//                |sum - exact| <= (s_0 + ... + s_(k-1)) / 2
//
// Where the ranks are on several nodes, two levels: each node's ranks first add what is theirs, then the nodes, so that
// between nodes travels one contribution a node. fp32 has the same bits as in one level where a node has a power of two
// of ranks, code_sum always (sums of codes travel as wider integers); two_phase and bf16 are encoded again for the
// second level, which adds as much error once more for each node, and error feedback does not know of it.
#pragma once

#include <cstdint>
#include <memory>

#include "dist/comm/communicator.h"
#include "kernels/grad/wire_codes.h"

namespace qat::dist {

using kernels::WireFormat;

enum class WireSum : std::uint8_t { kCodeSum, kTwoPhase };

struct GradWire {
  WireFormat format = WireFormat::kFloat32;
  WireSum sum = WireSum::kCodeSum;  // of int8 and int4
  std::int64_t block = 256;         // elements that share a scale
  bool stochastic = false;          // codes are rounded at random, without bias

  bool is_exact() const noexcept { return format == WireFormat::kFloat32; }
};

// A group as nodes of equally many ranks: rank = node * inside->size() + place.
struct NodeGroups {
  std::unique_ptr<Communicator> inside;  // this rank's node: group rank = place
  std::unique_ptr<Communicator> across;  // the ranks with this rank's place: group rank = node

  int nodes() const { return across->size(); }
  int places() const { return inside->size(); }
};

// Collective. Throws Error(kConfig) if `places` does not divide the group.
NodeGroups make_node_groups(Communicator& group, int places);

}  // namespace qat::dist
