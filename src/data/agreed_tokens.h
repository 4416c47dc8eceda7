// The tokens of a split, opened by all ranks of a run and known to be the same on all of them.
//
// Everything is read once, to find ids beyond the vocabulary and to know the content by its hash. Ranks of one host
// that have the very same files open (device, inode, size, time of the last change) divide that among themselves; a
// rank that sees others, by another mount or from another folder, reads its own. So each host reads its files once, and
// no rank's tokens go unread.
#pragma once

#include <string>
#include <vector>

#include "dist/comm/communicator.h"
#include "src/data/token_source.h"

namespace qat {

// Collective. `host` names this rank's machine. What is wrong with any rank's files, or different between them, is
// thrown on all ranks (dist::AgreedError): kConfig for a bad list, kData for files, the ranks named. Every segment's
// content is known afterwards. named_by: as open_tokens has it.
TokenSource open_agreed_tokens(const std::vector<std::string>& patterns, Split split, int vocab_size,
                               const std::string& host, dist::Communicator& comm, const std::string& named_by = {});

}  // namespace qat
