// Stands between the agent and the C library, as a test wants it:
//
//   TEST_CLOCK=FILE              the wall clock is off by so many seconds: 8 bytes, as this machine writes an int64_t
//   TEST_KILL=STEP TEST_ROUND=N  the process is killed (SIGKILL) at a step of writing metering.json for the Nth time:
//                                  1 before its next file is opened   2 after   3 with half of it written
//                                  4 with all of it written   5 after fsync   6 after the rename   7 after the folder's fsync
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static const char SPOOL[] = "/metering.json.next";

static volatile int64_t *clock_is_off_by;
static int kill_step, kill_round, rounds, spool_fd = -1, was_renamed;

__attribute__((constructor)) static void prepare(void) {
  const char *clock = getenv("TEST_CLOCK"), *step = getenv("TEST_KILL"), *round = getenv("TEST_ROUND");
  if (clock) {
    int fd = (int)syscall(SYS_openat, AT_FDCWD, clock, O_RDONLY | O_CLOEXEC, 0);
    void *mapped = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, fd, 0);
    if (fd < 0 || mapped == MAP_FAILED) abort();
    clock_is_off_by = mapped;
  }
  kill_step = step ? atoi(step) : 0;
  kill_round = round ? atoi(round) : 1;
}

static void at(int step) {
  if (step == kill_step && rounds == kill_round) kill(getpid(), SIGKILL);
}

static int ends_with(const char *path, const char *end) {
  size_t length = strlen(path), tail = strlen(end);
  return length >= tail && strcmp(path + length - tail, end) == 0;
}

int clock_gettime(clockid_t id, struct timespec *time) {
  int failed = (int)syscall(SYS_clock_gettime, id, time);
  if (!failed && id == CLOCK_REALTIME && clock_is_off_by) time->tv_sec += *clock_is_off_by;
  return failed;
}

static int opens(const char *path, int flags, mode_t mode) {
  int is_spool = ends_with(path, SPOOL);
  if (is_spool) {
    rounds++;
    was_renamed = 0;
    at(1);
  }
  int fd = (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
  if (is_spool) {
    spool_fd = fd;
    at(2);
  }
  return fd;
}

int open64(const char *path, int flags, ...) {
  va_list more;
  va_start(more, flags);
  mode_t mode = va_arg(more, mode_t);
  va_end(more);
  return opens(path, flags, mode);
}

int open(const char *path, int flags, ...) {
  va_list more;
  va_start(more, flags);
  mode_t mode = va_arg(more, mode_t);
  va_end(more);
  return opens(path, flags, mode);
}

ssize_t write(int fd, const void *bytes, size_t count) {
  int is_spool = fd == spool_fd && fd >= 0;
  if (is_spool && kill_step == 3 && rounds == kill_round) {
    syscall(SYS_write, fd, bytes, count / 2);
    at(3);
  }
  ssize_t written = syscall(SYS_write, fd, bytes, count);
  if (is_spool) at(4);
  return written;
}

int fsync(int fd) {
  int failed = (int)syscall(SYS_fsync, fd);
  if (fd == spool_fd && fd >= 0) {
    at(5);
    spool_fd = -1;
  } else if (was_renamed) {
    at(7);
    was_renamed = 0;
  }
  return failed;
}

int rename(const char *from, const char *to) {
  int failed = (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
  if (ends_with(from, SPOOL)) {
    was_renamed = 1;
    at(6);
  }
  return failed;
}
