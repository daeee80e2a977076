/* One descriptor of each type. Truth, one line a descriptor:
 *
 *   fd, type, access  as fstat(2) and open(2) have them: file, directory, pipe, …; read, write, read_write, path
 *   flags             what it was opened with beside that, in the kernel's order of names
 *   inode             for types with one of their own, as a string
 *   and what is special about it: position, size_bytes, target_hex (its path), deleted, device, dup_of, the counter of
 *   an eventfd, what an epoll watches, …
 *
 * For what this machine does not allow there is a line {"missing": TYPE, "errno": N} instead. Its files are in a new
 * directory in $TMPDIR, and are removed when standard input is closed.
 */
#include "truth.h"

#include <arpa/inet.h>
#include <linux/bpf.h>
#include <linux/io_uring.h>
#include <linux/netlink.h>
#include <linux/perf_event.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/fanotify.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/timerfd.h>
#include <sys/un.h>

#define FILE_SIZE 12345L

static char base[512];

static char *inside(const char *name)
{
    static char path[600];

    snprintf(path, sizeof path, "%s/%s", base, name);
    return path;
}

static int missing(const char *type)
{
    say("{'missing':'%s','errno':%d}", type, errno);
    return -1;
}

static unsigned long inode(int fd)
{
    struct stat status;

    if (fstat(fd, &status) != 0)
        fail("fstat");
    return status.st_ino;
}

/* A descriptor of an inode of its own; `more` begins with a comma. */
#define OWN(fd, type, access, flags, ...)                                                                             \
    do {                                                                                                              \
        char more[1024];                                                                                              \
        snprintf(more, sizeof more, __VA_ARGS__);                                                                     \
        for (char *c = more; *c != '\0'; c++)                                                                         \
            if (*c == '\'')                                                                                           \
                *c = '"';                                                                                             \
        say("{'fd':%d,'type':'" type "','access':'" access "','flags':[" flags "],'inode':'%lu'%s}", fd, inode(fd), more); \
    } while (0)

/* A descriptor whose inode all of its type share. */
#define SHARED(fd, type, access, flags, more, ...) \
    say("{'fd':%d,'type':'" type "','access':'" access "','flags':[" flags "]" more "}", fd __VA_OPT__(, ) __VA_ARGS__)

static int file(const char *name, int flags)
{
    int fd = open(inside(name), flags | O_CREAT | O_CLOEXEC, 0600);

    if (fd >= 0 && (flags & O_ACCMODE) != O_RDONLY && ftruncate(fd, FILE_SIZE) != 0)
        fail(name);
    return fd;
}

static void files(void)
{
    int fd = file("plain", O_RDWR), copy;
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 100, .l_len = 50};

    if (fd < 0 || lseek(fd, 777, SEEK_SET) != 777)
        fail("plain");
    OWN(fd, "file", "read_write", "'cloexec'", ",'position':'777','size_bytes':%ld,'deleted':false,'target_hex':'%s'",
        FILE_SIZE, hex(inside("plain"), strlen(inside("plain"))));
    copy = dup(fd);
    OWN(copy, "file", "read_write", "", ",'position':'777','size_bytes':%ld,'deleted':false,'dup_of':%d", FILE_SIZE, fd);

    fd = file("appended", O_WRONLY | O_APPEND | O_NONBLOCK);
    OWN(fd, "file", "write", "'append','cloexec','nonblock'", ",'position':'0','size_bytes':%ld", FILE_SIZE);
    fd = file("synced", O_WRONLY | O_SYNC | O_NOATIME);
    OWN(fd, "file", "write", "'cloexec','noatime','sync'", ",'position':'0','size_bytes':%ld", FILE_SIZE);
    fd = file("direct", O_RDWR | O_DIRECT);
    if (fd < 0)
        missing("direct");
    else
        OWN(fd, "file", "read_write", "'cloexec','direct'", ",'position':'0','size_bytes':%ld", FILE_SIZE);

    fd = file("deleted", O_RDWR);
    if (write(fd, base, strlen(base)) < 0 || unlink(inside("deleted")) != 0)
        fail("deleted");
    OWN(fd, "file", "read_write", "'cloexec'", ",'position':'%zu','size_bytes':%ld,'deleted':true,'target_hex':'%s'",
        strlen(base), FILE_SIZE, hex(inside("deleted"), strlen(inside("deleted"))));
    /* Its name says that it was deleted, and it was not. */
    fd = file("kept (deleted)", O_RDONLY);
    OWN(fd, "file", "read", "'cloexec'", ",'position':'0','deleted':false,'target_hex':'%s'",
        hex(inside("kept (deleted)"), strlen(inside("kept (deleted)"))));
    fd = file("odd\nname\033[31m\377", O_RDWR);
    OWN(fd, "file", "read_write", "'cloexec'", ",'position':'0','target_hex':'%s'",
        hex(inside("odd\nname\033[31m\377"), strlen(inside("odd\nname\033[31m\377"))));
    fd = open(base, O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
    if (fd < 0)
        missing("tmpfile");
    else
        OWN(fd, "file", "read_write", "'cloexec','tmpfile'", ",'position':'0','size_bytes':0,'deleted':true");

    fd = file("locked", O_RDWR);
    if (fcntl(fd, F_OFD_SETLK, &lock) != 0)
        fail("F_OFD_SETLK");
    OWN(fd, "file", "read_write", "'cloexec'", ",'locks':[{'type':'ofd','access':'write','start':'100','end':'149'}]");
    fd = file("flocked", O_RDWR);
    if (flock(fd, LOCK_SH) != 0)
        fail("flock");
    OWN(fd, "file", "read_write", "'cloexec'", ",'locks':[{'type':'flock','access':'read','start':'0'}]");

    fd = open(base, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    OWN(fd, "directory", "read", "'cloexec','directory'", ",'target_hex':'%s'", hex(base, strlen(base)));
    fd = open(inside("plain"), O_PATH | O_CLOEXEC);
    OWN(fd, "file", "path", "'cloexec'", ",'target_hex':'%s'", hex(inside("plain"), strlen(inside("plain"))));
    if (symlink("plain", inside("link")) != 0)
        fail("symlink");
    fd = open(inside("link"), O_PATH | O_NOFOLLOW | O_CLOEXEC);
    OWN(fd, "symlink", "path", "'cloexec','nofollow'", ",'target_hex':'%s'", hex(inside("link"), strlen(inside("link"))));
    if (mkfifo(inside("fifo"), 0600) != 0)
        fail("mkfifo");
    fd = open(inside("fifo"), O_RDWR | O_CLOEXEC);
    OWN(fd, "fifo", "read_write", "'cloexec'", ",'target_hex':'%s'", hex(inside("fifo"), strlen(inside("fifo"))));
    fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
    OWN(fd, "character_device", "write", "'cloexec'", ",'device':'1:3'");
    fd = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    OWN(fd, "namespace", "read", "'cloexec'", ",'target_hex':'%s'", ({
            char link[64] = "";
            hex(link, (size_t)readlink("/proc/self/ns/net", link, sizeof link));
        }));
}

static void kernel_objects(void)
{
    int ends[2], fd, first, second;
    sigset_t signals;
    struct itimerspec every = {.it_value = {1000000, 0}, .it_interval = {2, 500000000}};
    struct epoll_event one = {.events = EPOLLIN, .data.u64 = 0x1111}, two = {.events = EPOLLOUT | EPOLLET, .data.u64 = 0x2222};
    pid_t child, parent = getpid();

    if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0 || write(ends[1], "queued", 6) != 6)
        fail("pipe2");
    OWN(ends[0], "pipe", "read", "'cloexec','nonblock'", ",'peer_fd':%d", ends[1]);
    OWN(ends[1], "pipe", "write", "'cloexec','nonblock'", ",'peer_fd':%d", ends[0]);

    first = eventfd(41, EFD_CLOEXEC);
    SHARED(first, "eventfd", "read_write", "'cloexec'", ",'eventfd':{'count':'41','semaphore':false}");
    second = eventfd(3, EFD_SEMAPHORE | EFD_NONBLOCK);
    SHARED(second, "eventfd", "read_write", "'nonblock'", ",'eventfd':{'count':'3','semaphore':true}");

    fd = epoll_create1(EPOLL_CLOEXEC);
    if (epoll_ctl(fd, EPOLL_CTL_ADD, first, &one) != 0 || epoll_ctl(fd, EPOLL_CTL_ADD, ends[1], &two) != 0)
        fail("epoll_ctl");
    SHARED(fd, "epoll", "read_write", "'cloexec'", ",'epoll':[{'fd':%d,'data':'0x2222'},{'fd':%d,'data':'0x1111'}]",
           ends[1], first);

    fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    first = inotify_add_watch(fd, base, IN_CREATE | IN_DELETE);
    second = open(base, O_PATH | O_CLOEXEC);
    SHARED(fd, "inotify", "read", "'cloexec','nonblock'", ",'inotify':[{'wd':%d,'inode':'%lu','mask':'0x%x'}]", first,
           inode(second), IN_CREATE | IN_DELETE);
    close(second);

    fd = fanotify_init(FAN_CLASS_NOTIF | FAN_CLOEXEC, O_RDONLY);
    if (fd < 0 || fanotify_mark(fd, FAN_MARK_ADD, FAN_OPEN, AT_FDCWD, inside("plain")) != 0) {
        missing("fanotify");
    } else {
        second = open(inside("plain"), O_PATH | O_CLOEXEC);
        SHARED(fd, "fanotify", "read_write", "'cloexec'", ",'fanotify':[{'inode':'%lu','mask':'0x%x'}]", inode(second),
               FAN_OPEN);
        close(second);
    }

    fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
    if (timerfd_settime(fd, 0, &every, NULL) != 0)
        fail("timerfd_settime");
    SHARED(fd, "timerfd", "read_write", "'cloexec'",
           ",'timerfd':{'clock':'monotonic','armed':true,'interval_us':2500000}");
    fd = timerfd_create(CLOCK_BOOTTIME, TFD_NONBLOCK);
    SHARED(fd, "timerfd", "read_write", "'nonblock'", ",'timerfd':{'clock':'boottime','armed':false,'interval_us':0}");

    sigemptyset(&signals);
    sigaddset(&signals, SIGUSR1);
    sigaddset(&signals, SIGRTMAX);
    fd = signalfd(-1, &signals, SFD_CLOEXEC);
    SHARED(fd, "signalfd", "read_write", "'cloexec'", ",'signalfd':{'signals':[%d,%d]}", SIGUSR1, SIGRTMAX);

    child = fork();
    if (child == 0) {
        end_with_parent(parent);
        for (;;)
            pause();
    }
    fd = (int)syscall(SYS_pidfd_open, child, 0);
    if (fd < 0)
        missing("pidfd");
    else
        SHARED(fd, "pidfd", "read_write", "'cloexec'", ",'pidfd':{'pid':%d}", child);
    child = fork();
    if (child == 0)
        _exit(0);
    fd = (int)syscall(SYS_pidfd_open, child, 0);
    waitpid(child, NULL, 0);
    if (fd >= 0)
        SHARED(fd, "pidfd", "read_write", "'cloexec'", ",'pidfd':{}");

    fd = memfd_create("scratch\nmemory", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (ftruncate(fd, 3 << 20) != 0)
        fail("memfd");
    OWN(fd, "memfd", "read_write", "'cloexec'", ",'position':'0','size_bytes':%d,'target_hex':'%s'", 3 << 20,
        hex("/memfd:scratch\nmemory", 21));
}

static void by_permission(void)
{
    struct io_uring_params ring = {0};
    struct perf_event_attr clock = {.type = PERF_TYPE_SOFTWARE, .size = sizeof clock, .config = PERF_COUNT_SW_TASK_CLOCK};
    union bpf_attr map;
    int fd = (int)syscall(SYS_io_uring_setup, 8, &ring);

    if (fd < 0)
        missing("io_uring");
    else
        SHARED(fd, "io_uring", "read_write", "'cloexec'", "");
    clock.exclude_kernel = 1;
    fd = (int)syscall(SYS_perf_event_open, &clock, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
    if (fd < 0)
        missing("perf");
    else
        SHARED(fd, "perf", "read_write", "'cloexec'", "");
    memset(&map, 0, sizeof map);
    map.map_type = BPF_MAP_TYPE_ARRAY;
    map.key_size = 4;
    map.value_size = 8;
    map.max_entries = 16;
    fd = (int)syscall(SYS_bpf, BPF_MAP_CREATE, &map, sizeof map);
    if (fd < 0)
        missing("bpf");
    else
        SHARED(fd, "bpf", "read_write", "'cloexec'", "");
}

static unsigned port(int fd)
{
    struct sockaddr_in address;
    socklen_t length = sizeof address;

    if (getsockname(fd, (struct sockaddr *)&address, &length) != 0)
        fail("getsockname");
    return ntohs(address.sin_port);
}

static void sockets(void)
{
    struct sockaddr_in loopback = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_un named = {.sun_family = AF_UNIX}, abstract = {.sun_family = AF_UNIX};
    struct sockaddr_nl netlink = {.nl_family = AF_NETLINK};
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), client, server, fd, pair[2];
    socklen_t length;

    if (bind(listener, (struct sockaddr *)&loopback, sizeof loopback) != 0 || listen(listener, 16) != 0)
        fail("bind");
    loopback.sin_port = htons((uint16_t)port(listener));
    client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(client, (struct sockaddr *)&loopback, sizeof loopback) != 0)
        fail("connect");
    server = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (write(client, "never read", 10) != 10)
        fail("write");
    OWN(listener, "socket", "read_write", "'cloexec'",
        ",'protocol':'tcp','state':'listen','local_address':'127.0.0.1','local_port':%u", port(listener));
    OWN(client, "socket", "read_write", "'cloexec'",
        ",'protocol':'tcp','state':'established','local_address':'127.0.0.1','local_port':%u,"
        "'remote_address':'127.0.0.1','remote_port':%u", port(client), port(listener));
    OWN(server, "socket", "read_write", "'cloexec','nonblock'",
        ",'protocol':'tcp','state':'established','local_address':'127.0.0.1','local_port':%u,"
        "'remote_address':'127.0.0.1','remote_port':%u,'receive_queue_bytes':10", port(server), port(client));
    fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    loopback.sin_port = 0;
    if (bind(fd, (struct sockaddr *)&loopback, sizeof loopback) != 0)
        fail("bind");
    OWN(fd, "socket", "read_write", "'cloexec'", ",'protocol':'udp','local_address':'127.0.0.1','local_port':%u", port(fd));
    fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    OWN(fd, "socket", "read_write", "'cloexec'", ",'protocol':'tcp','state':'close'");

    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(named.sun_path, sizeof named.sun_path, "%.80s/socket", base);
    if (bind(fd, (struct sockaddr *)&named, sizeof named) != 0 || listen(fd, 1) != 0)
        fail(named.sun_path);
    OWN(fd, "socket", "read_write", "'cloexec'", ",'protocol':'unix','socket_type':'stream','state':'listen','path_hex':'%s'",
        hex(named.sun_path, strlen(named.sun_path)));
    fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1
                         + (size_t)snprintf(abstract.sun_path + 1, 64, "abstract\nname %d", getpid()));
    if (bind(fd, (struct sockaddr *)&abstract, length) != 0)
        fail("bind");
    OWN(fd, "socket", "read_write", "'cloexec'", ",'protocol':'unix','socket_type':'dgram','abstract_hex':'%s'",
        hex(abstract.sun_path + 1, strlen(abstract.sun_path + 1)));
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
        fail("socketpair");
    for (int i = 0; i < 2; i++)
        OWN(pair[i], "socket", "read_write", "'cloexec'",
            ",'protocol':'unix','socket_type':'seqpacket','state':'established','peer_fd':%d,'peer_inode':'%lu'",
            pair[1 - i], inode(pair[1 - i]));

    fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (bind(fd, (struct sockaddr *)&netlink, sizeof netlink) != 0)
        fail("netlink");
    OWN(fd, "socket", "read_write", "'cloexec'", ",'protocol':'netlink'");
    fd = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_ICMP);
    if (fd < 0)
        missing("raw");
    else
        OWN(fd, "socket", "read_write", "'cloexec'", ",'protocol':'raw'");
    fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
    if (fd < 0)
        missing("packet");
    else
        OWN(fd, "socket", "read_write", "'cloexec'", ",'protocol':'packet'");
}

int main(void)
{
    const char *made[] = {"plain", "appended", "synced", "direct", "kept (deleted)", "odd\nname\033[31m\377", "locked",
                          "flocked", "link", "fifo", "socket"};
    const char *in = getenv("TMPDIR");
    char line[64];

    snprintf(base, sizeof base, "%s/descriptors.XXXXXX", in != NULL ? in : "/tmp");
    if (mkdtemp(base) == NULL)
        fail(base);
    files();
    kernel_objects();
    by_permission();
    sockets();
    ready();
    while (read(STDIN_FILENO, line, sizeof line) > 0)
        ;
    for (size_t i = 0; i < sizeof made / sizeof *made; i++)
        unlink(inside(made[i]));
    rmdir(base);
    return 0;
}
