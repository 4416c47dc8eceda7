// Where every thread of this process is: for the log, when a run hangs.
#pragma once

#include <string>

namespace qat::dist {

// Installs the signal handler that the threads answer with (a real-time signal that nothing else here uses) and loads
// what walks a stack. Once, before the first describe_threads().
void prepare_thread_stacks();

// A paragraph a thread: number, name, state, and its calls, innermost first, as "#2 function + 0x1f (file+0x2b3c)". Of
// other files' functions only exported ones have names; `addr2line -Cfe FILE OFFSET` may know more. A thread that
// blocks the signal or does not answer has no calls. The calling thread is left out. Takes at most about `seconds`. One
// call at a time.
std::string describe_threads(double seconds);

}  // namespace qat::dist
