// The keys of models that answer questions: a part of the table (field_table.cc). Internal to src/config.
#pragma once

#include <vector>

#include "src/config/field.h"
#include "src/config/run_config.h"

namespace qat {

void add_question_fields(std::vector<Field<RunConfig>>& fields);

}  // namespace qat
