// The keys of lists of objects, such as quant.overrides: what one element of each may hold. Internal to src/config.
#pragma once

#include <string>
#include <vector>

#include "src/config/field.h"

namespace qat {

template <ListedObject T>
struct ElementTable {
  std::vector<Field<T>> fields;       // their paths have no section
  std::vector<std::string> required;  // of these
  std::string example;
  std::string changes;  // the keys of which an element must give one: "rank or alpha"
};

template <ListedObject T>
const ElementTable<T>& element_table();
template <>
const ElementTable<LayerOverride>& element_table();
template <>
const ElementTable<WidthAdapter>& element_table();
template <>
const ElementTable<WidthMethod>& element_table();
template <>
const ElementTable<WidthFactor>& element_table();
template <>
const ElementTable<LrMilestone>& element_table();

// Whether an element says anything.
bool changes_something(const LayerOverride& element);
bool changes_something(const WidthAdapter& element);
inline bool changes_something(const WidthMethod& /*element*/) { return true; }
inline bool changes_something(const WidthFactor& /*element*/) { return true; }
inline bool changes_something(const LrMilestone& /*element*/) { return true; }

}  // namespace qat
