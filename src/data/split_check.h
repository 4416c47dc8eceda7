// Whether training and held-out tokens go together: one kind of ids, and no text in both.
#pragma once

#include <string>
#include <vector>

#include "src/data/data_config.h"
#include "src/data/data_identity.h"

namespace qat {

// Throws kConfig, naming the keys, where one split is the built-in text (bytes, ids up to 256) and the other has larger
// ids: it was made by another tokenizer. Two splits of files may differ so by chance: a line for the log.
std::vector<std::string> check_same_ids(const DataConfig& config, const SplitIdentity& train, const SplitIdentity& val);

// Lines for the log, of files that are one and the same (whatever path or link leads there) or hold the same tokens:
// in both splits, or twice in one.
std::vector<std::string> find_overlaps(const TokenSource& train, const TokenSource& val);

}  // namespace qat
