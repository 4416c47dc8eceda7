#!/usr/bin/env bash
# Installs what qat_dist needs to be built and run; does nothing where it is there already.
#   Debian or Ubuntu packages   apt-get, as root or through sudo
#   CMake                       PyPI's, when the system's is too old          } kept in QAT_CACHE
#   LibTorch                    PyPI's torch wheel, unpacked (no Python used) } (default ~/.cache/qat_dist)
#   CUTLASS                     PyPI's headers, where there is nvcc           }
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/toolchain.sh"

usage() {
  cat <<END
usage: launch/setup.sh [--dev] [--cuda] [--no-packages]
  --dev          also clang-format and clang-tidy 19, which .ci/run uses
  --cuda         LibTorch whole, with NVIDIA's libraries (also: QAT_WITH_CUDA=ON); without it the CPU half
  --no-packages  install no system packages and look for none (also: QAT_SKIP_PACKAGES=1)
environment: QAT_CACHE (where CMake and LibTorch are kept), QAT_LIBTORCH (a LibTorch $qat_torch_version of your own: the
folder that holds include/ and lib/), CMAKE_PREFIX_PATH (searched for one), PIP_INDEX_URL and what else pip reads
END
}

# What CMake's find_package lines and these scripts need; behind the colon a command that stands in for the package.
packages=(g++:g++ git:git ninja-build:ninja ccache:ccache openmpi-bin:mpirun python3:python3 ca-certificates
  libopenmpi-dev libhdf5-dev libfmt-dev libspdlog-dev nlohmann-json3-dev libcli11-dev libxxhash-dev
  libgtest-dev libgmock-dev libbenchmark-dev)
cmake_version=4.4.4
# The wheel's libtorch_cpu links these two even on a machine without a GPU.
torch_wheels=("torch==$qat_torch_version" nvidia-cuda-runtime==13.0.96 nvidia-cuda-cupti==13.0.85)

half=cpu
skip_packages=${QAT_SKIP_PACKAGES:-0}
case ${QAT_WITH_CUDA:-OFF} in ON | on | 1 | YES | yes | TRUE | true) half=whole ;; esac
for arg in "$@"; do
  case $arg in
    --dev) packages+=(clang-format:clang-format clang-tidy-19:clang-tidy-19) ;;
    --cuda) half=whole ;;
    --no-packages) skip_packages=1 ;;
    -h | --help) usage; exit 0 ;;
    *) echo "setup: unknown argument $arg" >&2; usage >&2; exit 2 ;;
  esac
done

say() { echo "setup: $*"; }
die() { echo "setup: $1" >&2; exit "${2:-1}"; }

# --- what is missing -------------------------------------------------------------------------------------------------
need_cmake=0 need_torch=0
cmake=$(qat_find_cmake) || need_cmake=1
marker=$qat_torch_home/qat_dist.txt  # written last, so a folder that has it is whole: "torch 2.11.0 cpu"
if torch=$(qat_users_libtorch); then
  say "LibTorch $qat_torch_version of yours: $torch"
elif [ -n "${QAT_LIBTORCH:-}" ]; then
  found=$(qat_libtorch_version "$QAT_LIBTORCH") || found=none
  die "QAT_LIBTORCH=$QAT_LIBTORCH: expected LibTorch $qat_torch_version there (include/ and lib/), found $found;
setup: point it at that version, or unset it to have it fetched" 2
else
  torch=$qat_torch_home/torch
  case $(cat "$marker" 2>/dev/null) in
    "torch $qat_torch_version $half" | "torch $qat_torch_version whole") ;;
    *) need_torch=1 ;;
  esac
fi

# GPU code is compiled where there is nvcc, unless QAT_WITH_CUDA=OFF.
need_cutlass=0
if [ $half = whole ] || command -v nvcc >/dev/null || [ -x /usr/local/cuda/bin/nvcc ]; then
  case ${QAT_WITH_CUDA:-} in OFF | off | 0 | NO | no | FALSE | false) ;; *)
    [ -n "${QAT_CUTLASS:-}" ] || [ -e "$qat_cutlass_home/include/cutlass/cutlass.h" ] || need_cutlass=1 ;;
  esac
fi
need_pip=$((need_cmake + need_torch + need_cutlass))
if [ $need_pip != 0 ]; then
  python3 -m pip --version >/dev/null 2>&1 || packages+=(python3-pip)
fi

# --- packages --------------------------------------------------------------------------------------------------------
missing_packages() {
  local package name installed
  local -a wanted=()
  for package in "${packages[@]}"; do
    name=${package%%:*}
    [ "$name" != "$package" ] && command -v "${package#*:}" >/dev/null && continue
    wanted+=("$name")
  done
  # dpkg-query fails when it has never heard of one of them, and still answers for the others.
  installed=$(dpkg-query -W -f='${db:Status-Status} ${Package}\n' "${wanted[@]}" 2>/dev/null) || true
  for name in "${wanted[@]}"; do
    grep -qxF "installed $name" <<<"$installed" || echo "$name"
  done
}

install_packages() {
  local -a missing as_root=()
  local log
  if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    die "this is neither Debian nor Ubuntu (no apt-get). Install the like of these Debian packages yourself:
  ${packages[*]%%:*}
then run it again with --no-packages (or with QAT_SKIP_PACKAGES=1 in the environment)." 2
  fi
  mapfile -t missing < <(missing_packages)
  [ ${#missing[@]} = 0 ] && return
  if [ "$(id -u)" != 0 ]; then
    # A sudo that would ask for a password is of use only where someone can type it.
    if command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
      as_root=(sudo)
    else
      die "${#missing[@]} packages are missing, and installing them takes root or sudo. Have someone run:
  apt-get install --no-install-recommends ${missing[*]}" 2
    fi
  fi
  log=$(mktemp)
  say "installing ${#missing[@]} packages: ${missing[*]}"
  local -a apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 -o Dpkg::Use-Pty=0)
  if ! "${apt[@]}" update >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    die "apt-get update failed (see above)"
  fi
  "${apt[@]}" install --no-install-recommends --assume-no "${missing[@]}" 2>/dev/null |
    sed -n 's/^Need to get/setup: to fetch:/p; s/^After this operation,/setup: on disk:/p' || true
  if ! "${apt[@]}" install --no-install-recommends --yes "${missing[@]}" >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    die "apt-get install failed (see above; whole log: $log)"
  fi
  rm -f "$log"
}

# --- from PyPI -------------------------------------------------------------------------------------------------------
# pip into a folder of its own. The wheels are named for a fixed Python, so any python3 with pip can fetch them.
pip_into() {
  local target=$1 glibc
  shift
  local -a platforms=("--platform=manylinux2014_$(uname -m)")
  for glibc in $(seq 17 28); do platforms+=("--platform=manylinux_2_${glibc}_$(uname -m)"); done
  # pip unpacks below TMPDIR first: beside the target, moving it there is a rename, not a copy of a gigabyte.
  TMPDIR=$target.tmp PIP_DEFAULT_TIMEOUT=${PIP_DEFAULT_TIMEOUT:-60} PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore python3 -m pip install --quiet --no-cache-dir --no-compile --no-warn-conflicts --target "$target" \
    --only-binary=:all: --implementation cp --python-version 3.12 "${platforms[@]}" "$@"
}

# fetch HOME FUNCTION: FUNCTION fills a folder beside HOME, which becomes HOME in one rename: an interrupted download
# leaves nothing that looks done.
fetch() {
  local home=$1 partial=$1.partial
  rm -rf "$partial" "$partial.tmp"
  mkdir -p "$partial" "$partial.tmp"
  "$2" "$partial"
  rm -rf "$home.old"
  [ ! -e "$home" ] || mv -T "$home" "$home.old"
  mv -T "$partial" "$home"
  rm -rf "$home.old" "$partial.tmp"
}

need_space() {  # MB
  local free
  free=$(df -Pm "$qat_cache" | awk 'NR == 2 { print $4 }')
  [ "$free" -ge "$1" ] || die "$qat_cache has $free MB free, $1 MB are needed: make room, or set QAT_CACHE elsewhere"
}

fill_cmake() {
  pip_into "$1" --no-deps "cmake==$cmake_version" || die "CMake could not be fetched (see above)"
  "$1/cmake/data/bin/cmake" --version >/dev/null || die "the fetched CMake does not run"
}

fill_cutlass() {
  local target=$1
  pip_into "$target" --no-deps "nvidia-cutlass==$qat_cutlass_version" || die "CUTLASS could not be fetched (see above)"
  mv "$target/cutlass_library/source/include" "$target/include"
  find "$target" -mindepth 1 -maxdepth 1 ! -name include ! -name '*.dist-info' -exec rm -rf {} +
}

fill_torch() {
  local target=$1 metadata missing
  local -a companions
  if [ $half = cpu ]; then
    pip_into "$target" --no-deps "${torch_wheels[@]}" || die "LibTorch could not be fetched (see above)"
    # Python's part and the GPU's: more than half of it.
    find "$target" -mindepth 1 -maxdepth 1 ! -name torch ! -name nvidia ! -name '*.dist-info' -exec rm -rf {} +
    find "$target/torch" -mindepth 1 -maxdepth 1 ! -name lib ! -name include -exec rm -rf {} +
    find "$target/torch/lib" \( -name '*_cuda*' -o -name '*_python*' -o -name '*nvshmem*' -o -name '*nvrtc*' \
      -o -name libtorch.so -o -name '*global_deps*' \) -delete
    find "$target/nvidia" -type f ! -name 'libcudart.so*' ! -name 'libcupti.so*' ! -iname '*license*' -delete
    find "$target/nvidia" -type d -empty -delete
  else
    pip_into "$target" --no-deps "torch==$qat_torch_version" || die "LibTorch could not be fetched (see above)"
    # The NVIDIA libraries that this very wheel names; its Python dependencies stay out.
    metadata=$target/torch-$qat_torch_version.dist-info/METADATA
    mapfile -t companions < <(sed -n 's/^Requires-Dist: \(\(nvidia-\|cuda-toolkit\)[^;]*\).*/\1/p' "$metadata" | tr -d ' ')
    [ ${#companions[@]} -gt 0 ] || die "torch $qat_torch_version names no NVIDIA libraries for $(uname -m)"
    pip_into "$target" "${companions[@]}" || die "NVIDIA's libraries could not be fetched (see above)"
  fi
  [ "$(qat_libtorch_version "$target/torch")" = "$qat_torch_version" ] || die "what was fetched is no LibTorch $qat_torch_version"
  missing=$(ldd "$target/torch/lib/libtorch_cpu.so" | sed -n 's/^[[:space:]]*\(.*\) => not found/\1/p')
  [ -z "$missing" ] || die "the fetched LibTorch cannot load: $missing is missing"
  echo "torch $qat_torch_version $half" >"$target/${marker##*/}"
}

[ "$skip_packages" = 1 ] || install_packages
if [ $need_pip != 0 ]; then
  python3 -m pip --version >/dev/null 2>&1 || die "python3 with pip is needed to fetch from PyPI: install python3-pip" 2
  mkdir -p "$qat_cache"
  exec 9>"$qat_cache/.lock"
  flock -n 9 || { say "another set-up is at work: waiting for it"; flock 9; }
fi
if [ $need_cmake = 1 ] && ! cmake=$(qat_find_cmake); then
  need_space 200
  say "fetching CMake $cmake_version from PyPI: 30 MB, 90 MB on disk, into $qat_cmake_home"
  fetch "$qat_cmake_home" fill_cmake
  cmake=$(qat_find_cmake)
fi
if [ $need_cutlass = 1 ] && [ ! -e "$qat_cutlass_home/include/cutlass/cutlass.h" ]; then
  need_space 100
  say "fetching CUTLASS $qat_cutlass_version (headers) from PyPI: 6 MB, 27 MB on disk, into $qat_cutlass_home"
  fetch "$qat_cutlass_home" fill_cutlass
fi
if [ $need_torch = 1 ] && ! grep -qsx "torch $qat_torch_version \($half\|whole\)" "$marker"; then
  if [ $half = cpu ]; then
    need_space 2500
    say "fetching LibTorch $qat_torch_version (CPU half) from PyPI: 540 MB, 500 MB on disk, into $qat_torch_home"
  else
    need_space 8000
    say "fetching LibTorch $qat_torch_version with NVIDIA's libraries from PyPI: 2.5 GB, 4.7 GB on disk, into $qat_torch_home"
  fi
  fetch "$qat_torch_home" fill_torch
fi
say "ready: $("$cmake" --version | head -n 1) ($cmake), LibTorch $qat_torch_version ($torch)"
