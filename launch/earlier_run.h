// Runs that a command would not make again, or take further: those of an earlier start of the same command.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace qat::launch {

// Refuses (Error(kConfig), with the keys) to take the run in `dir` for that of `config` and `sets` if its config.json
// has other values, but for those that change no result, such as checkpoint.every. No run there: nothing. what: the
// run's name in the message; ours: the key or option that names the folder above `dir`.
void require_same_configuration(const std::filesystem::path& dir, const std::optional<std::filesystem::path>& config,
                                const std::vector<std::string>& sets, const std::string& what, const std::string& ours);

}  // namespace qat::launch
