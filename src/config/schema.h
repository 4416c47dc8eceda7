// What editors and people read about the configuration, made from the table of keys.
#pragma once

#include <string>

namespace qat {

// The JSON Schema (draft-07) of a configuration file: the text of configs/schema.json.
std::string configuration_schema();
// Every key with default, values, unit and meaning: the text of docs/configuration.md.
std::string configuration_markdown();

}  // namespace qat
