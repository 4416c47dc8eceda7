// Prompts from a file: one a line, or, of a file named *.jsonl, one object {"prompt": "text"} a line.
#pragma once

#include <string>
#include <vector>

namespace qat {

// In the file's order. A line's text is the prompt as it stands, without its line end (LF or CRLF); an empty line is an
// empty prompt, a line of *.jsonl with blanks only none. Throws Error(kData), naming the file and the line, for a file
// that cannot be read, has no prompt, or a line that is no such object.
std::vector<std::string> read_prompts(const std::string& path);

}  // namespace qat
