#include "dist/watch/symbol_table.h"

#include <cxxabi.h>
#include <elf.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>

namespace qat::dist {
namespace {

// `bytes` of the file from `offset`; shorter if the file is.
std::string read_at(std::ifstream& file, std::uint64_t offset, std::uint64_t bytes) {
  constexpr std::uint64_t kMost = std::uint64_t{1} << 30;
  std::string data(std::min(bytes, kMost), '\0');
  file.clear();
  file.seekg(static_cast<std::streamoff>(offset));
  file.read(data.data(), static_cast<std::streamsize>(data.size()));
  data.resize(static_cast<std::size_t>(std::max<std::streamsize>(0, file.gcount())));
  return data;
}

template <typename T>
std::vector<T> read_table(std::ifstream& file, std::uint64_t offset, std::uint64_t count) {
  const std::string bytes = read_at(file, offset, count * sizeof(T));
  std::vector<T> table(bytes.size() / sizeof(T));
  if (!table.empty()) std::memcpy(table.data(), bytes.data(), table.size() * sizeof(T));
  return table;
}

}  // namespace

SymbolTable SymbolTable::of_this_program() {
  SymbolTable table;
  std::ifstream file("/proc/self/exe", std::ios::binary);
  const auto headers = read_table<Elf64_Ehdr>(file, 0, 1);
  if (headers.empty() || std::memcmp(headers[0].e_ident, ELFMAG, SELFMAG) != 0 ||
      headers[0].e_ident[EI_CLASS] != ELFCLASS64 || headers[0].e_shentsize != sizeof(Elf64_Shdr))
    return table;
  table.relocatable_ = headers[0].e_type == ET_DYN;
  const auto sections = read_table<Elf64_Shdr>(file, headers[0].e_shoff, headers[0].e_shnum);
  for (const Elf64_Shdr& section : sections) {
    if (section.sh_type != SHT_SYMTAB || section.sh_link >= sections.size()) continue;
    const Elf64_Shdr& names = sections[section.sh_link];
    table.names_ = read_at(file, names.sh_offset, names.sh_size);
    for (const Elf64_Sym& symbol :
         read_table<Elf64_Sym>(file, section.sh_offset, section.sh_size / sizeof(Elf64_Sym))) {
      if (ELF64_ST_TYPE(symbol.st_info) == STT_FUNC && symbol.st_size > 0 && symbol.st_name < table.names_.size())
        table.functions_.push_back({symbol.st_value, symbol.st_size, symbol.st_name});
    }
  }
  std::sort(table.functions_.begin(), table.functions_.end(),
            [](const Function& a, const Function& b) { return a.begin < b.begin; });
  return table;
}

std::string SymbolTable::describe(std::uintptr_t address, std::uintptr_t base) const {
  const std::uint64_t place = relocatable_ ? address - base : address;
  auto after = std::upper_bound(functions_.begin(), functions_.end(), place,
                                [](std::uint64_t value, const Function& f) { return value < f.begin; });
  if (after == functions_.begin()) return {};
  const Function& function = *std::prev(after);
  if (place >= function.begin + function.size) return {};
  return demangled(names_.c_str() + function.name) + " + " + hex(place - function.begin);
}

std::string demangled(const char* name) {
  int status = 0;
  const std::unique_ptr<char, void (*)(void*)> text(abi::__cxa_demangle(name, nullptr, nullptr, &status), std::free);
  return status == 0 && text ? text.get() : name;
}

std::string hex(std::uintptr_t value) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "0x%llx", static_cast<unsigned long long>(value));
  return text.data();
}

}  // namespace qat::dist
