#include "dist/grad/grad_wire.h"

#include <string>

#include "kernels/common/error.h"

namespace qat::dist {

NodeGroups make_node_groups(Communicator& group, int places) {
  if (places < 1 || group.size() % places != 0)
    throw Error(ErrorKind::kConfig,
                std::to_string(group.size()) + " ranks are not nodes of " + std::to_string(places) + " ranks each");
  const int node = group.rank() / places, place = group.rank() % places;
  return {.inside = group.split(node, place), .across = group.split(place, node)};
}

}  // namespace qat::dist
