/* Shifts the wall clock of the process that preloads this library by the microseconds that a file contains. The file is
 * mapped, so that its content can change while the process runs. Nothing here allocates memory: Redis's allocator reads
 * the clock while it starts, so a shim that allocates would wait for it for ever. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *shift_us;
static volatile int opened;

static int64_t shift(void) {
    if (!opened) {
        opened = 1;
        const char *path = getenv("EVENKEEL_CLOCK_SHIFT");
        long file = path ? syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC) : -1;
        if (file >= 0) {
            void *page = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, (int)file, 0);
            if (page != MAP_FAILED) shift_us = page;
            syscall(SYS_close, file);
        }
    }
    return shift_us ? *shift_us : 0;
}

static int64_t now_ns(void) {
    struct timespec now;
    syscall(SYS_clock_gettime, CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec + shift() * 1000;
}

int gettimeofday(struct timeval *restrict tv, void *restrict zone) {
    (void)zone;
    int64_t now = now_ns();
    tv->tv_sec = now / 1000000000;
    tv->tv_usec = now / 1000 % 1000000;
    return 0;
}

int clock_gettime(clockid_t clock, struct timespec *ts) {
    if (clock != CLOCK_REALTIME) return (int)syscall(SYS_clock_gettime, clock, ts);
    int64_t now = now_ns();
    ts->tv_sec = now / 1000000000;
    ts->tv_nsec = now % 1000000000;
    return 0;
}

time_t time(time_t *at) {
    time_t now = now_ns() / 1000000000;
    if (at) *at = now;
    return now;
}
