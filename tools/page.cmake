# The web page of `minke serve`: every file of web/chat, and libraries from Debian's packages, each under the path that
# the browser asks for.  Makes embed/page_table.c, the table behind src/serve/page.h.
set(MK_JAVASCRIPT /usr/share/javascript CACHE PATH "where marked, katex and highlight.js are")
set(MK_KATEX_FONTS /usr/share/fonts/truetype/katex CACHE PATH "where the fonts of KaTeX are")
set(MK_COPYRIGHT /usr/share/doc CACHE PATH "where the licences of these packages are")

function(mk_page_add url file)
  string(MAKE_C_IDENTIFIER mk_page_${url} name)
  mk_embed_as(serve ${name} ${file})
  set_property(GLOBAL APPEND_STRING PROPERTY page_externs "extern const unsigned char ${name}[];\nextern const unsigned long ${name}_n;\n")
  set_property(GLOBAL APPEND_STRING PROPERTY page_rows "    {\"${url}\", ${name}, &${name}_n},\n")
endfunction()

function(mk_page_library url package folder file)
  find_file(found ${file} PATHS ${folder} NO_DEFAULT_PATH NO_CACHE)
  if(NOT found)
    message(FATAL_ERROR "${folder}/${file} is not there: it is in Debian's package ${package} (tools/deps build installs it)")
  endif()
  file(REAL_PATH ${found} found)
  mk_page_add(/web/vendor/${url} ${found})
endfunction()

file(GLOB page_files CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/web/chat/*.js ${CMAKE_SOURCE_DIR}/web/chat/*.css
  ${CMAKE_SOURCE_DIR}/web/chat/*.svg ${CMAKE_SOURCE_DIR}/web/chat/*.png ${CMAKE_SOURCE_DIR}/web/chat/*.webmanifest)
mk_page_add(/ ${CMAKE_SOURCE_DIR}/web/chat/index.html)
foreach(f ${page_files})
  get_filename_component(n ${f} NAME)
  mk_page_add(/web/${n} ${f})
endforeach()

mk_page_library(marked.js libjs-marked ${MK_JAVASCRIPT}/marked marked.min.js)
mk_page_library(highlight.js libjs-highlight.js ${MK_JAVASCRIPT}/highlight.js highlight.min.js)
mk_page_library(katex.js libjs-katex ${MK_JAVASCRIPT}/katex katex.min.js)
mk_page_library(katex.css libjs-katex ${MK_JAVASCRIPT}/katex katex.min.css)
foreach(font AMS-Regular Caligraphic-Bold Caligraphic-Regular Fraktur-Bold Fraktur-Regular Main-Bold Main-BoldItalic
    Main-Italic Main-Regular Math-BoldItalic Math-Italic SansSerif-Bold SansSerif-Italic SansSerif-Regular Script-Regular
    Size1-Regular Size2-Regular Size3-Regular Size4-Regular Typewriter-Regular)
  mk_page_library(fonts/KaTeX_${font}.woff2 fonts-katex ${MK_KATEX_FONTS} KaTeX_${font}.woff2)
endforeach()

# Their licences want to be handed on with them.
foreach(library marked katex highlight.js)
  set(licence ${MK_COPYRIGHT}/libjs-${library}/copyright)
  if(EXISTS ${licence})
    mk_page_add(/web/vendor/${library}.txt ${licence})
  endif()
endforeach()

get_property(externs GLOBAL PROPERTY page_externs)
get_property(rows GLOBAL PROPERTY page_rows)
file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/embed/page_table.c @ONLY CONTENT
  "// Made by tools/page.cmake.\n#include \"serve/page.h\"\n\n@externs@\nconst mk_page_file mk_page_files[] = {\n@rows@    {0},\n};\n")
target_sources(mk_serve PRIVATE ${CMAKE_BINARY_DIR}/embed/page_table.c)
