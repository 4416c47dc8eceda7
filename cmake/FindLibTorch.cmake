# LibTorch as an unpacked PyPI wheel (or any installation with include/ and lib/): target qat_torch.
# LibTorch's own CMake package insists on nvcc when the wheel was built for CUDA, even for CPU work, so the libraries are
# found here. Looked for: QAT_LIBTORCH (CMake variable or environment: the folder that holds include/ and lib/, nowhere
# else then), CMAKE_PREFIX_PATH (variable and environment), the cache folder that launch/setup.sh fills. Nothing of what
# is found is kept in CMake's cache: the next configuration looks again.
set(QAT_TORCH_VERSION 2.11.0)
set(QAT_LIBTORCH "" CACHE PATH "LibTorch: the folder that holds include/ and lib/")

# The version of the LibTorch in a folder, empty if there is none.
function(qat_libtorch_version folder out)
  set(${out} "" PARENT_SCOPE)
  set(header ${folder}/include/torch/headeronly/version.h)
  if(EXISTS ${folder}/lib/libtorch_cpu.so AND EXISTS ${header})
    file(READ ${header} text)
    if(text MATCHES "VERSION_MAJOR ([0-9]+).*VERSION_MINOR ([0-9]+).*VERSION_PATCH ([0-9]+)")
      set(${out} ${CMAKE_MATCH_1}.${CMAKE_MATCH_2}.${CMAKE_MATCH_3} PARENT_SCOPE)
    endif()
  endif()
endfunction()

if(QAT_LIBTORCH)
  set(torch_candidates ${QAT_LIBTORCH})
elseif(NOT "$ENV{QAT_LIBTORCH}" STREQUAL "")
  set(torch_candidates "$ENV{QAT_LIBTORCH}")
else()
  set(torch_candidates)
  string(REPLACE ":" ";" torch_prefixes "$ENV{CMAKE_PREFIX_PATH}")
  foreach(prefix IN LISTS CMAKE_PREFIX_PATH torch_prefixes)
    # LibTorch itself, a folder that Python imports torch from, or torch.utils.cmake_prefix_path (torch/share/cmake)
    list(APPEND torch_candidates ${prefix} ${prefix}/torch ${prefix}/../..)
  endforeach()
  list(APPEND torch_candidates ${QAT_CACHE_FOLDER}/libtorch-${QAT_TORCH_VERSION}/torch)
endif()

set(torch_root)
set(torch_others)
foreach(folder IN LISTS torch_candidates)
  get_filename_component(folder "${folder}" ABSOLUTE)
  qat_libtorch_version("${folder}" version)
  if(version STREQUAL QAT_TORCH_VERSION)
    set(torch_root ${folder})
    break()
  elseif(version)
    string(APPEND torch_others ", ${version} at ${folder}")
  endif()
endforeach()
set(LibTorch_FOUND FALSE)
if(NOT torch_root)
  list(JOIN torch_candidates ", " looked)
  string(CONCAT LibTorch_NOT_FOUND_MESSAGE "LibTorch ${QAT_TORCH_VERSION} was not found (looked in ${looked}"
                "${torch_others}): run launch/setup.sh, or point QAT_LIBTORCH at the folder with its include/ and lib/")
else()
  set(LibTorch_FOUND TRUE)
  if(NOT TARGET qat_torch)
    add_library(qat_torch INTERFACE)
    target_include_directories(qat_torch SYSTEM INTERFACE ${torch_root}/include
                               ${torch_root}/include/torch/csrc/api/include)
    target_link_libraries(qat_torch INTERFACE ${torch_root}/lib/libtorch_cpu.so ${torch_root}/lib/libc10.so ${CMAKE_DL_LIBS})
    # LibTorch's headers bring an fmt of their own, newer than the system's and without a library to link.
    target_compile_definitions(qat_torch INTERFACE FMT_HEADER_ONLY)
    # The wheel's libtorch_cpu needs the CUDA run-time library even where there is no GPU; it comes in a wheel beside it.
    file(GLOB wheel_libs ${torch_root}/../nvidia/*/lib)
    foreach(dir IN LISTS wheel_libs ITEMS ${torch_root}/lib)
      get_filename_component(dir ${dir} ABSOLUTE)
      target_link_options(qat_torch INTERFACE -Wl,-rpath,${dir} -Wl,-rpath-link,${dir})
    endforeach()
  endif()
endif()
