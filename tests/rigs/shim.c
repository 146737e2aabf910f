/* Counts the calls of each kind on what lies below one folder, writes them down, and lets the n-th fail. Preloaded; driven by
   inject.py.

   A path is taken as it is given (the rig gives absolute ones); a descriptor's is looked up. Kinds stand in the order of
   inject.KINDS. A short read or write does half of what was asked, and succeeds. A close that fails has closed. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OPEN, READ, PREAD, WRITE, FSYNC, FDATASYNC, RENAME, LINK, MKDIR, RMDIR, UNLINK, FLOCK, OPENDIR, STATVFS, STAT, FSTAT, CLOSE,
       LSEEK, KINDS };

int fault_on = 0, fault_log = -1, fault_kind = -1, fault_errno = 0, fault_from_then_on = 0, fault_short = 0;
long fault_number = 0;
char fault_root[PATH_MAX] = "", fault_where[PATH_MAX] = "";
atomic_long fault_counts[KINDS];
atomic_int fault_hits;

/* A record: the kind, the path, and what a name is given to or how a line of a journal begins. */
static void note(int kind, const char *path, const char *more, int length) {
    if (kind == WRITE && !strstr(path, "-journal")) length = 0;
    if (fault_log >= 0) dprintf(fault_log, "%d\x1f%s\x1f%.*s\x1e", kind, path, length, more);
}

static __thread const char *noted = "";
static __thread int noted_length = 0;

static int fails(int kind, const char *path, int descriptor) {
    char found[PATH_MAX] = "";
    if (!fault_on || (!path && descriptor < 3)) return 0;
    if (!path || path[0] != '/') {
        char link[64];
        snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
        ssize_t length = readlink(link, found, sizeof found - 1);
        if (length < 0) return 0;
        found[length] = 0;
        path = found;
    }
    if (strncmp(path, fault_root, strlen(fault_root))) return 0;
    note(kind, path, noted, noted_length);
    long number = atomic_fetch_add(&fault_counts[kind], 1) + 1;
    if (kind != fault_kind || !(number == fault_number || (fault_from_then_on && number > fault_number))) return 0;
    if (!atomic_fetch_add(&fault_hits, 1)) snprintf(fault_where, sizeof fault_where, "%s", path);
    return 1;
}

static int shorter(int kind, const char *path, int descriptor, int *fail) {
    int hit = fails(kind, path, descriptor);
    *fail = hit && !fault_short;
    return hit && fault_short;
}

/* Like fails, with more to write down. */
static int fails_with(int kind, const char *path, int descriptor, const char *more, size_t length) {
    noted = more;
    noted_length = length > 200 ? 200 : (int)length;
    int hit = fails(kind, path, descriptor);
    noted = "";
    noted_length = 0;
    return hit;
}

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)
#define FAIL(kind, path, descriptor, value) \
    if (fails(kind, path, descriptor)) { errno = fault_errno; return value; }

#define OPENS(name) \
    int name(const char *path, int flags, ...) { \
        REAL(int, name, const char *, int, ...); \
        va_list more; va_start(more, flags); mode_t mode = va_arg(more, mode_t); va_end(more); \
        FAIL(OPEN, path, -1, -1) return real(path, flags, mode); }
OPENS(open)
OPENS(open64)

#define OPENATS(name) \
    int name(int at, const char *path, int flags, ...) { \
        REAL(int, name, int, const char *, int, ...); \
        va_list more; va_start(more, flags); mode_t mode = va_arg(more, mode_t); va_end(more); \
        FAIL(OPEN, path, at, -1) return real(at, path, flags, mode); }
OPENATS(openat)
OPENATS(openat64)

ssize_t read(int fd, void *data, size_t size) {
    REAL(ssize_t, read, int, void *, size_t);
    int fail;
    if (shorter(READ, 0, fd, &fail) && size > 1) size /= 2;
    if (fail) { errno = fault_errno; return -1; }
    return real(fd, data, size);
}

ssize_t write(int fd, const void *data, size_t size) {
    REAL(ssize_t, write, int, const void *, size_t);
    int hit = fails_with(WRITE, 0, fd, data, size), fail = hit && !fault_short;
    if (hit && fault_short && size > 1) size /= 2;
    if (fail) { errno = fault_errno; return -1; }
    return real(fd, data, size);
}

ssize_t pread64(int fd, void *data, size_t size, off64_t at) {
    REAL(ssize_t, pread64, int, void *, size_t, off64_t);
    int fail;
    if (shorter(PREAD, 0, fd, &fail) && size > 1) size /= 2;
    if (fail) { errno = fault_errno; return -1; }
    return real(fd, data, size, at);
}

ssize_t preadv64v2(int fd, const struct iovec *parts, int count, off64_t at, int flags) {
    REAL(ssize_t, preadv64v2, int, const struct iovec *, int, off64_t, int);
    int fail;
    if (shorter(PREAD, 0, fd, &fail) && parts[0].iov_len > 1) {
        struct iovec half = {parts[0].iov_base, parts[0].iov_len / 2};
        return real(fd, &half, 1, at, flags);
    }
    if (fail) { errno = fault_errno; return -1; }
    return real(fd, parts, count, at, flags);
}

ssize_t preadv64(int fd, const struct iovec *parts, int count, off64_t at) { return preadv64v2(fd, parts, count, at, 0); }

#define BY_DESCRIPTOR(name, kind) \
    int name(int fd) { REAL(int, name, int); FAIL(kind, 0, fd, -1) return real(fd); }
#define BY_PATH(name, kind) \
    int name(const char *path) { REAL(int, name, const char *); FAIL(kind, path, -1, -1) return real(path); }
#define BY_PATHS(name, kind) \
    int name(const char *from, const char *to) { \
        REAL(int, name, const char *, const char *); \
        if (fails_with(kind, to, -1, from, strlen(from))) { errno = fault_errno; return -1; } \
        return real(from, to); }
#define STATES(name) \
    int name(const char *path, struct stat64 *state) { \
        REAL(int, name, const char *, struct stat64 *); FAIL(STAT, path, -1, -1) return real(path, state); }

BY_DESCRIPTOR(fsync, FSYNC)
BY_DESCRIPTOR(fdatasync, FDATASYNC)
BY_PATHS(rename, RENAME)
BY_PATHS(link, LINK)
BY_PATH(rmdir, RMDIR)
BY_PATH(unlink, UNLINK)
STATES(stat64)
STATES(lstat64)

int linkat(int at, const char *from, int to_at, const char *to, int flags) {
    REAL(int, linkat, int, const char *, int, const char *, int);
    if (fails_with(LINK, to, to_at, from, strlen(from))) { errno = fault_errno; return -1; }
    return real(at, from, to_at, to, flags);
}

int fstatat64(int at, const char *path, struct stat64 *state, int flags) {
    REAL(int, fstatat64, int, const char *, struct stat64 *, int);
    FAIL(STAT, path, at, -1)
    return real(at, path, state, flags);
}

int fstat64(int fd, struct stat64 *state) {
    REAL(int, fstat64, int, struct stat64 *);
    FAIL(FSTAT, 0, fd, -1)
    return real(fd, state);
}

int mkdir(const char *path, mode_t mode) {
    REAL(int, mkdir, const char *, mode_t);
    FAIL(MKDIR, path, -1, -1)
    return real(path, mode);
}

int flock(int fd, int how) {
    REAL(int, flock, int, int);
    FAIL(FLOCK, 0, fd, -1)
    return real(fd, how);
}

DIR *opendir(const char *path) {
    REAL(DIR *, opendir, const char *);
    FAIL(OPENDIR, path, -1, 0)
    return real(path);
}

int statvfs64(const char *path, struct statvfs64 *state) {
    REAL(int, statvfs64, const char *, struct statvfs64 *);
    FAIL(STATVFS, path, -1, -1)
    return real(path, state);
}

int close(int fd) {
    REAL(int, close, int);
    int fail = fails(CLOSE, 0, fd), done = real(fd);
    if (!fail) return done;
    errno = fault_errno;
    return -1;
}

off64_t lseek64(int fd, off64_t at, int whence) {
    REAL(off64_t, lseek64, int, off64_t, int);
    FAIL(LSEEK, 0, fd, -1)
    return real(fd, at, whence);
}
