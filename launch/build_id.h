#pragma once

#include <cstdint>

namespace qat::launch {

// A hash of this program's file: equal on ranks that run the same build.
std::uint64_t build_id();

}  // namespace qat::launch
