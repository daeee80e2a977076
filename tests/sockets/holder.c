/* Sockets of every kind in every state, in a network namespace of its own (only root can make one: otherwise there is
 * one line {"missing": "namespace"}). Truth, one line a socket:
 *
 *   name   what it is here for
 *   fd     its descriptor; absent for one that is closed, or was not accepted
 *   inode  as a string; absent where there is none
 *   and what is special about it: state, ports, name_hex of a unix socket, peer of its pair, missing if not allowed here
 *
 * Arguments: a directory for unix sockets; then "quiet" for those alone in which nothing moves by itself, or "many" and
 * how many connections. A child holds the socket "shared" as well, under the same number; its pid is the line "child".
 */
#include "truth.h"

#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

static unsigned long inode(int fd)
{
    struct stat status;

    if (fstat(fd, &status) != 0)
        fail("fstat");
    return status.st_ino;
}

static void held(const char *name, int fd)
{
    say("{'name':'%s','fd':%d,'inode':'%lu'}", name, fd, inode(fd));
}

static void missing(const char *name)
{
    say("{'missing':'%s','errno':%d}", name, errno);
}

static void up(const char *interface)
{
    struct ifreq request = {0};
    int fd = socket(AF_INET, SOCK_DGRAM, 0);

    strcpy(request.ifr_name, interface);
    request.ifr_flags = IFF_UP | IFF_RUNNING | IFF_LOOPBACK;
    if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &request) != 0)
        fail("SIOCSIFFLAGS");
    close(fd);
}

static struct sockaddr_in6 address(int family, const char *text, int port)
{
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    struct sockaddr_in *four = (struct sockaddr_in *)&six;

    if (family == AF_INET) {
        memset(&six, 0, sizeof six);
        four->sin_family = AF_INET;
        four->sin_port = htons(port);
        inet_pton(AF_INET, text, &four->sin_addr);
    } else {
        inet_pton(AF_INET6, text, &six.sin6_addr);
    }
    return six;
}

static socklen_t length_of(int family)
{
    return family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
}

static int opened(int family, int type, int protocol, const char *text, int port)
{
    struct sockaddr_in6 to = address(family, text, port);
    int fd = socket(family, type, protocol), on = 1;

    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&to, length_of(family)) != 0)
        fail("bind");
    return fd;
}

static int listener(int family, const char *text, int port, int backlog)
{
    int fd = opened(family, SOCK_STREAM, 0, text, port);

    if (fd < 0 || listen(fd, backlog) != 0)
        fail("listen");
    return fd;
}

static int connected(int family, int type, const char *text, int port)
{
    struct sockaddr_in6 to = address(family, text, port);
    int fd = socket(family, type, 0);

    if (fd < 0 || connect(fd, (struct sockaddr *)&to, length_of(family)) != 0)
        fail("connect");
    return fd;
}

static int accepted(int fd)
{
    int connection = accept4(fd, NULL, NULL, 0);

    if (connection < 0)
        fail("accept");
    return connection;
}

static void put(int fd, size_t bytes)
{
    static const char zeros[65536];

    while (bytes > 0) {
        ssize_t sent = send(fd, zeros, bytes < sizeof zeros ? bytes : sizeof zeros, 0);

        if (sent < 0)
            fail("send");
        bytes -= sent;
    }
}

static int state(int fd)
{
    struct tcp_info info;
    socklen_t length = sizeof info;

    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) != 0)
        fail("TCP_INFO");
    return info.tcpi_state;
}

static void await(int fd, int wanted)
{
    for (int turn = 0; state(fd) != wanted; turn++) {
        if (turn > 20000) {
            fprintf(stderr, "state %d and not %d\n", state(fd), wanted);
            exit(1);
        }
        usleep(1000);
    }
}

/* Sleeps until all that was sent on the loopback interface has come. */
static void await_bytes(int fd, int wanted)
{
    int there = 0;

    for (int turn = 0; turn < 20000; turn++) {
        if (ioctl(fd, FIONREAD, &there) == 0 && there >= wanted)
            return;
        usleep(1000);
    }
    fail("the bytes did not come");
}

static void tcp(void)
{
    int fd = listener(AF_INET, "127.0.0.1", 4001, 5), client, server;

    held("listener", fd);
    client = connected(AF_INET, SOCK_STREAM, "127.0.0.1", 4001);
    server = accepted(fd);
    put(client, 1000);
    await_bytes(server, 1000);
    held("client", client);
    held("server", server);
    // Two that nobody accepts: they have no inode on the listener's side.
    held("waits1", connected(AF_INET, SOCK_STREAM, "127.0.0.1", 4001));
    held("waits2", connected(AF_INET, SOCK_STREAM, "127.0.0.1", 4001));

    fd = listener(AF_INET6, "::", 4002, 5);
    held("listener6", fd);
    held("client6", connected(AF_INET6, SOCK_STREAM, "::1", 4002));
    held("server6", accepted(fd));
    held("client_to_mapped", connected(AF_INET, SOCK_STREAM, "127.0.0.1", 4002));
    held("mapped", accepted(fd));

    held("bound", opened(AF_INET, SOCK_STREAM, 0, "127.0.0.1", 4003));
    held("unbound", socket(AF_INET, SOCK_STREAM, 0));
    fd = connected(AF_INET, SOCK_STREAM, "127.0.0.1", 4001);
    shutdown(fd, SHUT_RD);
    held("deaf", fd);
}

/* Closed on one side or both: the kernel ends these by itself after a while. */
static void closing(void)
{
    int fd = listener(AF_INET, "127.0.0.1", 4011, 5), client, server;

    held("closing_listener", fd);
    client = connected(AF_INET, SOCK_STREAM, "127.0.0.1", 4011);
    server = accepted(fd);
    close(client);
    await(server, TCP_CLOSE_WAIT);
    held("close_wait", server);

    client = connected(AF_INET, SOCK_STREAM, "127.0.0.1", 4011);
    server = accepted(fd);
    shutdown(client, SHUT_WR);
    await(client, TCP_FIN_WAIT2);
    held("fin_wait2", client);
    held("close_wait2", server);

    client = connected(AF_INET, SOCK_STREAM, "127.0.0.1", 4011);
    server = accepted(fd);
    shutdown(client, SHUT_WR);
    await(server, TCP_CLOSE_WAIT);
    close(server);
    await(client, TCP_CLOSE);
    close(client);
    say("{'name':'time_wait','state':'time_wait'}");
}

/* A full backlog, and a peer that does not read: timers run. */
static void stuck(void)
{
    int fd = listener(AF_INET, "127.0.0.1", 4021, 0), client, server, sent = 0;
    struct sockaddr_in6 to = address(AF_INET, "127.0.0.1", 4021);

    held("full", fd);
    for (int i = 0; i < 16; i++) {
        client = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        connect(client, (struct sockaddr *)&to, length_of(AF_INET));
        usleep(20000);
        if (state(client) == TCP_SYN_SENT) {
            held("syn_sent", client);
            break;
        }
    }
    fd = listener(AF_INET, "127.0.0.1", 4022, 5);
    client = connected(AF_INET, SOCK_STREAM, "127.0.0.1", 4022);
    server = accepted(fd);
    fcntl(client, F_SETFL, O_NONBLOCK);
    for (char bytes[65536] = {0}; send(client, bytes, sizeof bytes, 0) > 0;)
        sent++;
    held("stuck_sender", client);
    held("stuck_receiver", server);
    say("{'name':'sent','chunks':%d}", sent);
    fd = connected(AF_INET, SOCK_STREAM, "127.0.0.1", 4022);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &(int){1}, sizeof(int));
    held("keepalive", fd);
}

static void udp(void)
{
    int fd = opened(AF_INET, SOCK_DGRAM, 0, "127.0.0.1", 4101), client;

    held("udp", fd);
    client = connected(AF_INET, SOCK_DGRAM, "127.0.0.1", 4101);
    put(client, 100);
    await_bytes(fd, 100);
    held("udp_client", client);
    held("udp6", opened(AF_INET6, SOCK_DGRAM, 0, "::1", 4102));
    fd = opened(AF_INET, SOCK_DGRAM, 136, "127.0.0.1", 4103);
    if (fd < 0)
        missing("udplite");
    else
        held("udplite", fd);
    // On a device, as with SO_BINDTODEVICE.
    fd = socket(AF_INET, SOCK_DGRAM, 0);
    if (setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "lo", 3) != 0)
        fail("SO_BINDTODEVICE");
    struct sockaddr_in6 to = address(AF_INET, "0.0.0.0", 4104);
    bind(fd, (struct sockaddr *)&to, length_of(AF_INET));
    held("udp_on_lo", fd);
}

static void others(void)
{
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK | RTMGRP_IPV4_ROUTE};
    struct sockaddr_ll all = {.sll_family = AF_PACKET, .sll_protocol = htons(3), .sll_ifindex = 1};
    int fd = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);

    held("raw", fd);
    held("raw6", socket(AF_INET6, SOCK_RAW, IPPROTO_ICMPV6));
    // Of this network namespace alone.
    int groups = open("/proc/sys/net/ipv4/ping_group_range", O_WRONLY | O_CLOEXEC);
    if (groups < 0 || write(groups, "0 0", 3) != 3)
        perror("ping_group_range");
    close(groups);
    fd = socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP);
    if (fd < 0) {
        missing("icmp");
    } else {
        struct sockaddr_in6 to = address(AF_INET, "127.0.0.1", 77);

        if (bind(fd, (struct sockaddr *)&to, length_of(AF_INET)) != 0)
            fail("bind");
        held("icmp", fd);
    }
    fd = socket(AF_PACKET, SOCK_RAW, htons(3));
    if (fd < 0 || bind(fd, (struct sockaddr *)&all, sizeof all) != 0)
        fail("AF_PACKET");
    held("packet", fd);
    fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
    if (fd < 0 || bind(fd, (struct sockaddr *)&kernel, sizeof kernel) != 0)
        fail("AF_NETLINK");
    held("netlink", fd);
    fd = socket(AF_INET, SOCK_STREAM, IPPROTO_MPTCP);
    if (fd < 0) {
        missing("mptcp");
    } else {
        struct sockaddr_in6 to = address(AF_INET, "127.0.0.1", 4201);

        bind(fd, (struct sockaddr *)&to, length_of(AF_INET));
        listen(fd, 9);
        held("mptcp", fd);
    }
}

static int unix_socket(int type, const void *name, size_t length, bool is_peer)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    socklen_t size = offsetof(struct sockaddr_un, sun_path) + length;
    int fd = socket(AF_UNIX, type, 0);

    memcpy(to.sun_path, name, length);
    // A path ends with a NUL byte.
    if (to.sun_path[0] != '\0')
        size++;
    if (fd < 0 || (is_peer ? connect : bind)(fd, (struct sockaddr *)&to, size) != 0)
        fail("AF_UNIX");
    return fd;
}

static void bound_unix(const char *name, int type, const void *bytes, size_t length)
{
    char *digits = hex(bytes, length);
    int fd = unix_socket(type, bytes, length, false), client;
    struct stat file = {0};

    if (((const char *)bytes)[0] != '\0' && stat(bytes, &file) != 0)
        fail("stat");
    say("{'name':'%s','fd':%d,'inode':'%lu','name_hex':'%s','file_inode':'%lu'}", name, fd, inode(fd), digits,
        (unsigned long)file.st_ino);
    free(digits);
    if (type == SOCK_DGRAM)
        return;
    listen(fd, 7);
    client = unix_socket(type, bytes, length, true);
    fd = accepted(fd);
    put(client, 33);
    say("{'name':'%s_client','fd':%d,'inode':'%lu','peer':'%lu'}", name, client, inode(client), inode(fd));
    say("{'name':'%s_server','fd':%d,'inode':'%lu','peer':'%lu'}", name, fd, inode(fd), inode(client));
    // One that nobody accepts.
    client = unix_socket(type, bytes, length, true);
    say("{'name':'%s_waits','fd':%d,'inode':'%lu'}", name, client, inode(client));
}

static void local(const char *directory)
{
    char path[108];
    int pair[2];

    snprintf(path, sizeof path, "%s/plain.sock", directory);
    bound_unix("unix", SOCK_STREAM, path, strlen(path));
    snprintf(path, sizeof path, "%s/a b\nc\x1b[31m\\\xff", directory);
    bound_unix("unix_hostile", SOCK_STREAM, path, strlen(path));
    snprintf(path, sizeof path, "%s/packets", directory);
    bound_unix("unix_packets", SOCK_SEQPACKET, path, strlen(path));
    snprintf(path, sizeof path, "%s/datagrams", directory);
    bound_unix("unix_datagrams", SOCK_DGRAM, path, strlen(path));
    bound_unix("unix_abstract", SOCK_STREAM, "\0agent.\n\x1b[2J\0tail\xfe", 18);
    if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) != 0)
        fail("socketpair");
    say("{'name':'pair0','fd':%d,'inode':'%lu','peer':'%lu'}", pair[0], inode(pair[0]), inode(pair[1]));
    say("{'name':'pair1','fd':%d,'inode':'%lu','peer':'%lu'}", pair[1], inode(pair[1]), inode(pair[0]));
    shutdown(pair[0], SHUT_WR);
}

/* Two sides in two processes, for the sake of the limit on descriptors. */
static void many(int count)
{
    struct rlimit limit;
    int fd = listener(AF_INET, "127.0.0.1", 4301, 4096), done[2];
    pid_t parent = getpid();

    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    if (pipe(done) != 0)
        fail("pipe");
    pid_t child = fork();
    if (child == 0) {
        end_with_parent(parent);
        for (int i = 0; i < count; i++)
            put(connected(AF_INET, SOCK_STREAM, "127.0.0.1", 4301), 10);
        if (write(done[1], "", 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    for (int i = 0; i < count; i++)
        accepted(fd);
    char c;
    if (read(done[0], &c, 1) != 1)
        fail("read");
    say("{'name':'child','pid':%d}", child);
}

int main(int count, char **arguments)
{
    pid_t parent = getpid();

    if (count < 2) {
        fprintf(stderr, "a directory for unix sockets\n");
        return 2;
    }
    if (unshare(CLONE_NEWNET) != 0) {
        missing("namespace");
        stay();
    }
    up("lo");
    if (count > 3 && strcmp(arguments[2], "many") == 0) {
        many(atoi(arguments[3]));
        stay();
    }
    tcp();
    udp();
    others();
    local(arguments[1]);
    if (count == 2) {
        closing();
        stuck();
    }
    int shared = opened(AF_INET, SOCK_DGRAM, 0, "127.0.0.1", 4401);
    held("shared", shared);
    pid_t child = fork();
    if (child == 0) {
        end_with_parent(parent);
        for (int fd = 0; fd < 1024; fd++)
            if (fd != shared)
                close(fd);
        for (;;)
            pause();
    }
    // It is as claimed when it has closed the others.
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/fd/%d", child, 0);
    while (access(path, F_OK) == 0)
        usleep(1000);
    for (int fd = 1023; fd > shared; fd--) {
        snprintf(path, sizeof path, "/proc/%d/fd/%d", child, fd);
        while (access(path, F_OK) == 0)
            usleep(1000);
    }
    say("{'name':'child','pid':%d}", child);
    stay();
}
