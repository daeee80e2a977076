/* A process in a state that is seldom looked at. MODE is one of
 *   vfork    the main thread is in vfork(2), uninterruptible, until standard input is closed;
 *   exited   the main thread has ended, and two others wait;
 *   churn    four threads create and join a thread all the time, which waits in nanosleep(2) for a moment;
 *   execs    the program replaces itself all the time, for a minute at most;
 *   own      it starts the program that its arguments name, with its own number as the last one, and ends with it.
 * Truth: mode, pid; of `exited` a line for each thread that waits: tid, name.
 */
#include "truth.h"

#include <pthread.h>
#include <time.h>

static NAMED void *wait_here(void *name)
{
    prctl(PR_SET_NAME, name);
    for (;;)
        pause();
    return NULL;
}

static NAMED void *short_lived(void *unused)
{
    struct timespec moment = {.tv_nsec = 200000};

    nanosleep(&moment, NULL);
    return unused;
}

static NAMED void *churn(void *unused)
{
    for (;;) {
        pthread_t thread;

        if (pthread_create(&thread, NULL, short_lived, NULL) != 0)
            fail("pthread_create");
        pthread_join(thread, NULL);
    }
    return unused;
}

static void start(void *(*function)(void *), void *argument)
{
    pthread_t thread;

    if (pthread_create(&thread, NULL, function, argument) != 0)
        fail("pthread_create");
}

static _Atomic pid_t waiting[2];

static NAMED void *waiter(void *at)
{
    size_t number = (size_t)at;

    waiting[number] = (pid_t)syscall(SYS_gettid);
    return wait_here(number == 0 ? "first" : "second");
}

/* It says what it has to before the main thread ends, and ends the process later. */
static void *ends_it(void *main_thread)
{
    char path[64], text[512];

    snprintf(path, sizeof path, "/proc/self/task/%d/stat", getpid());
    for (;;) {
        FILE *file = fopen(path, "re");
        size_t length = file == NULL ? 0 : fread(text, 1, sizeof text - 1, file);

        if (file != NULL)
            fclose(file);
        text[length] = '\0';
        if (strstr(text, ") Z ") != NULL)
            break;
        usleep(1000);
    }
    stay();
    return main_thread;
}

static void vfork_here(void)
{
    char byte;

    /* The child shares the memory, and speaks for its parent, which cannot. */
    if (vfork() == 0) {
        say("{'mode':'vfork','pid':%d}", getppid());
        ready();
        while (read(STDIN_FILENO, &byte, 1) == 1)
            ;
        _exit(0);
    }
}

/* The arguments from the second on, and the number of this process behind them. */
static int look_at_own(int argc, char **argv)
{
    pid_t parent = getpid(), child = fork();
    char pid[16], path[32], text[64];
    int status, file;

    if (child != 0) {
        waitpid(child, &status, 0);
        return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
    }
    snprintf(pid, sizeof pid, "%d", parent);
    snprintf(path, sizeof path, "/proc/%d/syscall", parent);
    for (long call = -1; call != SYS_wait4; usleep(1000)) {
        file = open(path, O_RDONLY | O_CLOEXEC);
        text[0] = '\0';
        if (file < 0 || read(file, text, sizeof text) <= 0)
            _exit(126);
        close(file);
        call = text[0] == 'r' ? -1 : atol(text);
    }
    char *words[64];
    if (argc > 64)
        _exit(125);
    memcpy(words, argv + 2, (size_t)(argc - 2) * sizeof *words);
    words[argc - 2] = pid;
    words[argc - 1] = NULL;
    execv(words[0], words);
    _exit(127);
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "";

    if (strcmp(mode, "vfork") == 0) {
        vfork_here();
        return 0;
    }
    if (strcmp(mode, "own") == 0)
        return look_at_own(argc, argv);
    if (strcmp(mode, "execs") == 0) {
        long until = argc > 2 ? atol(argv[2]) : time(NULL) + 60;
        char text[32];

        if (argc <= 2) {
            say("{'mode':'execs','pid':%d}", getpid());
            ready();
        }
        if (time(NULL) >= until)
            return 0;
        snprintf(text, sizeof text, "%ld", until);
        execl("/proc/self/exe", argv[0], mode, text, (char *)NULL);
        fail("execl");
    }
    say("{'mode':'%s','pid':%d}", mode, getpid());
    if (strcmp(mode, "churn") == 0) {
        for (int i = 0; i < 4; i++)
            start(churn, NULL);
        stay();
    }
    if (strcmp(mode, "exited") == 0) {
        for (size_t i = 0; i < 2; i++) {
            start(waiter, (void *)i);
            while (waiting[i] == 0)
                usleep(1000);
            await_call(waiting[i], SYS_pause);
            say("{'tid':%d,'name':'%s'}", waiting[i], i == 0 ? "first" : "second");
        }
        start(ends_it, NULL);
        pthread_exit(NULL);
    }
    fprintf(stderr, "no mode %s\n", mode);
    return 1;
}
