#pragma once

#include <string>

namespace qat {

// Words for an unknown key of the object at `section` ("" is the top, "quant.overrides[]" an element of that list):
// which key was probably meant, or which ones are known there.
std::string suggest_key(const std::string& section, const std::string& unknown);

}  // namespace qat
