// How much of a GPU there is to keep busy. For .cu files.
#pragma once

namespace qat::kernels {

// Of the calling thread's device.
int multiprocessors();

}  // namespace qat::kernels
