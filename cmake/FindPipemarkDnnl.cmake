# oneDNN as the target pipemark::dnnl. Its own package file can't be used on Debian, where it asks for
# OpenCL's headers, which the C interface does not need.
find_path(PIPEMARK_DNNL_INCLUDE_DIR dnnl.h)
find_library(PIPEMARK_DNNL_LIBRARY dnnl)
if(PIPEMARK_DNNL_INCLUDE_DIR AND PIPEMARK_DNNL_LIBRARY AND NOT TARGET pipemark::dnnl)
  add_library(pipemark::dnnl UNKNOWN IMPORTED)
  set_target_properties(pipemark::dnnl PROPERTIES
    IMPORTED_LOCATION "${PIPEMARK_DNNL_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${PIPEMARK_DNNL_INCLUDE_DIR}")
endif()
mark_as_advanced(PIPEMARK_DNNL_INCLUDE_DIR PIPEMARK_DNNL_LIBRARY)
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(PipemarkDnnl
  REQUIRED_VARS PIPEMARK_DNNL_LIBRARY PIPEMARK_DNNL_INCLUDE_DIR
  REASON_FAILURE_MESSAGE "install libdnnl-dev")
