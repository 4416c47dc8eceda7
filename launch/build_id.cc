#include "launch/build_id.h"

#include <xxhash.h>

#include <string>

#include "src/base/file.h"

namespace qat::launch {

std::uint64_t build_id() {
  const std::string bytes = read_file("/proc/self/exe", ErrorKind::kInternal);
  return XXH3_64bits(bytes.data(), bytes.size());
}

}  // namespace qat::launch
