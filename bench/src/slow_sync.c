/* Delays every sync of the process it is preloaded into: a disk that is DELAY_MS slower, and otherwise the same. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>

static void wait_first(void) {
    struct timespec t = {DELAY_MS / 1000, DELAY_MS % 1000 * 1000000L};
    while (nanosleep(&t, &t) != 0) {
    }
}

int fdatasync(int fd) {
    static int (*real)(int);
    if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    wait_first();
    return real(fd);
}

int fsync(int fd) {
    static int (*real)(int);
    if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    wait_first();
    return real(fd);
}
