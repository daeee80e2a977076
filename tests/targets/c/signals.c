/* A thread that spins while another sends it signals a thousand times a second: SIGRTMIN with numbers that go up by one,
 * queued, and SIGUSR1 whenever the last one has come. None may be lost or come twice, whoever looks at the thread.
 *
 * Truth: tid of the thread that takes them, and name. After each line on standard input the sending rests until all has come
 * that was sent, or two seconds are over, and it says: sent, received, out_of_order (of SIGRTMIN), sent_usr1, received_usr1;
 * and "ready". Then it goes on.
 */
#include "truth.h"

#include <poll.h>
#include <pthread.h>

static _Atomic unsigned long received, out_of_order, received_usr1;
static unsigned long sent, sent_usr1;
static _Atomic pid_t taking;
static volatile unsigned long turns;

static void take(int number, siginfo_t *info, void *context)
{
    (void)number;
    (void)context;
    if ((unsigned long)info->si_value.sival_ptr != received)
        out_of_order++;
    received++;
}

static void take_usr1(int number)
{
    (void)number;
    received_usr1++;
}

static void *taker_main(void *unused)
{
    prctl(PR_SET_NAME, "taker");
    taking = (pid_t)syscall(SYS_gettid);
    for (;;)
        turns++;
    return unused;
}

static void send_some(pthread_t taker)
{
    union sigval value;

    for (int turn = 0; turn < 64; turn++) {
        /* Fewer than RLIMIT_SIGPENDING are on their way. */
        if (sent - received < 32) {
            value.sival_ptr = (void *)sent;
            if (pthread_sigqueue(taker, SIGRTMIN, value) == 0)
                sent++;
        }
        if (sent_usr1 == received_usr1 && pthread_kill(taker, SIGUSR1) == 0)
            sent_usr1++;
    }
}

int main(void)
{
    struct sigaction on_queued = {.sa_sigaction = take, .sa_flags = SA_SIGINFO | SA_RESTART};
    struct sigaction on_usr1 = {.sa_handler = take_usr1, .sa_flags = SA_RESTART};
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    pthread_t taker;

    sigaction(SIGRTMIN, &on_queued, NULL);
    sigaction(SIGUSR1, &on_usr1, NULL);
    if (pthread_create(&taker, NULL, taker_main, NULL) != 0)
        fail("pthread_create");
    while (taking == 0)
        usleep(1000);
    say("{'tid':%d,'name':'taker'}", taking);
    ready();
    for (;;) {
        send_some(taker);
        /* Often, and yet so that others get on. */
        if (poll(&input, 1, 1) == 0)
            continue;
        next_line();
        for (int turn = 0; turn < 2000 && (received != sent || received_usr1 != sent_usr1); turn++)
            usleep(1000);
        say("{'sent':%lu,'received':%lu,'out_of_order':%lu,'sent_usr1':%lu,'received_usr1':%lu}", sent, received,
            out_of_order, sent_usr1, received_usr1);
        ready();
    }
}
