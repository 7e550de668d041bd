# What is installed: `cmake --install BUILD --component tool|client|core`.
#   tool             the program `perdure` with its kernels and its agent, which stand beside it: in lib/perdure, linked
#                    from bin
# And what others build on, by find_package(Perdure COMPONENTS client core):
#   Perdure::client  the client library: system calls as Result<T>, descriptors that close themselves (client/)
#   Perdure::core    the core, freestanding: whoever embeds it supplies core/base/platform.h and a Machine
# Neither needs anything else of this repository, and client needs nothing of core but numbers and types.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(home ${CMAKE_INSTALL_LIBDIR}/perdure)
install(TARGETS perdure perdure-kernel-a perdure-kernel-b RUNTIME DESTINATION ${home} COMPONENT tool)
install(TARGETS perdure-agent LIBRARY DESTINATION ${home} COMPONENT tool)
install(CODE "
  file(MAKE_DIRECTORY \"\$ENV{DESTDIR}\${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_BINDIR}\")
  file(CREATE_LINK ../${home}/perdure \"\$ENV{DESTDIR}\${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_BINDIR}/perdure\" SYMBOLIC)
  " COMPONENT tool)

set(headers ${CMAKE_INSTALL_INCLUDEDIR}/perdure)
set(package ${CMAKE_INSTALL_LIBDIR}/cmake/Perdure)

# The sources of the folder once more, as users get them: without this project's warnings or sanitizers.
get_target_property(client_sources perdure_client SOURCES)
get_target_property(libc_sources perdure_client_libc SOURCES)
list(TRANSFORM client_sources PREPEND ${CMAKE_SOURCE_DIR}/client/)
list(TRANSFORM libc_sources PREPEND ${CMAKE_SOURCE_DIR}/client/libc/)
add_library(perdure_install_client STATIC ${client_sources} ${libc_sources})
foreach(library client client_libc core_base core_uapi)
  target_include_directories(perdure_install_client PRIVATE ${CMAKE_BINARY_DIR}/imports/perdure_${library})
endforeach()
set_target_properties(perdure_install_client PROPERTIES OUTPUT_NAME perdure-client EXPORT_NAME client
                      POSITION_INDEPENDENT_CODE ON)
target_include_directories(perdure_install_client INTERFACE $<INSTALL_INTERFACE:${headers}>)
target_compile_features(perdure_install_client INTERFACE cxx_std_23)
install(TARGETS perdure_install_client EXPORT PerdureClient ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT client)
install(DIRECTORY client DESTINATION ${headers} COMPONENT client FILES_MATCHING PATTERN *.h)
install(DIRECTORY core/uapi DESTINATION ${headers}/core COMPONENT client FILES_MATCHING PATTERN *.h)
install(FILES core/base/errno.h core/base/result.h core/base/types.h DESTINATION ${headers}/core/base COMPONENT client)

set_target_properties(perdure_core_freestanding PROPERTIES OUTPUT_NAME perdure-core EXPORT_NAME core
                      EXCLUDE_FROM_ALL FALSE)
target_include_directories(perdure_core_freestanding INTERFACE $<INSTALL_INTERFACE:${headers}>)
target_compile_features(perdure_core_freestanding INTERFACE cxx_std_23)
# It is compiled for a fixed address, as kernels are.
target_link_options(perdure_core_freestanding INTERFACE $<INSTALL_INTERFACE:-no-pie>)
install(TARGETS perdure_core_freestanding EXPORT PerdureCore ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT core)
install(DIRECTORY core DESTINATION ${headers} COMPONENT core FILES_MATCHING PATTERN *.h PATTERN testing EXCLUDE
        PATTERN fakes.h EXCLUDE)

foreach(part Client Core)
  string(TOLOWER ${part} component)
  install(EXPORT Perdure${part} NAMESPACE Perdure:: DESTINATION ${package} COMPONENT ${component})
endforeach()
configure_package_config_file(cmake/PerdureConfig.cmake.in PerdureConfig.cmake INSTALL_DESTINATION ${package})
write_basic_package_version_file(PerdureConfigVersion.cmake COMPATIBILITY SameMinorVersion)
foreach(component client core)
  install(FILES ${CMAKE_BINARY_DIR}/PerdureConfig.cmake ${CMAKE_BINARY_DIR}/PerdureConfigVersion.cmake
          DESTINATION ${package} COMPONENT ${component})
endforeach()
