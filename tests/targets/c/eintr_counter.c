/* Threads in system calls that a stop interrupts for good (signal(7), "Interruption of system calls and library
 * functions by stop signals"): epoll_wait, recvfrom with SO_RCVTIMEO and semtimedop return EINTR where the caller had no
 * signal handler at all, and nanosleep, which the kernel restarts, does not. Each counts its EINTRs and calls again.
 *
 * Truth: tid, name, syscall, eintr (how often it was interrupted: 0 at first). After each line on standard input it says
 * the same again, with the counts of then, and "ready".
 */
#include "truth.h"

#include <pthread.h>
#include <sys/epoll.h>
#include <sys/ipc.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>

static int epoll, pair[2], semaphore;

static long epoll_one(void)
{
    struct epoll_event found;
#ifdef SYS_epoll_wait
    return syscall(SYS_epoll_wait, epoll, &found, 1, 1000000000);
#else
    return syscall(SYS_epoll_pwait, epoll, &found, 1, 1000000000, NULL, 8);
#endif
}

static long recv_one(void)
{
    char byte;

    return recv(pair[0], &byte, 1, 0);
}

static long sleep_long(void)
{
    const struct timespec time = {1000000, 0};

    return syscall(SYS_nanosleep, &time, NULL);
}

static long take_semaphore(void)
{
    struct sembuf take = {.sem_op = -1};
    const struct timespec time = {1000000, 0};

    return semtimedop(semaphore, &take, 1, &time);
}

static struct worker {
    const char *name;
    long (*call)(void);
    long number;
    _Atomic pid_t tid;
    _Atomic unsigned long eintr;
} workers[] = {
#ifdef SYS_epoll_wait
    {"epoll_wait", epoll_one, SYS_epoll_wait, 0, 0},
#else
    {"epoll_pwait", epoll_one, SYS_epoll_pwait, 0, 0},
#endif
    {"recvfrom", recv_one, SYS_recvfrom, 0, 0},
    {"nanosleep", sleep_long, SYS_nanosleep, 0, 0},
    {"semtimedop", take_semaphore, SYS_semtimedop, 0, 0},
};
#define COUNT (sizeof workers / sizeof *workers)

static void *worker_main(void *argument)
{
    struct worker *worker = argument;

    prctl(PR_SET_NAME, worker->name);
    worker->tid = (pid_t)syscall(SYS_gettid);
    for (;;)
        if (worker->call() < 0 && errno == EINTR)
            worker->eintr++;
    return NULL;
}

/* A semaphore outlives its process: a child removes it when this one has ended in whatever way. */
static void remove_afterwards(void)
{
    int ends[2];
    char c;

    if (pipe2(ends, O_CLOEXEC) != 0)
        fail("pipe2");
    switch (fork()) {
    case -1:
        fail("fork");
        break;
    case 0:
        prctl(PR_SET_NAME, "remover");
        close(ends[1]);
        close(STDIN_FILENO);
        close(STDOUT_FILENO);
        while (read(ends[0], &c, 1) < 0 && errno == EINTR)
            ;
        semctl(semaphore, 0, IPC_RMID);
        _exit(0);
    default:
        close(ends[0]);
    }
}

static void report(void)
{
    for (size_t i = 0; i < COUNT; i++)
        say("{'tid':%d,'name':'%s','syscall':'%s','eintr':%lu}", workers[i].tid, workers[i].name, workers[i].name,
            workers[i].eintr);
    ready();
}

int main(void)
{
    const struct timeval time = {1000000, 0};
    pthread_t thread;

    epoll = epoll_create1(EPOLL_CLOEXEC);
    if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, pair) != 0
        || setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time) != 0)
        fail("socketpair");
    semaphore = semget(IPC_PRIVATE, 1, 0600);
    if (semaphore < 0)
        fail("semget");
    remove_afterwards();
    for (size_t i = 0; i < COUNT; i++) {
        if (pthread_create(&thread, NULL, worker_main, &workers[i]) != 0)
            fail("pthread_create");
        while (workers[i].tid == 0)
            usleep(1000);
        await_call(workers[i].tid, workers[i].number);
    }
    for (;;) {
        report();
        next_line();
    }
}
