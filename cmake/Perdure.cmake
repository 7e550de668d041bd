# How Perdure's folders become targets.
#
# A folder sees another one only if it names it in DEPENDS: `#include "core/pt/x.h"` is found through a tree of
# links that holds the named folders (and what they name) and nothing else, so the import rule of
# docs/architecture.md cannot be broken by accident.

set(CMAKE_CXX_STANDARD 23)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()
set(CMAKE_CXX_FLAGS_RELEASE "-O2 -g1")

option(PERDURE_TESTS "Build the tests" ON)
option(PERDURE_WERROR "Warnings are errors; off only where code is broken on purpose" ON)
option(PERDURE_BENCH "Build the benchmarks" OFF)
option(PERDURE_FUZZ "Build the fuzz targets for libFuzzer (clang); wants PERDURE_SANITIZE=address" OFF)
option(PERDURE_COVERAGE "Count which lines run (clang)" OFF)
set(PERDURE_SANITIZE "" CACHE STRING "address (with undefined), thread, or empty")

find_program(PERDURE_CCACHE ccache)
if(PERDURE_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${PERDURE_CCACHE})
endif()

add_library(perdure_options INTERFACE)
target_compile_options(perdure_options INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual -Wold-style-cast
  $<$<BOOL:${PERDURE_WERROR}>:-Werror>)
if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
  target_compile_options(perdure_options INTERFACE -Wthread-safety)
endif()
if(PERDURE_SANITIZE STREQUAL "address")
  target_compile_options(perdure_options INTERFACE
    -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -O1)
  target_link_options(perdure_options INTERFACE -fsanitize=address,undefined)
elseif(PERDURE_SANITIZE STREQUAL "thread")
  target_compile_options(perdure_options INTERFACE -fsanitize=thread -fno-omit-frame-pointer -O1)
  target_link_options(perdure_options INTERFACE -fsanitize=thread)
endif()

if(PERDURE_FUZZ)
  target_compile_options(perdure_options INTERFACE -fsanitize=fuzzer-no-link)
endif()
if(PERDURE_COVERAGE)
  target_compile_options(perdure_options INTERFACE -fprofile-instr-generate -fcoverage-mapping)
  target_link_options(perdure_options INTERFACE -fprofile-instr-generate)
endif()

# Behind perdure_options, since the last word wins.
add_library(perdure_not_searched INTERFACE)
target_compile_options(perdure_not_searched INTERFACE -fno-sanitize=fuzzer-no-link)

# The core must build without exceptions and run-time types wherever it builds.
add_library(perdure_core_options INTERFACE)
target_link_libraries(perdure_core_options INTERFACE perdure_options)
target_compile_options(perdure_core_options INTERFACE -fno-exceptions -fno-rtti)
if(PERDURE_SANITIZE STREQUAL "address")
  # The vptr check of UBSan needs RTTI.
  target_compile_options(perdure_core_options INTERFACE -fno-sanitize=vptr)
endif()

# Hosted code that uses classes of the core, which have no run-time types for UBSan's vptr check.
# The last word on a flag wins, so this one stands behind the options.
add_library(perdure_no_vptr_check INTERFACE)
if(PERDURE_SANITIZE STREQUAL "address")
  target_compile_options(perdure_no_vptr_check INTERFACE -fno-sanitize=vptr)
endif()
add_library(perdure_hosted_options INTERFACE)
target_link_libraries(perdure_hosted_options INTERFACE perdure_options perdure_no_vptr_check)

function(perdure_target_name folder out)
  string(REPLACE "/" "_" name "${folder}")
  set(${out} "perdure_${name}" PARENT_SCOPE)
endfunction()

# perdure_folder(core/pt SOURCES … DEPENDS core/mem … LIBRARIES fmt::fmt … [CORE] TESTS …)
#   SOURCES    none: headers only
#   DEPENDS    folders of this project
#   LIBRARIES  other libraries
#   CORE       freestanding rules; also part of the freestanding library
#   TESTS      GoogleTest sources, one program test_<folder> together; TEST_DEPENDS/TEST_LIBRARIES for them alone
function(perdure_folder folder)
  cmake_parse_arguments(ARG "CORE" "" "SOURCES;DEPENDS;LIBRARIES;TESTS;TEST_DEPENDS;TEST_LIBRARIES" ${ARGN})
  perdure_target_name(${folder} target)
  get_filename_component(parent ${folder} DIRECTORY)
  set(imports ${CMAKE_BINARY_DIR}/imports/${target})
  file(MAKE_DIRECTORY ${imports}/${parent})
  file(CREATE_LINK ${CMAKE_SOURCE_DIR}/${folder} ${imports}/${folder} SYMBOLIC)

  if(ARG_SOURCES)
    add_library(${target} STATIC ${ARG_SOURCES})
    set(scope PUBLIC)
  else()
    add_library(${target} INTERFACE)
    set(scope INTERFACE)
  endif()
  target_include_directories(${target} ${scope} ${imports})
  if(ARG_CORE)
    if(ARG_SOURCES)
      target_link_libraries(${target} PRIVATE perdure_core_options)
      list(TRANSFORM ARG_SOURCES PREPEND ${CMAKE_SOURCE_DIR}/${folder}/)
      set_property(GLOBAL APPEND PROPERTY PERDURE_CORE_SOURCES ${ARG_SOURCES})
    endif()
    set_property(GLOBAL APPEND PROPERTY PERDURE_CORE_IMPORTS ${imports})
  elseif(ARG_SOURCES)
    target_link_libraries(${target} PRIVATE perdure_hosted_options)
    if(PERDURE_FUZZ AND NOT folder STREQUAL "machine/board/iommu")
      # What inputs are not searched for in: its loops would cost a third of the time.
      target_link_libraries(${target} PRIVATE perdure_not_searched)
    endif()
  endif()
  foreach(dependency ${ARG_DEPENDS})
    perdure_target_name(${dependency} dependency_target)
    target_link_libraries(${target} ${scope} ${dependency_target})
  endforeach()
  target_link_libraries(${target} ${scope} ${ARG_LIBRARIES})

  if(PERDURE_TESTS AND ARG_TESTS)
    perdure_test(test_${target} SOURCES ${ARG_TESTS} DEPENDS ${folder} ${ARG_TEST_DEPENDS}
                 LIBRARIES ${ARG_TEST_LIBRARIES})
  endif()
endfunction()

if(PERDURE_TESTS)
  find_package(GTest REQUIRED)
  enable_testing()
  # Test files are compiled often and run briefly: no optimisation, little debug information, GoogleTest precompiled.
  add_library(perdure_test_options INTERFACE)
  target_compile_options(perdure_test_options INTERFACE -O0 -g1 -Wno-old-style-cast)
  if(PERDURE_SANITIZE STREQUAL "address")
    # The core's classes have no run-time types for the vptr check to look at.
    target_compile_options(perdure_test_options INTERFACE -fno-sanitize=vptr)
  endif()
  add_library(perdure_test_pch OBJECT ${CMAKE_SOURCE_DIR}/cmake/test_pch.cc)
  target_link_libraries(perdure_test_pch PUBLIC GTest::gtest GTest::gmock perdure_options perdure_test_options)
  target_precompile_headers(perdure_test_pch PRIVATE ${CMAKE_SOURCE_DIR}/cmake/test_pch.h)
endif()

# perdure_test(test_x SOURCES … DEPENDS folders… LIBRARIES …): a GoogleTest program, run by ctest.
function(perdure_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;DEPENDS;LIBRARIES;LABELS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE GTest::gtest GTest::gmock GTest::gtest_main perdure_options
                        perdure_test_options perdure_tests_support ${ARG_LIBRARIES})
  target_precompile_headers(${name} REUSE_FROM perdure_test_pch)
  foreach(dependency ${ARG_DEPENDS})
    perdure_target_name(${dependency} dependency_target)
    target_link_libraries(${name} PRIVATE ${dependency_target})
  endforeach()
  add_test(NAME ${name} COMMAND ${name})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  set_tests_properties(${name} PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS "${ARG_LABELS}")
endfunction()
