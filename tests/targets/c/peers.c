/* Pipes and a pair of sockets whose other ends are known, and descriptors that are one open file description. A child
 * holds the write end of the first pipe and one of the sockets. Truth, by `case`:
 *
 *   read_end    fd: its peer is peer_fd of the child peer_pid
 *   own_write, own_read  the two ends of a pipe that nobody else has: fd, peer_fd
 *   alone       fd: the read end of a pipe whose write end is closed
 *   socket      fd: its peer is peer_fd of the child
 *   same        fd, dup_of: a duplicate
 *   other       fd: the same file, opened by itself
 */
#include "truth.h"

#include <sys/socket.h>

int main(void)
{
    int ends[2], own[2], alone[2], pair[2], first, copy, other;
    pid_t parent = getpid(), pid;

    if (pipe(ends) != 0 || pipe(own) != 0 || pipe(alone) != 0 || socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0)
        fail("pipe");
    close(alone[1]);
    pid = fork();
    if (pid < 0)
        fail("fork");
    if (pid == 0) {
        end_with_parent(parent);
        close(ends[0]);
        close(own[0]);
        close(own[1]);
        close(alone[0]);
        close(pair[0]);
        prctl(PR_SET_NAME, "other end");
        /* Closed by then: says that it is as it was to be. */
        if (write(ends[1], "x", 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    close(ends[1]);
    close(pair[1]);
    char c;
    if (read(ends[0], &c, 1) != 1)
        fail("read");
    first = open("/dev/null", O_RDONLY);
    copy = dup(first);
    other = open("/dev/null", O_RDONLY);
    say("{'case':'read_end','fd':%d,'peer_pid':%d,'peer_fd':%d}", ends[0], pid, ends[1]);
    say("{'case':'own_write','fd':%d,'peer_fd':%d}", own[1], own[0]);
    say("{'case':'own_read','fd':%d,'peer_fd':%d}", own[0], own[1]);
    say("{'case':'alone','fd':%d}", alone[0]);
    say("{'case':'socket','fd':%d,'peer_pid':%d,'peer_fd':%d}", pair[0], pid, pair[1]);
    say("{'case':'same','fd':%d,'dup_of':%d}", copy, first);
    say("{'case':'other','fd':%d}", other);
    stay();
}
