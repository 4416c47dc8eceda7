// What files with an evaluation's results at one precision are called.
#pragma once

#include <string>

#include "src/eval/width_eval.h"

namespace qat {

// The precision's name, of which a map's may be long and hold any characters: letters, digits, "_", "-" and "." stay,
// others become "_".
std::string file_name_of(const EvaluatedAt& at);

}  // namespace qat
