# shellcheck shell=bash disable=SC2034
# Sourced by the other scripts: which versions are needed and where launch/setup.sh keeps what no package brings.
# The versions themselves stand in the CMake files, so that the two cannot disagree.
qat_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
qat_cache=${QAT_CACHE:-${XDG_CACHE_HOME:-${HOME:?is not set: set it, or QAT_CACHE}/.cache}/qat_dist}
qat_torch_version=$(sed -n 's/^set(QAT_TORCH_VERSION \(.*\))$/\1/p' "$qat_root/cmake/FindLibTorch.cmake")
qat_cmake_minimum=$(sed -n 's/^cmake_minimum_required(VERSION \([0-9.]*\).*/\1/p' "$qat_root/CMakeLists.txt")
qat_torch_home=$qat_cache/libtorch-$qat_torch_version  # holds torch/ and nvidia/, as unpacked wheels do
qat_cutlass_version=$(sed -n 's/^set(QAT_CUTLASS_VERSION \(.*\))$/\1/p' "$qat_root/cmake/Dependencies.cmake")
qat_cutlass_home=$qat_cache/cutlass-$qat_cutlass_version
qat_cmake_home=$qat_cache/cmake
qat_cores=$(nproc)

# qat_at_least 3.31.6 3.30: is the first version not older than the second?
qat_at_least() {
  [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]
}

# Prints the CMake to use: the system's if it is new enough, else the cache's. Fails when there is neither.
qat_find_cmake() {
  local candidate version
  for candidate in cmake "$qat_cmake_home/cmake/data/bin/cmake"; do
    version=$("$candidate" --version 2>/dev/null | sed -n '1s/cmake version //p') || continue
    if [ -n "$version" ] && qat_at_least "$version" "$qat_cmake_minimum"; then
      command -v "$candidate"
      return 0
    fi
  done
  return 1
}

# Prints the version of the LibTorch in a folder that holds include/ and lib/; fails when there is none.
qat_libtorch_version() {
  [ -e "$1/lib/libtorch_cpu.so" ] || return 1
  sed -n 's/^#define TORCH_VERSION_\(MAJOR\|MINOR\|PATCH\) //p' "$1/include/torch/headeronly/version.h" 2>/dev/null |
    paste -sd . | grep .
}

# Prints the folder of a LibTorch of the right version that the user points at; fails when there is none.
# QAT_LIBTORCH is exclusive; CMAKE_PREFIX_PATH is searched as cmake/FindLibTorch.cmake does.
qat_users_libtorch() {
  local prefix folder
  if [ -n "${QAT_LIBTORCH:-}" ]; then
    [ "$(qat_libtorch_version "$QAT_LIBTORCH")" = "$qat_torch_version" ] && echo "$QAT_LIBTORCH"
    return
  fi
  while read -rd : prefix; do
    for folder in "$prefix" "$prefix/torch" "$prefix/../.."; do
      if [ -n "$prefix" ] && [ "$(qat_libtorch_version "$folder")" = "$qat_torch_version" ]; then
        echo "$folder"
        return 0
      fi
    done
  done <<<"${CMAKE_PREFIX_PATH:-}:"
  return 1
}

# qat_configure CMAKE PRESET: takes half a second when nothing has changed; says something only when it fails.
qat_configure() {
  local said
  said=$("$1" --preset "$2" 2>&1) && return
  printf '%s\n' "$said" >&2
  echo "cannot configure $2 (see above)" >&2
  return 1
}
