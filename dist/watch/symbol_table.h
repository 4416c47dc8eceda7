// Names of this program's own functions, also of those that no other module may call.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace qat::dist {

class SymbolTable {
 public:
  // Of the running program; empty if its file cannot be read or is stripped.
  static SymbolTable of_this_program();

  // "qat::f(int) + 0x1f" for an address of the program, `base` being where it is loaded; empty: no function is known
  // there.
  std::string describe(std::uintptr_t address, std::uintptr_t base) const;

 private:
  struct Function {
    std::uint64_t begin, size;
    std::size_t name;  // offset in names_
  };
  std::vector<Function> functions_;
  std::string names_;
  bool relocatable_ = true;  // addresses in the file are relative to the base
};

// "qat::f(int)" for "_ZN3qat1fEi"; other names as they are.
std::string demangled(const char* name);

// "0x1f".
std::string hex(std::uintptr_t value);

}  // namespace qat::dist
