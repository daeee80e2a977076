/* What every target program stands on: stating a truth, and staying until the test is done. */
#ifndef TRUTH_H
#define TRUTH_H

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#define UNUSED __attribute__((unused))

/* A function that keeps a frame and a name of its own at every level of optimisation: it is neither inlined nor
 * cloned, and STAYS() after its call keeps that from becoming a jump. */
#define NAMED __attribute__((noinline, noclone))
#define STAYS() __asm__ volatile("" ::: "memory")

/* Ends this program, which cannot be what it was to be. */
static UNUSED void fail(const char *what)
{
    perror(what);
    exit(1);
}

/* Prints one line of truth. ' in `format` is printed as ", so that JSON can be read here; nothing that is put into it
 * may need escaping. */
static UNUSED __attribute__((format(printf, 1, 2))) void say(const char *format, ...)
{
    char *json = strdup(format);
    va_list values;

    if (json == NULL)
        fail("strdup");
    for (char *c = json; *c != '\0'; c++)
        if (*c == '\'')
            *c = '"';
    /* Threads may speak at the same time. */
    flockfile(stdout);
    va_start(values, format);
    vprintf(json, values);
    va_end(values);
    putchar('\n');
    fflush(stdout);
    funlockfile(stdout);
    free(json);
}

/* `length` bytes as hex digits; from malloc. */
static UNUSED char *hex(const void *bytes, size_t length)
{
    const unsigned char *from = bytes;
    char *digits = malloc(2 * length + 1);

    if (digits == NULL)
        fail("malloc");
    digits[0] = '\0';
    for (size_t i = 0; i < length; i++)
        sprintf(digits + 2 * i, "%02x", from[i]);
    return digits;
}

/* All that was claimed is so. */
static UNUSED void ready(void)
{
    say("'ready'");
}

/* Waits for the next line on standard input; ends the program when it is closed. */
static UNUSED void next_line(void)
{
    char c;

    do
        if (read(STDIN_FILENO, &c, 1) != 1)
            exit(0);
    while (c != '\n');
}

/* Claims to be ready, and stays until standard input is closed. */
static UNUSED void stay(void)
{
    ready();
    for (;;)
        next_line();
}

/* For a child: ends with its parent, and takes no part in what the parent says. A change of IDs voids this. */
static UNUSED void end_with_parent(pid_t parent)
{
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0)
        fail("PR_SET_PDEATHSIG");
    if (getppid() != parent)
        _exit(0);
}

/* Waits until the thread `tid` is in the system call `number`, or takes the program's claim back. */
static UNUSED void await_call(pid_t tid, long number)
{
    char path[64], text[64];

    snprintf(path, sizeof path, "/proc/self/task/%d/syscall", tid);
    for (int turn = 0; turn < 20000; turn++) {
        int file = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t length = file < 0 ? -1 : read(file, text, sizeof text - 1);

        if (file >= 0)
            close(file);
        if (length > 0) {
            text[length] = '\0';
            if (strncmp(text, "running", 7) != 0 && strtol(text, NULL, 10) == number)
                return;
        }
        usleep(1000);
    }
    fprintf(stderr, "thread %d is not in system call %ld but in %s\n", tid, number, text);
    exit(1);
}

#endif
