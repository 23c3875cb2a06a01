/* A disk that stalls on demand, for one process and below one directory: preload it.

   SLOW_DISK_ROOT  the directory; only calls on what lies below it are held
   SLOW_DISK_GATE  while a file of this name exists, those calls wait before they are made
   SLOW_DISK_US    each of those calls takes so many microseconds longer, gate or no gate
   SLOW_DISK_LOG   gets a line "THREAD CALL" for each call that was held, and for each call at all of the first thread

   The calls are the real ones on a real file system; they only begin late, as they would behind a full queue. */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static int is_below(const char *path) {
    const char *root = getenv("SLOW_DISK_ROOT");
    return root && !strncmp(path, root, strlen(root));
}

static void note(const char *call) {
    char line[64];
    int size = snprintf(line, sizeof line, "%ld %s\n", (long)syscall(SYS_gettid), call);
    int fd = (int)syscall(SYS_openat, AT_FDCWD, getenv("SLOW_DISK_LOG"), O_WRONLY | O_APPEND | O_CREAT, 0644);
    if (fd >= 0) {
        (void)!syscall(SYS_write, fd, line, size);
        syscall(SYS_close, fd);
    }
}

static void hold(const char *call) {
    const struct timespec pause = {0, 5000000};
    const char *gate = getenv("SLOW_DISK_GATE");
    int saved = errno, held = 0;
    if (getenv("SLOW_DISK_US"))
        usleep((useconds_t)atoi(getenv("SLOW_DISK_US")));
    while (gate && !access(gate, F_OK)) {
        if (!held++)
            note(call);
        nanosleep(&pause, NULL);
    }
    if (!held && syscall(SYS_gettid) == getpid())
        note(call);
    errno = saved;
}

static void hold_fd(const char *call, int fd) {
    char name[64], path[4096];
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(name, path, sizeof path - 1);
    if (size > 0) {
        path[size] = 0;
        if (is_below(path))
            hold(call);
    }
}

static void hold_path(const char *call, int directory_fd, const char *path) {
    if (path[0] == '/') {
        if (is_below(path))
            hold(call);
    } else if (directory_fd != AT_FDCWD)
        hold_fd(call, directory_fd);
}

#define ON_FD(type, name, fd, params, args)                                                                            \
    type name params {                                                                                                 \
        hold_fd(#name, fd);                                                                                            \
        return ((type(*) params)dlsym(RTLD_NEXT, #name)) args;                                                         \
    }
#define ON_PATH(type, name, directory_fd, path, params, args)                                                          \
    type name params {                                                                                                 \
        hold_path(#name, directory_fd, path);                                                                          \
        return ((type(*) params)dlsym(RTLD_NEXT, #name)) args;                                                         \
    }

ON_FD(ssize_t, pwrite, fd, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at))
ON_FD(ssize_t, pwrite64, fd, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at))
ON_FD(ssize_t, pread, fd, (int fd, void *data, size_t size, off_t at), (fd, data, size, at))
ON_FD(ssize_t, pread64, fd, (int fd, void *data, size_t size, off64_t at), (fd, data, size, at))
ON_FD(ssize_t, preadv, fd, (int fd, const struct iovec *parts, int n, off_t at), (fd, parts, n, at))
ON_FD(ssize_t, preadv64, fd, (int fd, const struct iovec *parts, int n, off64_t at), (fd, parts, n, at))
ON_FD(ssize_t, preadv2, fd, (int fd, const struct iovec *parts, int n, off_t at, int how), (fd, parts, n, at, how))
ON_FD(ssize_t, preadv64v2, fd, (int fd, const struct iovec *parts, int n, off64_t at, int how), (fd, parts, n, at, how))
ON_FD(ssize_t, read, fd, (int fd, void *data, size_t size), (fd, data, size))
ON_FD(ssize_t, write, fd, (int fd, const void *data, size_t size), (fd, data, size))
ON_FD(int, fdatasync, fd, (int fd), (fd))
ON_FD(int, fsync, fd, (int fd), (fd))
ON_FD(int, syncfs, fd, (int fd), (fd))
ON_FD(int, sync_file_range, fd, (int fd, off64_t at, off64_t size, unsigned how), (fd, at, size, how))
ON_FD(int, posix_fallocate, fd, (int fd, off_t at, off_t size), (fd, at, size))
ON_FD(int, posix_fallocate64, fd, (int fd, off64_t at, off64_t size), (fd, at, size))
ON_FD(int, ftruncate, fd, (int fd, off_t size), (fd, size))
ON_FD(int, ftruncate64, fd, (int fd, off64_t size), (fd, size))
ON_FD(ssize_t, sendfile, in, (int out, int in, off_t *at, size_t size), (out, in, at, size))
ON_FD(ssize_t, sendfile64, in, (int out, int in, off64_t *at, size_t size), (out, in, at, size))
ON_PATH(DIR *, opendir, AT_FDCWD, path, (const char *path), (path))
ON_PATH(int, rename, AT_FDCWD, from, (const char *from, const char *to), (from, to))
ON_PATH(int, renameat, from_fd, from, (int from_fd, const char *from, int to_fd, const char *to),
        (from_fd, from, to_fd, to))
ON_PATH(int, unlink, AT_FDCWD, path, (const char *path), (path))
ON_PATH(int, unlinkat, fd, path, (int fd, const char *path, int flags), (fd, path, flags))
ON_PATH(int, mkdir, AT_FDCWD, path, (const char *path, mode_t mode), (path, mode))
ON_PATH(int, mkdirat, fd, path, (int fd, const char *path, mode_t mode), (fd, path, mode))
ON_PATH(int, symlink, AT_FDCWD, path, (const char *to, const char *path), (to, path))
ON_PATH(int, stat, AT_FDCWD, path, (const char *path, struct stat *found), (path, found))
ON_PATH(int, stat64, AT_FDCWD, path, (const char *path, struct stat64 *found), (path, found))
ON_PATH(int, lstat, AT_FDCWD, path, (const char *path, struct stat *found), (path, found))
ON_PATH(int, lstat64, AT_FDCWD, path, (const char *path, struct stat64 *found), (path, found))
ON_PATH(int, fstatat, fd, path, (int fd, const char *path, struct stat *found, int flags), (fd, path, found, flags))
ON_PATH(int, fstatat64, fd, path, (int fd, const char *path, struct stat64 *found, int flags), (fd, path, found, flags))

#define OPENING(name, directory_fd, params, args)                                                                      \
    int name params {                                                                                                  \
        mode_t mode = 0;                                                                                               \
        if (flags & (O_CREAT | O_TMPFILE)) {                                                                           \
            va_list rest;                                                                                              \
            va_start(rest, flags);                                                                                     \
            mode = va_arg(rest, mode_t);                                                                               \
            va_end(rest);                                                                                              \
        }                                                                                                              \
        hold_path(#name, directory_fd, path);                                                                          \
        return ((int (*) params)dlsym(RTLD_NEXT, #name)) args;                                                         \
    }
OPENING(open, AT_FDCWD, (const char *path, int flags, ...), (path, flags, mode))
OPENING(open64, AT_FDCWD, (const char *path, int flags, ...), (path, flags, mode))
OPENING(openat, fd, (int fd, const char *path, int flags, ...), (fd, path, flags, mode))
OPENING(openat64, fd, (int fd, const char *path, int flags, ...), (fd, path, flags, mode))
