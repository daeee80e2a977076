/* Threads in system calls that a stop interrupts for good (signal(7), "Interruption of system calls and library
 * functions by stop signals"): epoll_wait, recvfrom and accept4 with SO_RCVTIMEO, semtimedop, rt_sigtimedwait, and reading
 * an inotify descriptor return EINTR where the caller had no signal handler at all; and in others, which the kernel calls
 * again by itself: nanosleep, poll, select, futex, wait4, flock, and reading a pipe. Each counts its EINTRs and calls again.
 *
 * Truth: tid, name, syscall, eintr (how often it was interrupted: 0 at first). After each line on standard input it says
 * the same again, with the counts of then, and "ready".
 */
#include "truth.h"

#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>

static int epoll, pair[2], semaphore, listener, notes, empty_pipe[2], locked;
static pid_t child_that_stays;
static unsigned futex;
static const struct timespec LONG = {1000000, 0};

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
    return syscall(SYS_nanosleep, &LONG, NULL);
}

static long accept_one(void)
{
    return syscall(SYS_accept4, listener, NULL, NULL, 0);
}

static long wait_signal(void)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    return syscall(SYS_rt_sigtimedwait, &set, NULL, &LONG, 8);
}

static long read_notes(void)
{
    char note[sizeof(struct inotify_event) + 256];

    return read(notes, note, sizeof note);
}

static long poll_one(void)
{
    struct pollfd one = {.fd = empty_pipe[0], .events = POLLIN};
    struct timespec time = LONG;

    return syscall(SYS_ppoll, &one, 1, &time, NULL, 8);
}

static long select_one(void)
{
    fd_set set;
    struct timespec time = LONG;

    FD_ZERO(&set);
    FD_SET(empty_pipe[0], &set);
    return syscall(SYS_pselect6, empty_pipe[0] + 1, &set, NULL, NULL, &time, NULL);
}

static long wait_futex(void)
{
    return syscall(SYS_futex, &futex, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
}

static long wait_child(void)
{
    return syscall(SYS_wait4, child_that_stays, NULL, 0, NULL);
}

static long lock_file(void)
{
    static _Thread_local int again;
    char path[64];

    if (again == 0) {
        snprintf(path, sizeof path, "/proc/self/fd/%d", locked);
        again = open(path, O_RDWR | O_CLOEXEC);
    }
    return flock(again, LOCK_EX);
}

static long read_pipe(void)
{
    char byte;

    return read(empty_pipe[0], &byte, 1);
}

static long take_semaphore(void)
{
    struct sembuf take = {.sem_op = -1};

    return semtimedop(semaphore, &take, 1, &LONG);
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
    {"accept4", accept_one, SYS_accept4, 0, 0},
    {"rt_sigtimedwait", wait_signal, SYS_rt_sigtimedwait, 0, 0},
    {"read", read_notes, SYS_read, 0, 0},
    {"ppoll", poll_one, SYS_ppoll, 0, 0},
    {"pselect6", select_one, SYS_pselect6, 0, 0},
    {"futex", wait_futex, SYS_futex, 0, 0},
    {"wait4", wait_child, SYS_wait4, 0, 0},
    {"flock", lock_file, SYS_flock, 0, 0},
    {"read", read_pipe, SYS_read, 0, 0},
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

static void prepare(void)
{
    const struct timeval time = {1000000, 0};
    struct sockaddr_un any = {.sun_family = AF_UNIX};
    pid_t parent = getpid();

    epoll = epoll_create1(EPOLL_CLOEXEC);
    if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, pair) != 0
        || setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time) != 0)
        fail("socketpair");
    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(listener, (struct sockaddr *)&any, sizeof any.sun_family) != 0 || listen(listener, 1) != 0
        || setsockopt(listener, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time) != 0)
        fail("bind");
    notes = inotify_init1(IN_CLOEXEC);
    locked = (int)syscall(SYS_memfd_create, "locked", 1);
    if (pipe2(empty_pipe, O_CLOEXEC) != 0 || locked < 0 || flock(locked, LOCK_EX) != 0)
        fail("flock");
    child_that_stays = fork();
    if (child_that_stays == 0) {
        end_with_parent(parent);
        prctl(PR_SET_NAME, "child");
        for (;;)
            pause();
    }
    semaphore = semget(IPC_PRIVATE, 1, 0600);
    if (semaphore < 0)
        fail("semget");
    remove_afterwards();
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
    pthread_t thread;

    prepare();
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
