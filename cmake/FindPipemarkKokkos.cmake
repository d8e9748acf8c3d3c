# Kokkos 3.4 to 5.x as the target pipemark::kokkos. Debian 12's libtrilinos-kokkos-dev exports targets
# that name an include folder without Kokkos_Core.hpp; the folder that has it is set here.
find_package(Kokkos 3.4 CONFIG QUIET)
if(Kokkos_FOUND AND NOT TARGET pipemark::kokkos)
  get_target_property(_pipemark_kokkos_real Kokkos::kokkos ALIASED_TARGET)
  if(NOT _pipemark_kokkos_real)
    set(_pipemark_kokkos_real Kokkos::kokkos)
  endif()
  get_target_property(_pipemark_kokkos_includes ${_pipemark_kokkos_real} INTERFACE_INCLUDE_DIRECTORIES)
  find_path(PIPEMARK_KOKKOS_INCLUDE_DIR Kokkos_Core.hpp
    HINTS ${_pipemark_kokkos_includes} ${Kokkos_DIR}/../../../include
    PATH_SUFFIXES trilinos)
  if(PIPEMARK_KOKKOS_INCLUDE_DIR AND NOT EXISTS "${_pipemark_kokkos_includes}/Kokkos_Core.hpp"
     AND PIPEMARK_KOKKOS_INCLUDE_DIR MATCHES "trilinos$")
    set_target_properties(${_pipemark_kokkos_real} PROPERTIES
      INTERFACE_INCLUDE_DIRECTORIES "${PIPEMARK_KOKKOS_INCLUDE_DIR}")
  endif()
  add_library(pipemark::kokkos INTERFACE IMPORTED)
  target_link_libraries(pipemark::kokkos INTERFACE Kokkos::kokkos)
  mark_as_advanced(PIPEMARK_KOKKOS_INCLUDE_DIR)
endif()
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(PipemarkKokkos
  REQUIRED_VARS Kokkos_DIR PIPEMARK_KOKKOS_INCLUDE_DIR VERSION_VAR Kokkos_VERSION
  REASON_FAILURE_MESSAGE "install libtrilinos-kokkos-dev, or name another Kokkos by -DKokkos_DIR=...")
