/* A parent that does not reap. Truth, by `case`:
 *
 *   child   a child that has ended: pid, ppid, name, state "zombie"
 *   leader  a process whose first thread has ended while another one lives: pid, ppid, name, state "zombie" (which is
 *           that of its first thread), threads 2
 */
#include "truth.h"

#include <pthread.h>

static int told;

static void *survive(void *unused)
{
    (void)unused;
    /* The first thread is gone when its state says so. */
    for (char state = 0; state != 'Z';) {
        char text[64] = "", path[64], *end;
        int file;

        snprintf(path, sizeof path, "/proc/self/task/%d/stat", getpid());
        file = open(path, O_RDONLY | O_CLOEXEC);
        if (file < 0 || read(file, text, sizeof text - 1) <= 0)
            fail(path);
        close(file);
        end = strrchr(text, ')');
        state = end != NULL ? end[2] : 0;
        usleep(1000);
    }
    if (write(told, "!", 1) != 1)
        fail("write");
    for (;;)
        pause();
    return NULL;
}

int main(void)
{
    int ends[2];
    pid_t parent = getpid(), child, leader;
    siginfo_t info;
    char c;

    if (pipe(ends) != 0)
        fail("pipe");
    told = ends[1];
    child = fork();
    if (child == 0) {
        prctl(PR_SET_NAME, "undead");
        _exit(7);
    }
    leader = fork();
    if (leader == 0) {
        pthread_t thread;

        end_with_parent(parent);
        prctl(PR_SET_NAME, "headless");
        if (pthread_create(&thread, NULL, survive, NULL) != 0)
            fail("pthread_create");
        /* Not pthread_exit, which in a static program wants a library. */
        syscall(SYS_exit, 0);
    }
    if (child < 0 || leader < 0)
        fail("fork");
    if (waitid(P_PID, child, &info, WEXITED | WNOWAIT) != 0)
        fail("waitid");
    if (read(ends[0], &c, 1) != 1)
        fail("the leader");
    say("{'case':'child','pid':%d,'ppid':%d,'name':'undead','state':'zombie','threads':1}", child, parent);
    say("{'case':'leader','pid':%d,'ppid':%d,'name':'headless','state':'zombie','threads':2}", leader, parent);
    stay();
}
