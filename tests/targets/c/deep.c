/* A thread with a deep stack: DEPTH (default 10000) calls of `recurse` within each other, and pause(2) in
 * `bottom_of_it` at the bottom; with a second argument many short sleeps there. Truth: tid, name, syscall, depth, and
 * chain, where "recurse" stands for all DEPTH of them, innermost first. It is ready when the kernel says that the thread
 * is in the call.
 */
#include "truth.h"

#include <pthread.h>
#include <stdbool.h>
#include <sys/resource.h>

static _Atomic pid_t deep;
static volatile int surface;
static bool moves;

static NAMED void bottom_of_it(void)
{
    while (moves && !surface)
        usleep(100);
    while (!surface)
#ifdef SYS_pause
        syscall(SYS_pause);
#else
        syscall(SYS_ppoll, NULL, 0, NULL, NULL, 8);
#endif
}

static NAMED int recurse(long depth)
{
    volatile int below = 0;

    if (depth > 1)
        below = recurse(depth - 1);
    else
        bottom_of_it();
    STAYS();
    return below + 1;
}

static NAMED void *deep_main(void *depth)
{
    prctl(PR_SET_NAME, "deep-thread");
    deep = (pid_t)syscall(SYS_gettid);
    recurse(*(long *)depth);
    STAYS();
    return NULL;
}

int main(int argc, char **argv)
{
    long depth = argc > 1 ? atol(argv[1]) : 10000;
    pthread_attr_t attributes;
    pthread_t thread;

    moves = argc > 2;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 1024 * 1024 + (size_t)depth * 256);
    if (pthread_create(&thread, &attributes, deep_main, &depth) != 0)
        fail("pthread_create");
    while (deep == 0)
        usleep(1000);
    if (moves) {
        await_call(deep, SYS_clock_nanosleep);
        say("{'tid':%d,'name':'deep-thread','depth':%ld,'chain':['bottom_of_it','recurse','deep_main']}", deep, depth);
        stay();
    }
#ifdef SYS_pause
    await_call(deep, SYS_pause);
    say("{'tid':%d,'name':'deep-thread','syscall':'pause','depth':%ld,'chain':['bottom_of_it','recurse','deep_main']}",
#else
    await_call(deep, SYS_ppoll);
    say("{'tid':%d,'name':'deep-thread','syscall':'ppoll','depth':%ld,'chain':['bottom_of_it','recurse','deep_main']}",
#endif
        deep, depth);
    stay();
}
