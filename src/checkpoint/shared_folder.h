// Whether all ranks see the same folder: every rank writes its part of a checkpoint, and reads it, there.
#pragma once

#include <chrono>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "dist/comm/communicator.h"

namespace qat {

// Some network file systems show what another node has made only after seconds.
inline constexpr std::chrono::milliseconds kFolderPatience{10'000};

// Whether this process sees `path`, made by another node a moment ago.
bool wait_to_see(const std::filesystem::path& path, std::chrono::milliseconds patience = kFolderPatience);

// Collective. Throws AgreedError(kConfig) that names the ranks and `hosts` (by rank; may be empty) that do not see rank
// 0's `folder`: a file that rank 0 makes there, and removes. key: the configuration key that names the folder.
void require_shared_folder(const std::filesystem::path& folder, std::string_view key,
                           std::span<const std::string> hosts, dist::Communicator& comm,
                           std::chrono::milliseconds patience = kFolderPatience);

}  // namespace qat
