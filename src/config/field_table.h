#pragma once

#include <span>
#include <string>
#include <vector>

#include "src/config/field.h"
#include "src/config/run_config.h"

namespace qat {

constexpr int kConfigVersion = 1;  // of the key table: raised when a key changes its meaning or goes away

struct Section {
  std::string path;
  std::string meaning;
};

// Every key of the configuration, in the order of its sections.
const std::vector<Field<RunConfig>>& run_fields();
const std::vector<Section>& config_sections();

// The key of that path; nullptr if there is none.
const Field<RunConfig>* find_field(std::string_view path);
const Section* find_section(std::string_view path);

// What a value must be, in words that follow "must be": "an integer from 1 to 1024".
template <typename Owner>
std::string expectation(const Field<Owner>& field);
// The same of one element, for keys whose value is a list; otherwise as expectation().
template <typename Owner>
std::string element_expectation(const Field<Owner>& field);

// {0, 2, 3, 4, 32} as "0, 2..4 or 32".
std::string list_of_ints(const std::vector<int>& ascending);

}  // namespace qat
