# PCRE2, 8-bit: target PCRE2::pcre2_8. Debian ships no CMake package for it.
find_path(PCRE2_INCLUDE_DIR pcre2.h)
find_library(PCRE2_LIBRARY pcre2-8)
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(Pcre2 DEFAULT_MSG PCRE2_LIBRARY PCRE2_INCLUDE_DIR)
if(Pcre2_FOUND AND NOT TARGET PCRE2::pcre2_8)
  add_library(PCRE2::pcre2_8 UNKNOWN IMPORTED)
  set_target_properties(PCRE2::pcre2_8 PROPERTIES IMPORTED_LOCATION ${PCRE2_LIBRARY}
                        INTERFACE_INCLUDE_DIRECTORIES ${PCRE2_INCLUDE_DIR}
                        INTERFACE_COMPILE_DEFINITIONS PCRE2_CODE_UNIT_WIDTH=8)
endif()
