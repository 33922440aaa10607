# What `cmake --install` lays down: the public headers, the library, oneDNN beside it, and the CMake package.
include(CMakePackageConfigHelpers)
set(package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/fusetape")
set(FUSETAPE_INSTALLED_ONEDNN_DIR "${CMAKE_INSTALL_LIBDIR}/fusetape")

# A shared fusetape finds the oneDNN that it carries wherever the tree is moved to; the others keep their places.
set_target_properties(fusetape PROPERTIES
  INSTALL_RPATH "$ORIGIN/fusetape" INSTALL_RPATH_USE_LINK_PATH ON
  VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})

install(TARGETS fusetape EXPORT fusetapeTargets)
install(DIRECTORY include/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.hpp")
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(EXPORT fusetapeTargets NAMESPACE fusetape:: DESTINATION ${package_dir})

if(FUSETAPE_CARRIES_ONEDNN)
  install(PROGRAMS "${FUSETAPE_ONEDNN_ROOT}/lib/libdnnl.so.3.2"
    DESTINATION ${FUSETAPE_INSTALLED_ONEDNN_DIR} RENAME libdnnl.so.3)
  install(FILES "${FUSETAPE_ONEDNN_ROOT}/share/doc/onednn/LICENSE"
    "${FUSETAPE_ONEDNN_ROOT}/share/doc/onednn/THIRD-PARTY-PROGRAMS"
    DESTINATION ${CMAKE_INSTALL_DOCDIR}/onednn)
endif()

# Where what we linked was found: an installed static fusetape looks there first.
set(FUSETAPE_ONEDNN_FOLDER "")
get_target_property(imported DNNL::dnnl IMPORTED)
if(imported)
  get_target_property(FUSETAPE_ONEDNN_FOLDER DNNL::dnnl LOCATION)
  get_filename_component(FUSETAPE_ONEDNN_FOLDER "${FUSETAPE_ONEDNN_FOLDER}" DIRECTORY)
endif()
list(GET OpenMP_CXX_LIB_NAMES 0 FUSETAPE_OPENMP_NAME)
get_filename_component(FUSETAPE_OPENMP_FOLDER "${OpenMP_${FUSETAPE_OPENMP_NAME}_LIBRARY}" DIRECTORY)

configure_package_config_file(cmake/fusetapeConfig.cmake.in "${PROJECT_BINARY_DIR}/fusetapeConfig.cmake"
  INSTALL_DESTINATION ${package_dir} PATH_VARS FUSETAPE_INSTALLED_ONEDNN_DIR)
write_basic_package_version_file("${PROJECT_BINARY_DIR}/fusetapeConfigVersion.cmake"
  COMPATIBILITY SameMinorVersion)
install(FILES
  "${PROJECT_BINARY_DIR}/fusetapeConfig.cmake" "${PROJECT_BINARY_DIR}/fusetapeConfigVersion.cmake"
  cmake/FusetapeDependencies.cmake
  DESTINATION ${package_dir})
