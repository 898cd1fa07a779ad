# Cross build for 64-bit ARM with Debian's compiler; `make neon` runs the result under qemu-user.
# MK_SYSROOT: a folder with the ARM libraries (tools/neon unpacks Debian's there).
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_FIND_ROOT_PATH /usr/aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_TRY_COMPILE_PLATFORM_VARIABLES MK_SYSROOT)
set(ENV{PKG_CONFIG_LIBDIR} ${MK_SYSROOT}/usr/lib/aarch64-linux-gnu/pkgconfig)
set(ENV{PKG_CONFIG_SYSROOT_DIR} ${MK_SYSROOT})
list(APPEND CMAKE_FIND_ROOT_PATH ${MK_SYSROOT})
