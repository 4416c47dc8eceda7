#include "src/train/owned_state.h"

#include "src/quant/torch_view.h"

namespace qat {

std::vector<OwnedState> owned_state(const ParameterStore& store, ShardedAdamW& optimizer) {
  std::vector<int> ids;  // by the optimizer's number
  for (int id = 0; id < store.count(); ++id)
    if (store.info(id).trainable) ids.push_back(id);
  std::vector<OwnedState> owned;
  for (const OwnedPart& part : optimizer.parts()) {
    const int id = ids.at(static_cast<std::size_t>(part.tensor));
    const auto elems = static_cast<std::size_t>(part.elems), offset = static_cast<std::size_t>(part.offset);
    owned.push_back({.id = id,
                     .first = part.first,
                     .elems = part.elems,
                     .values = store.own_values(id, part.first, part.elems),
                     .exp_avg = optimizer.exp_avg().subspan(offset, elems),
                     .exp_avg_sq = optimizer.exp_avg_sq().subspan(offset, elems)});
  }
  return owned;
}

}  // namespace qat
