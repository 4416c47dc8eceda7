// Which NCCL this process runs with, for code that sees no NCCL header.
#pragma once

namespace qat::dist {

// As NCCL counts: 22703 is 2.27.3. -1: built without it.
struct NcclVersions {
  int built = -1;   // with its headers
  int loaded = -1;  // by this process
};
NcclVersions nccl_versions() noexcept;

}  // namespace qat::dist
