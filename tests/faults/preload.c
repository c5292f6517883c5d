/* Counts the file calls of a process below one folder and makes one of them fail, or all from it on.

   To be loaded with LD_PRELOAD. Counting starts with fault_arm(), which the process calls through ctypes.
   A call counts if its path is in the folder, or if a counted call has opened its file descriptor. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define DESCRIPTORS 65536

static char folder[4096];
static size_t length;
static atomic_long count, wanted;
static int number, lasting;
static atomic_char below[DESCRIPTORS];

/* Starts counting the calls below `path` from 1. Call number `nth` fails with errno `error`, and with
   `from_it_on` all later calls fail too. With nth = 0 no call fails. */
void fault_arm(const char *path, long nth, int error, int from_it_on) {
  snprintf(folder, sizeof folder, "%s", path);
  number = error;
  lasting = from_it_on;
  wanted = nth;
  count = 0;
  length = strlen(folder);
}

/* Number of calls counted so far. */
long fault_count(void) { return count; }

static int is_path(int directory, const char *path) {
  if (!length || !path) return 0;
  if (path[0] != '/' && directory != AT_FDCWD)
    return directory >= 0 && directory < DESCRIPTORS && below[directory];
  return !strncmp(path, folder, length) && (path[length] == '/' || !path[length]);
}

static int is_open(int descriptor) {
  return length && descriptor >= 0 && descriptor < DESCRIPTORS && below[descriptor];
}

static int fails(int counts) {
  if (!counts) return 0;
  long now = ++count;
  if (!wanted || now < wanted || (now > wanted && !lasting)) return 0;
  errno = number;
  return 1;
}

static int opened(int descriptor, int is_below) {
  if (descriptor >= 0 && descriptor < DESCRIPTORS) below[descriptor] = is_below;
  return descriptor;
}

#define REAL(name) ((typeof(&name))dlsym(RTLD_NEXT, #name))
#define MODE(last) \
  mode_t mode = 0; \
  if (flags & (O_CREAT | O_TMPFILE)) { \
    va_list rest; \
    va_start(rest, last); \
    mode = va_arg(rest, mode_t); \
    va_end(rest); \
  }

#define OPEN(name) \
  int name(const char *path, int flags, ...) { \
    MODE(flags) \
    int is_below = is_path(AT_FDCWD, path); \
    return fails(is_below) ? -1 : opened(REAL(name)(path, flags, mode), is_below); \
  }
#define OPENAT(name) \
  int name(int directory, const char *path, int flags, ...) { \
    MODE(flags) \
    int is_below = is_path(directory, path); \
    return fails(is_below) ? -1 : opened(REAL(name)(directory, path, flags, mode), is_below); \
  }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

#define CALL(type, name, is_below, parameters, arguments) \
  type name parameters { return fails(is_below) ? -1 : REAL(name) arguments; }
#define ON_FILE(type, name, parameters, arguments) CALL(type, name, is_open(file), parameters, arguments)

ON_FILE(ssize_t, read, (int file, void *data, size_t size), (file, data, size))
ON_FILE(ssize_t, pread, (int file, void *data, size_t size, off_t at), (file, data, size, at))
ON_FILE(ssize_t, pread64, (int file, void *data, size_t size, off64_t at), (file, data, size, at))
ON_FILE(ssize_t, write, (int file, const void *data, size_t size), (file, data, size))
ON_FILE(ssize_t, pwrite, (int file, const void *data, size_t size, off_t at), (file, data, size, at))
ON_FILE(ssize_t, pwrite64, (int file, const void *data, size_t size, off64_t at), (file, data, size, at))
ON_FILE(ssize_t, writev, (int file, const struct iovec *data, int parts), (file, data, parts))
ON_FILE(int, fsync, (int file), (file))
ON_FILE(int, fdatasync, (int file), (file))
ON_FILE(int, ftruncate, (int file, off_t size), (file, size))
ON_FILE(int, ftruncate64, (int file, off64_t size), (file, size))

CALL(int, rename, is_path(AT_FDCWD, to), (const char *from, const char *to), (from, to))
CALL(int, renameat, is_path(to_in, to), (int from_in, const char *from, int to_in, const char *to),
     (from_in, from, to_in, to))
CALL(int, mkdir, is_path(AT_FDCWD, path), (const char *path, mode_t mode), (path, mode))
CALL(int, mkdirat, is_path(in, path), (int in, const char *path, mode_t mode), (in, path, mode))
CALL(int, unlink, is_path(AT_FDCWD, path), (const char *path), (path))
CALL(int, unlinkat, is_path(in, path), (int in, const char *path, int flags), (in, path, flags))
CALL(int, rmdir, is_path(AT_FDCWD, path), (const char *path), (path))

int close(int file) { /* the descriptor is closed in either case, as on Linux */
  int fail = fails(is_open(file)), error = errno;
  opened(file, 0);
  int result = REAL(close)(file);
  if (!fail) return result;
  errno = error;
  return -1;
}
