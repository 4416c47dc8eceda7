// One HTML file that needs nothing else: no script, no network. Follows the screen's light or dark scheme, and prints.
#pragma once

#include <string>
#include <string_view>

namespace qat {

// &, <, > and quotes as HTML has them.
std::string html_text(std::string_view text);

// body: HTML. title: text.
std::string html_page(std::string_view title, std::string_view body);

}  // namespace qat
