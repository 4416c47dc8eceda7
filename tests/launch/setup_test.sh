#!/usr/bin/env bash
# launch/setup.sh on machines that are not this one: apt-get, dpkg, sudo, pip and id are played by small scripts that
# write down how they were called. Nothing is installed or fetched.
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
bin=$work/bin calls=$work/calls
version=$(sed -n 's/^set(QAT_TORCH_VERSION \(.*\))$/\1/p' "$root/cmake/FindLibTorch.cmake")
failures=0 cases=0

fake() {  # fake NAME: its text comes on standard input
  { echo "#!$BASH"; cat; } >"$bin/$1"
  chmod +x "$bin/$1"
}

# A folder that passes for LibTorch: make_torch FOLDER VERSION
make_torch() {
  mkdir -p "$1/lib" "$1/include/torch/headeronly" "$1/share/cmake"
  : >"$1/lib/libtorch_cpu.so"
  local major minor patch
  IFS=. read -r major minor patch <<<"$2"
  printf '#define TORCH_VERSION_MAJOR %s\n#define TORCH_VERSION_MINOR %s\n#define TORCH_VERSION_PATCH %s\n' \
    "$major" "$minor" "$patch" >"$1/include/torch/headeronly/version.h"
}

# A Debian machine, root, with everything but LibTorch, which is the user's own.
machine() {
  rm -rf "$bin" "$work/cache" "$work/torch" "$calls"
  mkdir -p "$bin"
  : >"$calls"
  : >"$work/missing"
  local tool
  for tool in awk bash cat dirname env find flock grep head mkdir mktemp mv nproc paste readlink rm sed seq sort tail tr \
    uname uniq; do
    ln -s "$(PATH=/usr/bin:/bin command -v $tool)" "$bin/$tool"
  done
  for tool in g++ git ninja ccache mpirun; do fake $tool <<<'exit 0'; done
  fake df <<<'printf "%s\n" header "fs 1 1 99999 1% /"'
  fake ldd <<<'exit 0'
  fake id <<<'echo 0'
  fake cmake <<<'echo "cmake version 9.9.9"'
  fake dpkg-query <<END
status=0
for name in "\$@"; do
  case \$name in -*) continue ;; esac
  if grep -qx "\$name" "$work/missing"; then status=1; else echo "installed \$name"; fi
done
exit \$status
END
  fake apt-get <<END
echo "apt-get \$*" >>"$calls"
case "\$*" in *--assume-no*) echo "Need to get 7 MB of archives." ;; esac
END
  fake python3 <<END
case "\$*" in "-m pip --version") exit 0 ;; esac
echo "pip \$*" >>"$calls"
while [ "\$1" != --target ]; do shift; done
$(declare -f make_torch)
case "\$*" in
  *cmake==*) mkdir -p "\$2/cmake/data/bin" && cp "$work/good-cmake" "\$2/cmake/data/bin/cmake" ;;
  *torch==*) make_torch "\$2/torch" $version; mkdir "\$2/nvidia" ;;
  *nvidia-cutlass==*) mkdir -p "\$2/cutlass_library/source/include/cutlass"
    : >"\$2/cutlass_library/source/include/cutlass/cutlass.h" ;;
esac
[ ! -e "$work/cut" ]
END
  ln -s "$(PATH=/usr/bin:/bin command -v cp)" "$bin/cp"
  { echo "#!$BASH"; echo 'echo "cmake version 9.9.9"'; } >"$work/good-cmake"
  chmod +x "$work/good-cmake"
  rm -f "$work/cut"
  make_torch "$work/torch" "$version"
  own_torch=$work/torch prefix_path= with_cuda=OFF
}

setup() {
  status=0
  env -i PATH="$bin" HOME="$work/home" QAT_CACHE="$work/cache" QAT_LIBTORCH="$own_torch" \
    CMAKE_PREFIX_PATH="$prefix_path" QAT_WITH_CUDA="$with_cuda" "$BASH" "$root/launch/setup.sh" "$@" >"$work/out" 2>&1 </dev/null || status=$?
}

# expect WHAT STATUS [text in the output ...]
expect() {
  local what=$1 wanted=$2 text
  shift 2
  cases=$((cases + 1))
  if [ "$status" != "$wanted" ]; then
    echo "FAILED: $what: exit status $status, expected $wanted"
    sed 's/^/    /' "$work/out"
    failures=$((failures + 1))
    return
  fi
  for text in "$@"; do
    grep -qF -- "$text" "$work/out" || {
      echo "FAILED: $what: the output does not say: $text"
      sed 's/^/    /' "$work/out"
      failures=$((failures + 1))
    }
  done
}

# calls_are WHAT [regular expression for each call, in order]
calls_are() {
  local what=$1 call ok=1
  shift
  while read -r call; do
    [ $# -gt 0 ] && grep -qE -- "$1" <<<"$call" || ok=0
    shift || true
  done <"$calls"
  if [ $ok = 0 ] || [ $# -gt 0 ]; then
    echo "FAILED: $what: it called"
    sed 's/^/    /' "$calls"
    failures=$((failures + 1))
  fi
}

machine
setup
expect "a machine that has everything" 0 "ready"
calls_are "a machine that has everything"

machine
printf '%s\n' libhdf5-dev libxxhash-dev >"$work/missing"
setup
expect "root" 0 "installing 2 packages: libhdf5-dev libxxhash-dev" "to fetch: 7 MB"
calls_are "root" "^apt-get .*update$" "--assume-no libhdf5-dev libxxhash-dev$" "--yes libhdf5-dev libxxhash-dev$"

machine
fake nvcc <<<'exit 0'
with_cuda=
setup
expect "a machine with nvcc" 0 "fetching CUTLASS"
calls_are "a machine with nvcc" "nvidia-cutlass=="
: >"$calls"
setup
expect "a machine with nvcc, again" 0 "ready"
calls_are "a machine with nvcc, again"

machine
echo clang-tidy-19 >"$work/missing"
setup
expect "without --dev" 0
calls_are "without --dev"
setup --dev
expect "with --dev" 0 "clang-tidy-19"

machine
echo libhdf5-dev >"$work/missing"
fake apt-get <<<'echo "E: no way"; exit 100'
setup
expect "apt-get that fails" 1 "E: no way" "apt-get update failed"

machine
rm "$bin/ninja"
echo ninja-build >"$work/missing"
fake id <<<'echo 1000'
setup
expect "a user without sudo" 2 "root or sudo" "apt-get install --no-install-recommends ninja-build"
calls_are "a user without sudo"

# shellcheck disable=SC2016
fake sudo <<<'[ "$1" != -n ]'
setup
expect "a sudo that would ask, and nobody there" 2 "root or sudo"

fake sudo <<END
[ "\$1" = -n ] && exit 0
echo "sudo" >>"$calls"
exec "\$@"
END
setup
expect "a user with sudo" 0 "installing 1 packages: ninja-build"
calls_are "a user with sudo" sudo update sudo assume-no sudo "--yes ninja-build$"

machine
fake id <<<'echo 1000'
setup
expect "a user without sudo who needs nothing" 0

machine
rm "$bin/apt-get"
setup
expect "another distribution" 2 "neither Debian nor Ubuntu" libopenmpi-dev libhdf5-dev --no-packages
setup --no-packages
expect "another distribution, packages looked after" 0 ready

machine
make_torch "$work/torch" 2.4.1
setup
expect "QAT_LIBTORCH of another version" 2 "$work/torch" "expected LibTorch $version" "found 2.4.1"
own_torch=$work/nowhere
setup
expect "QAT_LIBTORCH with nothing in it" 2 "$work/nowhere" "found none"

machine
own_torch='' prefix_path=/nowhere:$work/torch/share/cmake
setup
expect "LibTorch on CMAKE_PREFIX_PATH" 0 "of yours: $work/torch"
calls_are "LibTorch on CMAKE_PREFIX_PATH"
make_torch "$work/torch" 2.4.1
setup
expect "another version on CMAKE_PREFIX_PATH is passed over" 0 "fetching LibTorch $version"

machine
own_torch='' home=$work/cache/libtorch-$version
touch "$work/cut"
setup
expect "a download cut short" 1 "could not be fetched"
[ ! -e "$home" ] || { echo "FAILED: a download cut short left $home"; failures=$((failures + 1)); }
rm "$work/cut"
setup
expect "the run after it" 0 "fetching LibTorch $version (CPU half)" "MB on disk" "ready"
: >"$calls"
setup
expect "the run after that" 0 ready
calls_are "the run after that"
rm -r "$home/qat_dist.txt"
setup
expect "a folder without its marker is fetched anew" 0 "fetching LibTorch"
[ -z "$(find "$work/cache" -name '*.partial*' -o -name '*.old')" ] || { echo "FAILED: rests in the cache"; failures=1; }

machine
own_torch=''
fake python3 <<<'exit 1'
rm -f "$work/missing"
printf '%s\n' python3-pip >"$work/missing"
setup
expect "no pip" 2 "installing 1 packages: python3-pip" "python3 with pip is needed"

machine
fake cmake <<<'echo "cmake version 3.25.1"'
setup
expect "a CMake that is too old" 0 "fetching CMake" "cmake version 9.9.9"
: >"$calls"
setup
expect "a CMake that is too old, again" 0
calls_are "a CMake that is too old, again"

machine
setup --whatever
expect "an unknown argument" 2 "unknown argument --whatever" usage

echo "$cases cases, $failures failures"
[ $failures = 0 ]
