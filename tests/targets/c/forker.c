/* Forks and reaps all the time: RATE children a second (default 200), each of which lives MILLISECONDS (default 5), for
 * at most SECONDS (default 60). Truth: pid, rate. For each line on standard input it says how many children there were
 * (forked, reaped).
 */
#include "truth.h"

#include <poll.h>
#include <time.h>

static double now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
    long rate = argc > 1 ? atol(argv[1]) : 200, life = argc > 2 ? atol(argv[2]) : 5;
    double end = now() + (argc > 3 ? atof(argv[3]) : 60), next = now();
    unsigned long forked = 0, reaped = 0;
    pid_t parent = getpid();

    say("{'pid':%d,'rate':%ld}", parent, rate);
    ready();
    while (now() < end) {
        struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
        double pause = next - now();

        if (poll(&input, 1, pause > 0 ? (int)(pause * 1000) + 1 : 0) > 0) {
            next_line();
            say("{'forked':%lu,'reaped':%lu}", forked, reaped);
            ready();
        }
        while (waitpid(-1, NULL, WNOHANG) > 0)
            reaped++;
        /* Behind its time (it was stopped) it goes on from now, and never makes up for what it missed. */
        if (next < now() - 0.1)
            next = now();
        while (next <= now() && forked - reaped < 1000) {
            pid_t child = fork();

            if (child == 0) {
                end_with_parent(parent);
                usleep((useconds_t)life * 1000);
                _exit(0);
            }
            if (child > 0)
                forked++;
            next += 1.0 / (double)rate;
        }
    }
    return 0;
}
