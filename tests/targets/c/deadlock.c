/* Threads that wait for each other. The first argument says how:
 *
 *   two, three       so many threads, each holds one mutex and waits for that of the next: a deadlock
 *   self             one thread takes a normal mutex twice
 *   rwlock           two threads, each holds a rwlock for writing; one wants to read, the other to write
 *   timed            as two, but one of them gives up after a long while
 *   join             two threads that wait for each other's end
 *   recursive, error_check, adaptive, inherit, robust, shared
 *                    one thread holds such a mutex and sleeps, one waits for it: no deadlock
 *   readers          three threads hold a rwlock for reading and one wants to write: no deadlock
 *   condition        a thread waits for a condition
 *
 * Truth, one line a thread: tid, and of those that wait: lock (its address in hex), kind (mutex, rwlock, thread,
 * condition), owner (the tid of who holds it, where there is one), chain (its functions, innermost first). The last
 * line is {"deadlock":[tids in the cycle, each waits for the next]}, empty where there is none.
 */
#include "truth.h"

#include <pthread.h>
#include <stdint.h>
#include <time.h>

#define MOST 4

static pthread_mutex_t mutexes[MOST];
static pthread_rwlock_t rwlocks[MOST];
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
static pthread_barrier_t all_hold;
static pthread_t threads[MOST];
static _Atomic pid_t tids[MOST];
static int count;
static const char *mode;
static const struct timespec LONG = {1000000, 0};

static int is(const char *name)
{
    return strcmp(mode, name) == 0;
}

static NAMED void take_next_mutex(int own)
{
    pthread_mutex_lock(&mutexes[(own + 1) % count]);
    STAYS();
}

static NAMED void take_next_mutex_for_a_while(int own)
{
    struct timespec end;

    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += 1000000;
    pthread_mutex_timedlock(&mutexes[(own + 1) % count], &end);
    STAYS();
}

static NAMED void read_next_rwlock(int own)
{
    pthread_rwlock_rdlock(&rwlocks[(own + 1) % count]);
    STAYS();
}

static NAMED void write_next_rwlock(int own)
{
    pthread_rwlock_wrlock(&rwlocks[(own + 1) % count]);
    STAYS();
}

static NAMED void join_next(int own)
{
    pthread_join(threads[(own + 1) % count], NULL);
    STAYS();
}

static NAMED void take_first_mutex(void)
{
    pthread_mutex_lock(&mutexes[0]);
    STAYS();
}

static NAMED void write_first_rwlock(void)
{
    pthread_rwlock_wrlock(&rwlocks[0]);
    STAYS();
}

static NAMED void await_condition(void)
{
    pthread_mutex_lock(&mutexes[0]);
    pthread_cond_wait(&condition, &mutexes[0]);
    STAYS();
}

static NAMED void sleep_with_it(void)
{
    for (;;)
        nanosleep(&LONG, NULL);
}

static NAMED void *work(void *argument)
{
    int own = (int)(intptr_t)argument;
    int is_cycle = is("two") || is("three") || is("timed");

    tids[own] = (pid_t)syscall(SYS_gettid);
    if (is_cycle || is("self"))
        pthread_mutex_lock(&mutexes[own]);
    else if (is("rwlock"))
        pthread_rwlock_wrlock(&rwlocks[own]);
    else if (is("readers") && own != count - 1)
        pthread_rwlock_rdlock(&rwlocks[0]);
    else if (own == 0 && !is("condition") && !is("join"))
        pthread_mutex_lock(&mutexes[0]);
    pthread_barrier_wait(&all_hold);
    if (is("timed") && own == 0)
        take_next_mutex_for_a_while(own);
    else if (is_cycle || is("self"))
        take_next_mutex(own);
    else if (is("rwlock") && own == 0)
        read_next_rwlock(own);
    else if (is("rwlock"))
        write_next_rwlock(own);
    else if (is("join"))
        join_next(own);
    else if (is("condition"))
        await_condition();
    else if (is("readers") && own == count - 1)
        write_first_rwlock();
    else if (own == 0 || is("readers"))
        sleep_with_it();
    else
        take_first_mutex();
    STAYS();
    return NULL;
}

static void make_mutex(pthread_mutex_t *mutex)
{
    pthread_mutexattr_t attributes;

    pthread_mutexattr_init(&attributes);
    if (is("recursive"))
        pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_RECURSIVE);
    else if (is("error_check"))
        pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ERRORCHECK);
    else if (is("adaptive"))
        pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ADAPTIVE_NP);
    else if (is("inherit"))
        pthread_mutexattr_setprotocol(&attributes, PTHREAD_PRIO_INHERIT);
    else if (is("robust"))
        pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    else if (is("shared"))
        pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    if (pthread_mutex_init(mutex, &attributes) != 0)
        fail("pthread_mutex_init");
}

/* What thread `own` waits for: its truth. */
static void say_of(int own)
{
    int next = (own + 1) % count;
    const char *kind = "mutex", *function = "take_next_mutex";
    void *lock = &mutexes[next];
    pid_t owner = tids[next];

    if (is("rwlock")) {
        kind = "rwlock";
        lock = &rwlocks[next];
        function = own == 0 ? "read_next_rwlock" : "write_next_rwlock";
    } else if (is("timed") && own == 0) {
        function = "take_next_mutex_for_a_while";
    } else if (is("join")) {
        kind = "thread";
        function = "join_next";
        lock = NULL;
    } else if (is("condition")) {
        kind = "condition";
        function = "await_condition";
        lock = NULL;
        owner = 0;
    } else if (is("readers")) {
        kind = "rwlock";
        function = "write_first_rwlock";
        lock = &rwlocks[0];
        owner = 0;
    } else if (!is("two") && !is("three") && !is("timed") && !is("self")) {
        lock = &mutexes[0];
        owner = tids[0];
        function = "take_first_mutex";
    }
    printf("{\"tid\":%d,\"kind\":\"%s\",\"chain\":[\"%s\",\"work\"]", tids[own], kind, function);
    if (lock != NULL)
        printf(",\"lock\":\"%p\"", lock);
    if (owner != 0)
        printf(",\"owner\":%d", owner);
    puts("}");
}

int main(int argc, char **argv)
{
    int has_cycle, first_waiter = 0;

    mode = argc > 1 ? argv[1] : "two";
    has_cycle = is("two") || is("three") || is("self") || is("rwlock") || is("timed") || is("join");
    count = is("three") ? 3 : is("self") || is("condition") ? 1 : is("readers") ? 4 : 2;
    if (!has_cycle && !is("condition"))
        first_waiter = count - 1;
    pthread_barrier_init(&all_hold, NULL, (unsigned)count);
    for (int i = 0; i < count; i++) {
        make_mutex(&mutexes[i]);
        pthread_rwlock_init(&rwlocks[i], NULL);
    }
    /* join_next() of the first looks at the second: nobody passes the barrier before all are here. */
    for (int i = 0; i < count; i++)
        if (pthread_create(&threads[i], NULL, work, (void *)(intptr_t)i) != 0)
            fail("pthread_create");
    for (int i = 0; i < count; i++) {
        while (tids[i] == 0)
            usleep(1000);
    }
    /* Of those that have passed the barrier: its own wait is a futex too. */
    for (int i = first_waiter; i < count; i++) {
        usleep(200000);
        await_call(tids[i], SYS_futex);
    }
    if (first_waiter != 0)
        await_call(tids[0], SYS_clock_nanosleep);
    for (int i = first_waiter; i < count; i++)
        say_of(i);
    fputs("{\"deadlock\":[", stdout);
    for (int i = 0; has_cycle && i < count; i++)
        printf("%s%d", i == 0 ? "" : ",", tids[i]);
    puts("]}");
    stay();
}
