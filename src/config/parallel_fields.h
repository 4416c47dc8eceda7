// The keys of section "parallel": a part of the table (field_table.cc). Internal to src/config.
#pragma once

#include <vector>

#include "src/config/field.h"
#include "src/config/run_config.h"

namespace qat {

void add_parallel_fields(std::vector<Field<RunConfig>>& fields);

}  // namespace qat
