/* Threads that spend known shares of their time in known functions.
 *
 *   worker   40 % of its processor time in burn_a, 30 % in burn_b, 20 % in burn_c, 10 % in burn_d, in slices of some
 *            milliseconds, measured on its own processor-time clock
 *   sleeper  waits in block_here for good
 *   half     sleeps in rest_here and burns in work_here, for the same wall-clock time each (on an idle machine)
 *
 * The first argument says which of them there are, by their first letters (default wsh). Truth, one line each: tid,
 * name. After each line on standard input it says what was spent up to then: of the worker ns_a to ns_d (processor time
 * in each), of half rest_ns (wall-clock time in rest_here), and "ready".
 */
#include "truth.h"

#include <pthread.h>
#include <stdint.h>
#include <time.h>

static _Atomic uint64_t spent[4], rested;
static _Atomic pid_t tids[3];
static int empty_pipe[2];

static uint64_t now(clockid_t clock)
{
    struct timespec time;

    clock_gettime(clock, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

/* Burns until its thread has run for `ns`; returns for how long it did. Always inlined: the time is the caller's. */
static inline __attribute__((always_inline)) uint64_t burn(uint64_t ns)
{
    uint64_t begin = now(CLOCK_THREAD_CPUTIME_ID), end = begin;
    volatile unsigned turns = 0;

    while (end - begin < ns) {
        for (int i = 0; i < 20000; i++)
            turns++;
        end = now(CLOCK_THREAD_CPUTIME_ID);
    }
    return end - begin;
}

#define BURN(letter, index, ms)                  \
    static NAMED void burn_##letter(void)        \
    {                                            \
        spent[index] += burn((ms) * 1000000ull); \
        STAYS();                                 \
    }

BURN(a, 0, 8)
BURN(b, 1, 6)
BURN(c, 2, 4)
BURN(d, 3, 2)

static NAMED void work_here(void)
{
    burn(5000000);
    STAYS();
}

static NAMED void rest_here(void)
{
    const struct timespec time = {0, 5000000};
    uint64_t begin = now(CLOCK_MONOTONIC);

    nanosleep(&time, NULL);
    rested += now(CLOCK_MONOTONIC) - begin;
}

static NAMED void block_here(void)
{
    char byte;

    if (read(empty_pipe[0], &byte, 1) < 0)
        STAYS();
    STAYS();
}

static NAMED void *worker_main(void *unused)
{
    prctl(PR_SET_NAME, "worker");
    tids[0] = (pid_t)syscall(SYS_gettid);
    for (;;) {
        burn_a();
        burn_b();
        burn_c();
        burn_d();
    }
    return unused;
}

static NAMED void *sleeper_main(void *unused)
{
    prctl(PR_SET_NAME, "sleeper");
    tids[1] = (pid_t)syscall(SYS_gettid);
    for (;;)
        block_here();
    return unused;
}

static NAMED void *half_main(void *unused)
{
    prctl(PR_SET_NAME, "half");
    tids[2] = (pid_t)syscall(SYS_gettid);
    for (;;) {
        rest_here();
        work_here();
    }
    return unused;
}

int main(int argc, char **argv)
{
    static void *(*const mains[])(void *) = {worker_main, sleeper_main, half_main};
    static const char *const names[] = {"worker", "sleeper", "half"};
    const char *which = argc > 1 ? argv[1] : "wsh";

    if (pipe2(empty_pipe, O_CLOEXEC) != 0)
        fail("pipe2");
    for (int i = 0; i < 3; i++) {
        pthread_t thread;

        if (strchr(which, names[i][0]) == NULL)
            continue;
        if (pthread_create(&thread, NULL, mains[i], NULL) != 0)
            fail("pthread_create");
        while (tids[i] == 0)
            usleep(1000);
        if (i == 1)
            await_call(tids[i], SYS_read);
        say("{'tid':%d,'name':'%s'}", tids[i], names[i]);
    }
    ready();
    for (;;) {
        next_line();
        say("{'ns_a':%llu,'ns_b':%llu,'ns_c':%llu,'ns_d':%llu,'rest_ns':%llu}", (unsigned long long)spent[0],
            (unsigned long long)spent[1], (unsigned long long)spent[2], (unsigned long long)spent[3],
            (unsigned long long)rested);
        ready();
    }
}
