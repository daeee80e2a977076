/* N threads (first argument, default 500), each blocked in a stated system call. Truth, one line a thread:
 *
 *   tid, name  its name is its number and its call, cut to 15 bytes
 *   syscall    the name of its system call, and `number`, on this architecture
 *   chain      the functions of this program that it is in, innermost first
 *
 * It is ready when the kernel says of each thread that it is in its call. The main thread reads standard input, and is
 * no line.
 */
#include "truth.h"

#include <arpa/inet.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <time.h>

/* What the threads block on: none of it ever comes. */
static int empty_pipe[2], full_pipe[2], epoll, event, listener, pair[2], locked, child_of_none;
static char fifo[64];
static int futex;
static const struct timespec LONG = {1000000, 0};

/* Each in a function with a name of its own. The raw call is used where the C library has a choice. */
#define BLOCK(name, call)                  \
    static NAMED void block_in_##name(void) \
    {                                      \
        call;                              \
        STAYS();                           \
    }

/* A new open file description of the locked file: locks belong to these. */
static int open_locked(void)
{
    char path[64];

    snprintf(path, sizeof path, "/proc/self/fd/%d", locked);
    return open(path, O_RDWR | O_CLOEXEC);
}

static void take_lock(void)
{
    flock(open_locked(), LOCK_EX);
}

static void take_record_lock(void)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

    fcntl(open_locked(), F_OFD_SETLKW, &lock);
}

static void accept_one(void)
{
    syscall(SYS_accept, listener, NULL, NULL);
}

static void wait_signal(void)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    sigtimedwait(&set, NULL, &LONG);
}

static void select_one(void)
{
    fd_set set;
    struct timespec time = LONG;

    FD_ZERO(&set);
    FD_SET(empty_pipe[0], &set);
    syscall(SYS_pselect6, empty_pipe[0] + 1, &set, NULL, NULL, &time, NULL);
}

static void poll_one(void)
{
    struct pollfd one = {.fd = empty_pipe[0], .events = POLLIN};
#ifdef SYS_poll
    syscall(SYS_poll, &one, 1, -1);
#else
    syscall(SYS_ppoll, &one, 1, NULL, NULL, 8);
#endif
}

static void epoll_one(void)
{
    struct epoll_event found;
#ifdef SYS_epoll_wait
    syscall(SYS_epoll_wait, epoll, &found, 1, -1);
#else
    syscall(SYS_epoll_pwait, epoll, &found, 1, -1, NULL, 8);
#endif
}

static char byte;

BLOCK(read, if (read(empty_pipe[0], &byte, 1) < 0) STAYS())
BLOCK(write, if (write(full_pipe[1], &byte, 1) < 0) STAYS())
BLOCK(futex, syscall(SYS_futex, &futex, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0))
BLOCK(nanosleep, syscall(SYS_nanosleep, &LONG, NULL))
BLOCK(clock_nanosleep, clock_nanosleep(CLOCK_MONOTONIC, 0, &LONG, NULL))
BLOCK(epoll, epoll_one())
BLOCK(poll, poll_one())
BLOCK(select, select_one())
BLOCK(accept, accept_one())
BLOCK(recv, recv(pair[0], &byte, 1, 0))
BLOCK(recvmsg, { struct msghdr message = {0}; recvmsg(pair[1], &message, 0); })
BLOCK(sigtimedwait, wait_signal())
BLOCK(sigsuspend, { sigset_t set; sigfillset(&set); sigsuspend(&set); })
BLOCK(flock, take_lock())
BLOCK(fcntl, take_record_lock())
BLOCK(openat, syscall(SYS_openat, AT_FDCWD, fifo, O_RDONLY | O_CLOEXEC))
BLOCK(eventfd, { uint64_t count; if (read(event, &count, sizeof count) < 0) STAYS(); })
BLOCK(wait4, syscall(SYS_wait4, child_of_none, NULL, __WALL, NULL))

struct kind {
    const char *function;
    void (*block)(void);
    const char *name;
    long number;
};

#define KIND(function, name) {"block_in_" #function, block_in_##function, #name, SYS_##name}
static const struct kind KINDS[] = {
    KIND(read, read),
    KIND(futex, futex),
    KIND(nanosleep, nanosleep),
#ifdef SYS_epoll_wait
    KIND(epoll, epoll_wait),
#else
    KIND(epoll, epoll_pwait),
#endif
#ifdef SYS_poll
    KIND(poll, poll),
#else
    KIND(poll, ppoll),
#endif
    KIND(accept, accept),
    KIND(recv, recvfrom),
    KIND(select, pselect6),
    KIND(sigtimedwait, rt_sigtimedwait),
    KIND(flock, flock),
    KIND(write, write),
    KIND(clock_nanosleep, clock_nanosleep),
    KIND(recvmsg, recvmsg),
    KIND(sigsuspend, rt_sigsuspend),
    KIND(fcntl, fcntl),
    KIND(openat, openat),
    KIND(eventfd, read),
    KIND(wait4, wait4),
};
#define KIND_COUNT (sizeof KINDS / sizeof *KINDS)

struct worker {
    pthread_t thread;
    const struct kind *kind;
    char name[32];
    _Atomic pid_t tid;
};

static NAMED void inner_step(const struct worker *worker)
{
    worker->kind->block();
    STAYS();
}

static NAMED void outer_step(const struct worker *worker)
{
    inner_step(worker);
    STAYS();
}

static NAMED void *worker_main(void *argument)
{
    struct worker *worker = argument;

    prctl(PR_SET_NAME, worker->name);
    worker->tid = (pid_t)syscall(SYS_gettid);
    /* Some calls come back by themselves when the program is stopped. */
    for (;;)
        outer_step(worker);
    return NULL;
}

static void prepare(void)
{
    struct sockaddr_un any = {.sun_family = AF_UNIX};
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    struct epoll_event events = {.events = EPOLLIN};
    char page[4096] = {0}, directory[] = "/tmp/threads.XXXXXX";
    pid_t parent = getpid();
    int held;

    if (pipe2(empty_pipe, O_CLOEXEC) != 0 || pipe2(full_pipe, O_CLOEXEC | O_NONBLOCK) != 0)
        fail("pipe2");
    while (write(full_pipe[1], page, sizeof page) > 0)
        ;
    fcntl(full_pipe[1], F_SETFL, 0);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    event = eventfd(0, EFD_CLOEXEC);
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, empty_pipe[0], &events) != 0 || event < 0)
        fail("epoll_ctl");
    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    /* A name of the kernel's choice (autobind), which no file stands for. */
    if (bind(listener, (struct sockaddr *)&any, sizeof any.sun_family) != 0 || listen(listener, 1) != 0)
        fail("bind");
    if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, pair) != 0)
        fail("socketpair");
    locked = (int)syscall(SYS_memfd_create, "locked", 1);
    if (locked < 0 || flock(locked, LOCK_EX) != 0 || fcntl(locked, F_OFD_SETLK, &lock) != 0)
        fail("flock");
    child_of_none = fork();
    if (child_of_none == 0) {
        end_with_parent(parent);
        prctl(PR_SET_NAME, "child");
        for (;;)
            pause();
    }
    /* A FIFO without a name: whoever is stopped as it waits for it must find it again. */
    if (mkdtemp(directory) == NULL)
        fail(directory);
    snprintf(fifo, sizeof fifo, "%s/fifo", directory);
    if (mkfifo(fifo, 0600) != 0)
        fail(fifo);
    held = open(fifo, O_PATH | O_CLOEXEC);
    if (held < 0 || unlink(fifo) != 0 || rmdir(directory) != 0)
        fail(fifo);
    snprintf(fifo, sizeof fifo, "/proc/self/fd/%d", held);
}

int main(int argc, char **argv)
{
    size_t count = argc > 1 ? strtoul(argv[1], NULL, 10) : 500;
    struct worker *workers = calloc(count, sizeof *workers);
    pthread_attr_t attributes;

    if (workers == NULL)
        fail("calloc");
    prepare();
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 128 * 1024);
    for (size_t i = 0; i < count; i++) {
        struct worker *worker = &workers[i];

        worker->kind = &KINDS[i % KIND_COUNT];
        snprintf(worker->name, sizeof worker->name, "%zu %s", i, worker->kind->name);
        if (pthread_create(&worker->thread, &attributes, worker_main, worker) != 0)
            fail("pthread_create");
    }
    for (size_t i = 0; i < count; i++) {
        while (workers[i].tid == 0)
            usleep(1000);
        await_call(workers[i].tid, workers[i].kind->number);
    }
    for (size_t i = 0; i < count; i++)
        say("{'tid':%d,'name':'%.15s','syscall':'%s','number':%ld,"
            "'chain':['%s','inner_step','outer_step','worker_main']}",
            workers[i].tid, workers[i].name, workers[i].kind->name, workers[i].kind->number, workers[i].kind->function);
    stay();
}
