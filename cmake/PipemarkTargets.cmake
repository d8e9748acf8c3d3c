# pipemark_library(kernels SOURCES ... LINK ...)  -> target pipemark_kernels, alias pipemark::kernels
# pipemark_test(NAME SOURCES ... LINK ... LABELS cpu [RANKS 4]) -> a GoogleTest program, under mpirun when RANKS is given
# pipemark_benchmark(NAME SOURCES ... LINK ...)   -> a Google Benchmark program

add_library(pipemark_flags INTERFACE)
target_include_directories(pipemark_flags INTERFACE ${CMAKE_SOURCE_DIR})
target_compile_features(pipemark_flags INTERFACE cxx_std_20)
target_compile_options(pipemark_flags INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra>
  $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<BOOL:${PIPEMARK_ENABLE_WARNINGS_AS_ERRORS}>>:-Werror>
  $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<BOOL:${PIPEMARK_ENABLE_NATIVE}>>:-march=native>)
if(PIPEMARK_ENABLE_SANITIZERS)
  target_compile_options(pipemark_flags INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=address,undefined -fno-omit-frame-pointer -fno-sanitize-recover=undefined>)
  target_link_options(pipemark_flags INTERFACE -fsanitize=address,undefined)
endif()

function(pipemark_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINK;PRIVATE_LINK" ${ARGN})
  add_library(pipemark_${name} STATIC ${ARG_SOURCES})
  add_library(pipemark::${name} ALIAS pipemark_${name})
  target_link_libraries(pipemark_${name} PUBLIC pipemark_flags fmt::fmt ${ARG_LINK}
                        PRIVATE ${ARG_PRIVATE_LINK})
  set_target_properties(pipemark_${name} PROPERTIES POSITION_INDEPENDENT_CODE ON)
endfunction()

function(pipemark_test name)
  if(NOT PIPEMARK_ENABLE_TESTS)
    return()
  endif()
  cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;LINK;LABELS;RANKS;ENVIRONMENT" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  add_executable(${name} ${ARG_SOURCES})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  if(ARG_RANKS)  # a program with its own main() that calls MPI_Init (tests/mpi_main.cpp)
    target_link_libraries(${name} PRIVATE ${ARG_LINK} GTest::gtest GTest::gmock MPI::MPI_CXX)
    foreach(ranks IN LISTS ARG_RANKS)
      add_test(NAME ${name}.${ranks}
        COMMAND ${CMAKE_SOURCE_DIR}/scripts/mpirun-local ${ranks} $<TARGET_FILE:${name}>)
      set_tests_properties(${name}.${ranks} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT}
        PROCESSORS 2 SKIP_RETURN_CODE 77 ENVIRONMENT "${ARG_ENVIRONMENT}")
    endforeach()
  else()
    target_link_libraries(${name} PRIVATE ${ARG_LINK} GTest::gtest_main GTest::gmock)
    add_test(NAME ${name} COMMAND ${name})
    set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT}
      SKIP_RETURN_CODE 77 ENVIRONMENT "${ARG_ENVIRONMENT}")
  endif()
endfunction()

function(pipemark_benchmark name)
  if(NOT PIPEMARK_ENABLE_BENCHMARKS)
    return()
  endif()
  cmake_parse_arguments(ARG "" "" "SOURCES;LINK" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ${ARG_LINK} benchmark::benchmark)
endfunction()
