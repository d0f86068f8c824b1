# nibble_embed(TARGET FILE SYMBOL): puts a file's bytes into a library as `extern const std::string_view nibble::SYMBOL`.
# Run as a script it writes that source; the rule runs again when the file changes.
if(CMAKE_SCRIPT_MODE_FILE)
  file(READ ${FILE} bytes HEX)
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${bytes}")
  string(REGEX REPLACE "(0x0a,)" "\\1\n" bytes "${bytes}")
  file(WRITE ${OUT}
       "#include <string_view>\n\nnamespace nibble {\nnamespace {\nconstexpr unsigned char kBytes[] = {\n${bytes}};\n}\n"
       "extern const std::string_view ${SYMBOL};\nconst std::string_view ${SYMBOL}(reinterpret_cast<const char*>(kBytes), sizeof kBytes);\n}  // namespace nibble\n")
  return()
endif()

set(NIBBLE_EMBED_SCRIPT ${CMAKE_CURRENT_LIST_FILE})
function(nibble_embed target file symbol)
  get_filename_component(name ${file} NAME)
  set(out ${CMAKE_CURRENT_BINARY_DIR}/${name}.cpp)
  add_custom_command(OUTPUT ${out} COMMAND ${CMAKE_COMMAND} -DFILE=${CMAKE_CURRENT_SOURCE_DIR}/${file} -DOUT=${out} -DSYMBOL=${symbol} -P ${NIBBLE_EMBED_SCRIPT}
                     DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${file} ${NIBBLE_EMBED_SCRIPT} VERBATIM)
  target_sources(${target} PRIVATE ${out})
endfunction()
