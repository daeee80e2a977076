/* A service with one thing wrong with it, or nothing. The first argument says what:
 *
 *   healthy          nothing: threads that wait for work, a listener with a connection, a file, a child
 *   leak-files, leak-sockets, leak-pipes, leak-events
 *                    opens one more of the kind every 10 ms, and closes none
 *   grow-heap, grow-mappings
 *                    allocates and touches 256 KiB more every 10 ms: with brk(2), with mmap(2)
 *   close-wait       60 connections that the peer has closed and the service has not
 *   ring-2, ring-3   so many threads, each holds a mutex and waits for that of the next
 *   convoy           one thread holds a mutex and sleeps in a system call, 12 wait for it
 *   spin             a thread computes in burn_in_circles, called by serve_requests
 *   threads          starts one more thread every 10 ms, and ends none
 *   zombies          30 children that have ended and are not waited for
 *   respawn          a child that ends after 20 ms is started again, for ever
 *   backlog          a listener of 3 that nobody accepts from, with a connection attempt every 20 ms
 *   ports            40 connections to one address and port
 *   stopped-pipe     writes into a full pipe whose reader is stopped
 *   disk-sleep       is in an uninterruptible sleep: in vfork(2), whose child is stopped
 *   names            asks a name server that never answers for a name in each of three search domains, again and again
 *   names-slow       asks for a name whose server takes 250 ms to answer
 *   names-search     asks for a name that is in none of two search domains first, again and again
 *   names-errors     asks for a name that does not exist, again and again
 *   grow-connections opens one more connection to itself every 2 ms, and closes none
 *   old-library      has a library mapped that was replaced on disk since
 *   memory           holds as many MiB as the second argument says, touched
 *
 * Truth: {"fault":MODE,"function":...} with what a finding must name, as the modes below say.
 */
#include "truth.h"

#include <arpa/inet.h>
#include <malloc.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <time.h>

static void nap(long milliseconds)
{
    struct timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000};

    nanosleep(&time, NULL);
}

static pthread_t start(void *(*body)(void *), void *argument)
{
    pthread_t thread;
    pthread_attr_t attributes;

    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 64 << 10);
    if (pthread_create(&thread, &attributes, body, argument) != 0)
        fail("pthread_create");
    return thread;
}

/* A listener on a free port of the loopback address. */
static int listener(int backlog, struct sockaddr_in *address)
{
    socklen_t length = sizeof *address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    *address = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (fd < 0 || bind(fd, (struct sockaddr *)address, sizeof *address) != 0 || listen(fd, backlog) != 0 ||
        getsockname(fd, (struct sockaddr *)address, &length) != 0)
        fail("listen");
    return fd;
}

static int connected(const struct sockaddr_in *address, int flags)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);

    if (fd < 0 || (connect(fd, (const struct sockaddr *)address, sizeof *address) != 0 && errno != EINPROGRESS))
        fail("connect");
    return fd;
}

/* What every service has. */

static pthread_mutex_t work = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t more = PTHREAD_COND_INITIALIZER;

static NAMED void *wait_for_work(void *unused UNUSED)
{
    pthread_mutex_lock(&work);
    for (;;)
        pthread_cond_wait(&more, &work);
    return NULL;
}

static void serve_in_health(void)
{
    struct sockaddr_in address;
    int fd = listener(16, &address);
    int pair[2];

    connected(&address, 0);
    if (accept4(fd, NULL, NULL, SOCK_CLOEXEC) < 0 || pipe2(pair, O_CLOEXEC) != 0)
        fail("accept");
    if (open("/proc/self/exe", O_RDONLY | O_CLOEXEC) < 0)
        fail("open");
    for (int i = 0; i < 3; i++)
        start(wait_for_work, NULL);
}

/* Leaks. */

static const char *leaked;

static NAMED void *leak(void *unused UNUSED)
{
    char path[4096];
    const char *directory = getenv("TMPDIR");

    for (int i = 0;; i++) {
        int pair[2];

        if (strcmp(leaked, "files") == 0) {
            snprintf(path, sizeof path, "%s/order-%d.tmp", directory == NULL ? "/tmp" : directory, i);
            if (open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600) >= 0)
                unlink(path);
        } else if (strcmp(leaked, "sockets") == 0) {
            socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        } else if (strcmp(leaked, "pipes") == 0) {
            if (pipe2(pair, O_CLOEXEC) != 0)
                nap(1000);
        } else {
            eventfd(0, EFD_CLOEXEC);
        }
        nap(10);
    }
    return NULL;
}

static NAMED void *grow_heap(void *unused UNUSED)
{
    for (;;) {
        char *more_memory = sbrk(256 << 10);

        if (more_memory != (char *)-1)
            memset(more_memory, 1, 256 << 10);
        nap(10);
    }
    return NULL;
}

static NAMED void *grow_mappings(void *unused UNUSED)
{
    for (;;) {
        char *more_memory = mmap(NULL, 256 << 10, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        if (more_memory != MAP_FAILED)
            memset(more_memory, 1, 256 << 10);
        nap(10);
    }
    return NULL;
}

/* Locks. */

static pthread_mutex_t ring[3] = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER};
static pthread_barrier_t all_hold;
static long ring_size;
static pid_t tids[16];

static NAMED void *transfer_money(void *argument)
{
    long own = (long)argument;

    tids[own] = gettid();
    pthread_mutex_lock(&ring[own]);
    pthread_barrier_wait(&all_hold);
    pthread_mutex_lock(&ring[(own + 1) % ring_size]);
    STAYS();
    return NULL;
}

static pthread_mutex_t busy = PTHREAD_MUTEX_INITIALIZER;

static NAMED void *hold_and_wait(void *unused UNUSED)
{
    pthread_mutex_lock(&busy);
    tids[15] = gettid();
    pthread_barrier_wait(&all_hold);
    for (;;)
        nap(1000000);
    return NULL;
}

static NAMED void *want_lock(void *argument)
{
    pthread_barrier_wait(&all_hold);
    tids[(long)argument] = gettid();
    pthread_mutex_lock(&busy);
    STAYS();
    return NULL;
}

/* Processors and threads. */

static volatile unsigned long circles;

static NAMED void burn_in_circles(void)
{
    for (;;)
        circles++;
}

static NAMED void *serve_requests(void *unused UNUSED)
{
    burn_in_circles();
    STAYS();
    return NULL;
}

static void *sleep_for_ever(void *unused UNUSED)
{
    for (;;)
        nap(1000000);
    return NULL;
}

static NAMED void *start_threads(void *unused UNUSED)
{
    for (;;) {
        start(sleep_for_ever, NULL);
        nap(10);
    }
    return NULL;
}

static NAMED void *start_again(void *unused UNUSED)
{
    for (;;) {
        pid_t parent = getpid();
        pid_t child = fork();

        if (child == 0) {
            prctl(PR_SET_NAME, "worker");
            end_with_parent(parent);
            nap(20);
            _exit(1);
        }
        waitpid(child, NULL, 0);
    }
    return NULL;
}

/* The network. */

static struct sockaddr_in crowded;

static NAMED void *try_to_connect(void *unused UNUSED)
{
    for (;;) {
        connected(&crowded, SOCK_NONBLOCK);
        nap(20);
    }
    return NULL;
}

static NAMED void *resolve(void *unused UNUSED)
{
    static const char *const NAMES[] = {"\7billing\4shop\3svc\7cluster\5local", "\7billing\3svc\7cluster\5local",
                                        "\7billing\7cluster\5local"};
    struct sockaddr_in server = {
        .sin_family = AF_INET, .sin_port = htons(53), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    if (connect(fd, (struct sockaddr *)&server, sizeof server) != 0)
        fail("connect");
    for (unsigned id = 0;; id++) {
        unsigned char query[128] = {id >> 8, id, 1, 0, 0, 1};
        const char *name = NAMES[id % 3];
        size_t length = strlen(name) + 1;

        memcpy(query + 12, name, length);
        memcpy(query + 12 + length, "\0\1\0\1", 4);
        if (send(fd, query, 12 + length + 4, 0) < 0 && errno != ECONNREFUSED)
            fail("send");
        nap(20);
    }
    return NULL;
}

/* A name server of its own, and who asks it. */

static const char *names_mode;
static int name_server;

static NAMED void *answer_names(void *unused UNUSED)
{
    for (;;) {
        unsigned char packet[512];
        struct sockaddr_in client;
        socklen_t length = sizeof client;
        ssize_t size = recvfrom(name_server, packet, sizeof packet, 0, (struct sockaddr *)&client, &length);
        /* The name without a search domain exists. */
        int exists = strcmp(names_mode, "names-errors") != 0 &&
                     memmem(packet, size > 0 ? size : 0, "\5local", 6) == NULL;

        if (size < 12)
            continue;
        if (strcmp(names_mode, "names-slow") == 0)
            nap(250);
        packet[2] |= 0x80;
        packet[3] = 0x80 | (exists ? 0 : 3);
        sendto(name_server, packet, size, 0, (struct sockaddr *)&client, length);
    }
    return NULL;
}

static NAMED void *ask_names(void *unused UNUSED)
{
    static const char *const SEARCHED[] = {"\7billing\10internal\3svc\7cluster\5local", "\7billing\10internal\7cluster\5local",
                                           "\7billing\10internal"};
    struct sockaddr_in server = {
        .sin_family = AF_INET, .sin_port = htons(53), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    int is_search = strcmp(names_mode, "names-search") == 0;

    if (connect(fd, (struct sockaddr *)&server, sizeof server) != 0)
        fail("connect");
    for (unsigned id = 0;; id++) {
        unsigned char query[128] = {id >> 8, id, 1, 0, 0, 1};
        unsigned char answer[512];
        const char *name = SEARCHED[is_search ? id % 3 : 2];
        size_t length = strlen(name) + 1;

        memcpy(query + 12, name, length);
        memcpy(query + 12 + length, "\0\1\0\1", 4);
        if (send(fd, query, 12 + length + 4, 0) < 0 || recv(fd, answer, sizeof answer, 0) < 0)
            fail("a name");
        nap(10);
    }
    return NULL;
}

static NAMED void *connect_more(void *unused UNUSED)
{
    int fd = listener(128, &crowded);

    say("{'fault':'grow-connections','port':%d}", ntohs(crowded.sin_port));
    tids[0] = gettid();
    for (;;) {
        connected(&crowded, 0);
        if (accept4(fd, NULL, NULL, SOCK_CLOEXEC) < 0)
            fail("accept");
        nap(2);
    }
    return NULL;
}

/* A library that is replaced under a running program. */

static void copy_of_myself(const char *path)
{
    int from = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    int to = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0755);

    if (from < 0 || to < 0)
        fail("copy");
    for (ssize_t sent; (sent = sendfile(to, from, NULL, 1 << 20)) != 0;)
        if (sent < 0)
            fail("sendfile");
    close(from);
    close(to);
}

static void outdate_library(void)
{
    const char *directory = getenv("TMPDIR");
    char path[4000], newer[4096];

    snprintf(path, sizeof path, "%s/libold.so", directory != NULL ? directory : "/tmp");
    snprintf(newer, sizeof newer, "%s.new", path);
    copy_of_myself(path);
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0 || mmap(NULL, 16384, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0) == MAP_FAILED)
        fail("mmap");
    close(fd);
    copy_of_myself(newer);
    if (rename(newer, path) != 0)
        fail("rename");
    say("{'fault':'old-library','path':'%s'}", path);
}

/* I/O that hangs. */

static int jammed[2];

static NAMED void *write_log(void *unused UNUSED)
{
    static char line[4096];

    tids[0] = gettid();
    for (;;)
        if (write(jammed[1], line, sizeof line) < 0)
            fail("write");
    return NULL;
}

static NAMED void *run_helper(void *unused UNUSED)
{
    tids[0] = gettid();
    pid_t child = (pid_t)syscall(SYS_vfork);

    if (child == 0) {
        syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL);
        syscall(SYS_kill, syscall(SYS_getpid), SIGSTOP);
        for (;;)
            syscall(SYS_pause);
    }
    return NULL;
}

static void until_state(pid_t process, pid_t thread, char wanted)
{
    char path[64], text[512] = "";

    snprintf(path, sizeof path, "/proc/%d/task/%d/stat", process, thread);
    for (int turn = 0; turn < 20000; turn++) {
        int file = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t length = file < 0 ? -1 : read(file, text, sizeof text - 1);
        const char *end = length > 0 ? memrchr(text, ')', length) : NULL;

        if (file >= 0)
            close(file);
        if (end != NULL && end[2] == wanted)
            return;
        nap(1);
    }
    fail("a thread is not in its state");
}

static void fill_memory(const char *mebibytes)
{
    size_t size = (size_t)atol(mebibytes) << 20;
    char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (memory == MAP_FAILED)
        fail("mmap");
    memset(memory, 1, size);
}

static void locks(const char *mode)
{
    if (strcmp(mode, "convoy") == 0) {
        pthread_barrier_init(&all_hold, NULL, 13);
        start(hold_and_wait, NULL);
        for (long i = 0; i < 12; i++)
            start(want_lock, (void *)i);
        for (int i = 0; i < 12; i++) {
            while (__atomic_load_n(&tids[i], __ATOMIC_ACQUIRE) == 0)
                nap(1);
            await_call(tids[i], SYS_futex);
        }
        say("{'fault':'convoy','owner':%d,'waiters':12,'function':'hold_and_wait'}", tids[15]);
        return;
    }
    ring_size = mode[5] - '0';
    pthread_barrier_init(&all_hold, NULL, (unsigned)ring_size);
    for (long i = 0; i < ring_size; i++)
        start(transfer_money, (void *)i);
    for (int i = 0; i < ring_size; i++) {
        while (__atomic_load_n(&tids[i], __ATOMIC_ACQUIRE) == 0)
            nap(1);
        await_call(tids[i], SYS_futex);
    }
    say("{'fault':'%s','tids':[%d,%d,%d],'function':'transfer_money'}", mode, tids[0], tids[1], tids[2]);
}

static void network(const char *mode)
{
    struct sockaddr_in address;
    int fd;

    if (strcmp(mode, "names") == 0) {
        int server = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

        address = (struct sockaddr_in){
            .sin_family = AF_INET, .sin_port = htons(53), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        if (bind(server, (struct sockaddr *)&address, sizeof address) != 0)
            fail("bind to port 53");
        start(resolve, NULL);
        say("{'fault':'names','name':'billing.shop.svc.cluster.local'}");
        return;
    }
    if (strncmp(mode, "names-", 6) == 0) {
        name_server = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        names_mode = mode;
        address = (struct sockaddr_in){
            .sin_family = AF_INET, .sin_port = htons(53), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        if (bind(name_server, (struct sockaddr *)&address, sizeof address) != 0)
            fail("bind to port 53");
        start(answer_names, NULL);
        start(ask_names, NULL);
        say("{'fault':'%s','name':'billing.internal'}", mode);
        return;
    }
    fd = listener(strcmp(mode, "backlog") == 0 ? 3 : 128, &address);
    if (strcmp(mode, "backlog") == 0) {
        crowded = address;
        for (int i = 0; i < 4; i++)
            connected(&crowded, SOCK_NONBLOCK);
        start(try_to_connect, NULL);
    } else {
        for (int i = 0; i < (strcmp(mode, "ports") == 0 ? 40 : 60); i++) {
            int client = connected(&address, 0);

            if (accept4(fd, NULL, NULL, SOCK_CLOEXEC) < 0)
                fail("accept");
            if (strcmp(mode, "close-wait") == 0)
                close(client);
        }
    }
    say("{'fault':'%s','port':%d}", mode, ntohs(address.sin_port));
}

static void hang(const char *mode)
{
    if (strcmp(mode, "disk-sleep") == 0) {
        start(run_helper, NULL);
        while (__atomic_load_n(&tids[0], __ATOMIC_ACQUIRE) == 0)
            nap(1);
        until_state(getpid(), tids[0], 'D');
        say("{'fault':'disk-sleep','tid':%d}", tids[0]);
        return;
    }
    pid_t parent = getpid();

    if (pipe2(jammed, O_CLOEXEC) != 0)
        fail("pipe2");
    pid_t reader = fork();

    if (reader == 0) {
        prctl(PR_SET_NAME, "log-shipper");
        end_with_parent(parent);
        close(jammed[1]);
        raise(SIGSTOP);
        _exit(0);
    }
    close(jammed[0]);
    until_state(reader, reader, 'T');
    start(write_log, NULL);
    while (__atomic_load_n(&tids[0], __ATOMIC_ACQUIRE) == 0)
        nap(1);
    await_call(tids[0], SYS_write);
    say("{'fault':'stopped-pipe','tid':%d,'fd':%d,'reader':%d,'function':'write_log'}", tids[0], jammed[1], reader);
}

int main(int count, char **arguments)
{
    const char *mode = count > 1 ? arguments[1] : "healthy";

    /* Threads and children have it too; the program's file is called after how it was built. */
    prctl(PR_SET_NAME, "faults");
    serve_in_health();
    if (strncmp(mode, "leak-", 5) == 0) {
        leaked = mode + 5;
        start(leak, NULL);
    } else if (strcmp(mode, "grow-heap") == 0) {
        start(grow_heap, NULL);
    } else if (strcmp(mode, "grow-mappings") == 0) {
        start(grow_mappings, NULL);
    } else if (strncmp(mode, "ring-", 5) == 0 || strcmp(mode, "convoy") == 0) {
        locks(mode);
    } else if (strcmp(mode, "spin") == 0) {
        start(serve_requests, NULL);
    } else if (strcmp(mode, "threads") == 0) {
        start(start_threads, NULL);
    } else if (strcmp(mode, "grow-connections") == 0) {
        start(connect_more, NULL);
        while (__atomic_load_n(&tids[0], __ATOMIC_ACQUIRE) == 0)
            nap(1);
    } else if (strcmp(mode, "old-library") == 0) {
        outdate_library();
    } else if (strcmp(mode, "zombies") == 0) {
        for (int i = 0; i < 30; i++)
            if (fork() == 0)
                _exit(0);
    } else if (strcmp(mode, "respawn") == 0) {
        start(start_again, NULL);
    } else if (strcmp(mode, "memory") == 0) {
        fill_memory(count > 2 ? arguments[2] : "1");
    } else if (strcmp(mode, "stopped-pipe") == 0 || strcmp(mode, "disk-sleep") == 0) {
        hang(mode);
    } else if (strcmp(mode, "healthy") != 0) {
        network(mode);
    }
    say("{'mode':'%s'}", mode);
    stay();
}
