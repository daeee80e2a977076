/* A thread that never sleeps: it spins in `spin_here` until standard input is closed. Truth: tid, name, and chain, the
 * functions of this program that it is in, innermost first. It is ready when the thread spins.
 */
#include "truth.h"

#include <pthread.h>

static volatile int stop;
static volatile unsigned long turns;
static _Atomic pid_t spinning;

static NAMED void spin_here(void)
{
    while (!stop)
        turns++;
}

static NAMED void spin_inner(void)
{
    spin_here();
    STAYS();
}

static NAMED void spin_outer(void)
{
    spin_inner();
    STAYS();
}

static NAMED void *spinner_main(void *unused)
{
    prctl(PR_SET_NAME, "spinner-thread");
    spinning = (pid_t)syscall(SYS_gettid);
    spin_outer();
    STAYS();
    return unused;
}

int main(void)
{
    pthread_t thread;

    if (pthread_create(&thread, NULL, spinner_main, NULL) != 0)
        fail("pthread_create");
    while (turns == 0)
        usleep(1000);
    say("{'tid':%d,'name':'spinner-thread','chain':['spin_here','spin_inner','spin_outer','spinner_main']}", spinning);
    stay();
}
