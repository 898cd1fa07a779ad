# A file as an array in C:  cmake -DIN=FILE -DOUT=FILE.c -DNAME=symbol -P tools/embed.cmake
file(READ "${IN}" hex HEX)
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
string(REGEX REPLACE "(................................................................................)" "\\1\n" bytes "${bytes}")
file(SIZE "${IN}" n)
file(WRITE "${OUT}" "// Made from ${NAME} by tools/embed.cmake.\nextern const unsigned char ${NAME}[];\nextern const unsigned long ${NAME}_n;\n"
  "const unsigned char ${NAME}[] = {\n${bytes}0};\nconst unsigned long ${NAME}_n = ${n}UL;\n")
