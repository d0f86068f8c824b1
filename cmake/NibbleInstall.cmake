# `cmake --install BUILD --prefix DIR`: a folder that can be moved as a whole. The program finds its demo model, its prompts and the few shared libraries that come
# with it from where it lies itself.
#
#   bin/nibble                             lib/nibble/*.so          share/nibble/demo, workloads, calibration.jsonl
#   share/man/man1/nibble.1                share/bash-completion/completions/nibble, share/zsh/site-functions/_nibble
#   share/doc/nibble                       README, CHANGELOG, LICENSE, licences of the libraries inside
if(NOT TARGET nibble)
  return()
endif()
set_target_properties(nibble PROPERTIES INSTALL_RPATH "\$ORIGIN/../lib/nibble" BUILD_WITH_INSTALL_RPATH ON)
# DT_RPATH, not DT_RUNPATH: libsoxr finds libgomp by it, too.
target_link_options(nibble PRIVATE -Wl,--disable-new-dtags)

if(NIBBLE_STATIC)
  # What the distribution has no archive of.
  install(TARGETS nibble RUNTIME_DEPENDENCIES PRE_INCLUDE_REGEXES "simdjson|soxr|gomp" PRE_EXCLUDE_REGEXES ".*"
          RUNTIME DESTINATION bin LIBRARY DESTINATION lib/nibble)
else()
  install(TARGETS nibble RUNTIME DESTINATION bin)
endif()
install(DIRECTORY models/demo/ DESTINATION share/nibble/demo PATTERN "training.json" EXCLUDE)
install(FILES models/calibration.jsonl DESTINATION share/nibble)
install(FILES bench/workloads/qualitative.jsonl DESTINATION share/nibble/workloads)
install(FILES README.md CHANGELOG.md LICENSE DESTINATION share/doc/nibble)

# From the program's own flags.
set(written ${CMAKE_BINARY_DIR}/written)
install(CODE "
  file(MAKE_DIRECTORY ${written})
  foreach(made \"man;nibble.1\" \"completion bash;nibble.bash\" \"completion zsh;_nibble\")
    list(GET made 0 command)
    list(GET made 1 file)
    separate_arguments(command)
    execute_process(COMMAND $<TARGET_FILE:nibble> \${command} OUTPUT_FILE ${written}/\${file} COMMAND_ERROR_IS_FATAL ANY)
  endforeach()")
install(FILES ${written}/nibble.1 DESTINATION share/man/man1)
install(FILES ${written}/nibble.bash DESTINATION share/bash-completion/completions RENAME nibble)
install(FILES ${written}/_nibble DESTINATION share/zsh/site-functions)
