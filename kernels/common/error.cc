#include "kernels/common/error.h"

namespace qat {

void fail_internal(const char* condition, const std::string& what, const char* file, int line) {
  throw Error(ErrorKind::kInternal, "internal error: " + what + " (`" + condition + "` is false at " + file + ":" +
                                        std::to_string(line) + ")");
}

}  // namespace qat
